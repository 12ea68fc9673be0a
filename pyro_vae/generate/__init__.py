"""Generation: samples from several sources, paths through the latents, and imputation."""

from .impute import impute
from .paths import interpolate, predict_mean, style_transfer_grid, traverse
from .samples import AggregatePosterior, sample

__all__ = [
    "AggregatePosterior",
    "impute",
    "interpolate",
    "predict_mean",
    "sample",
    "style_transfer_grid",
    "traverse",
]
