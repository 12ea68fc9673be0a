"""Deep latent-variable models as Pyro model/guide pairs."""

from typing import TYPE_CHECKING

from ._lazy import lazy_attributes
from .errors import UserError

if TYPE_CHECKING:
    from . import (
        conditionals,
        data,
        diagnostics,
        distributions,
        estimators,
        evaluate,
        exploration,
        generate,
        guides,
        methods,
        models,
        objectives,
        plots,
        programs,
        train,
    )
    from .comparison import compare
    from .evaluate import check_pair
    from .generate import interpolate, sample, traverse
    from .generate.impute import impute
    from .methods import Run, explore, fit, load, method

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
    "estimators",
    "evaluate",
    "exploration",
    "explore",
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
    "programs",
    "sample",
    "train",
    "traverse",
]
__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "comparison": ["compare"],
        "conditionals": [],
        "data": [],
        "diagnostics": [],
        "distributions": [],
        "estimators": [],
        "evaluate": ["check_pair"],
        "exploration": [],
        "generate": ["impute", "interpolate", "sample", "traverse"],
        "guides": [],
        "methods": ["Run", "explore", "fit", "load", "method"],
        "models": [],
        "objectives": [],
        "plots": [],
        "programs": [],
        "train": [],
    },
)
