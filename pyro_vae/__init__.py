"""Deep latent-variable models as Pyro model/guide pairs: train, swap and judge them."""

from . import conditionals, data, evaluate, generate, guides, models, objectives, plots, train
from .comparison import compare
from .errors import UserError
from .evaluate import check_pair
from .generate import complete, interpolate, sample, traverse
from .train import fit

__version__ = "0.1.0"
__all__ = [
    "UserError",
    "check_pair",
    "compare",
    "complete",
    "conditionals",
    "data",
    "evaluate",
    "fit",
    "generate",
    "guides",
    "interpolate",
    "models",
    "objectives",
    "plots",
    "sample",
    "train",
    "traverse",
]
