"""`q`: guides, declared as factorizations; the prior itself; gradient steps; Pyro's AutoGuides."""

from .base import BaseGuide
from .guide import Guide
from .per_datum_auto import PerDatumAutoGuide
from .prior import PriorGuide
from .semi_amortized import SemiAmortized

__all__ = ["BaseGuide", "Guide", "PerDatumAutoGuide", "PriorGuide", "SemiAmortized"]
