"""What is maximized in training."""

from .elbo import ELBO
from .hybrid import Hybrid
from .objective import Objective, as_objective
from .pathwise import STL, DReG
from .semi_supervised import SemiSupervised
from .wake_sleep import RWS
from .weighted import IWAE, Renyi

__all__ = [
    "ELBO",
    "IWAE",
    "RWS",
    "STL",
    "DReG",
    "Hybrid",
    "Objective",
    "Renyi",
    "SemiSupervised",
    "as_objective",
]
