"""`q`: guides, declared as factorizations; the prior itself; gradient steps; Pyro's AutoGuides."""

from .guide import Guide
from .per_datum_auto import PerDatumAutoGuide
from .prior import PriorGuide
from .semi_amortized import SemiAmortized

__all__ = ["Guide", "PerDatumAutoGuide", "PriorGuide", "SemiAmortized"]
