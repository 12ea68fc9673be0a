"""Generation: what a trained pair makes up, from which source, along which path, given which part."""

from .complete import complete
from .density import fitted_mixture
from .paths import interpolate, traverse
from .samples import AggregatePosterior, sample

__all__ = ["AggregatePosterior", "complete", "fitted_mixture", "interpolate", "sample", "traverse"]
