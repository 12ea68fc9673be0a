"""`q`: guides, declared as factorisations."""

from .guide import Guide
from .prior import PriorGuide

__all__ = ["Guide", "PriorGuide"]
