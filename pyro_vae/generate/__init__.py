"""Generation: what a trained pair makes up, from which source, along which path, given which part."""

from .complete import complete
from .paths import analogies, interpolate, predict, traverse
from .samples import AggregatePosterior, sample

__all__ = [
    "AggregatePosterior",
    "analogies",
    "complete",
    "interpolate",
    "predict",
    "sample",
    "traverse",
]
