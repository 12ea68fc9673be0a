"""Deep latent-variable models as Pyro model/guide pairs: train, swap and judge them."""

from . import conditionals, data, evaluate, guides, models, objectives, plots, train
from .errors import UserError
from .evaluate import check_pair, sample
from .train import fit

__version__ = "0.1.0"
__all__ = [
    "UserError",
    "check_pair",
    "conditionals",
    "data",
    "evaluate",
    "fit",
    "guides",
    "models",
    "objectives",
    "plots",
    "sample",
    "train",
]
