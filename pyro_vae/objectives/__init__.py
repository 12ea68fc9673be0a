"""What is maximized in training."""

from .elbo import ELBO
from .hybrid import Hybrid
from .pathwise import STL, DReG
from .semi_supervised import SemiSupervised
from .wake_sleep import RWS
from .weighted import IWAE, Renyi

__all__ = ["ELBO", "IWAE", "RWS", "STL", "DReG", "Hybrid", "Renyi", "SemiSupervised"]
