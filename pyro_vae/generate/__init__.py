"""Generation: samples from several sources, paths through the latents, and imputation."""

from .export import export_decoder, export_encoder
from .impute import impute
from .paths import interpolate, predict_mean, style_transfer_grid, traverse
from .samples import AggregatePosterior, sample

__all__ = [
    "AggregatePosterior",
    "export_decoder",
    "export_encoder",
    "impute",
    "interpolate",
    "predict_mean",
    "sample",
    "style_transfer_grid",
    "traverse",
]
