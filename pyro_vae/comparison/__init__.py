"""Models, guides, objectives and seeds side by side: one table, one figure."""

# The package is not named `compare`: `pv.compare` is the function, and it would hide a package of
# that name (`import pyro_vae.compare.table as t` would then fail).
from .api import compare
from .runs import compare_runs
from .table import Comparison

__all__ = ["Comparison", "compare", "compare_runs"]
