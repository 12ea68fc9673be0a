"""Models, guides, objectives and seeds side by side: one table, one figure."""

from .compare import compare
from .runs import compare_runs
from .table import Comparison

__all__ = ["Comparison", "compare", "compare_runs"]
