"""`q`: guides, declared as factorisations; the prior itself; gradient steps; Pyro's AutoGuides."""

from .auto import Auto
from .guide import Guide
from .prior import PriorGuide
from .semi_amortised import SemiAmortised

__all__ = ["Auto", "Guide", "PriorGuide", "SemiAmortised"]
