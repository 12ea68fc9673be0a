"""Models, guides, objectives and seeds side by side: one table, one figure."""

from .cells import judge
from .compare import compare
from .table import Comparison

__all__ = ["Comparison", "compare", "judge"]
