"""Any Pyro pair, this library's or a user's: how it is run, and what one run of it says."""

from .layout import Layout, few_rows, forget_layout, layout_of
from .run import trace_pair, trace_program

__all__ = [
    "Layout",
    "few_rows",
    "forget_layout",
    "layout_of",
    "trace_pair",
    "trace_program",
]
