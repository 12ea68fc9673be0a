"""Deep latent-variable models as Pyro model/guide pairs."""

from . import (
    conditionals,
    data,
    diagnostics,
    distributions,
    evaluate,
    generate,
    guides,
    methods,
    models,
    objectives,
    plots,
    train,
)
from .comparison import compare
from .errors import UserError
from .evaluate import check_pair
from .generate import impute, interpolate, sample, traverse
from .methods import Run, fit, load, method

__version__ = "0.2.0"
__all__ = [
    "Run",
    "UserError",
    "check_pair",
    "compare",
    "conditionals",
    "data",
    "diagnostics",
    "distributions",
    "evaluate",
    "fit",
    "generate",
    "guides",
    "impute",
    "interpolate",
    "load",
    "method",
    "methods",
    "models",
    "objectives",
    "plots",
    "sample",
    "train",
    "traverse",
]
