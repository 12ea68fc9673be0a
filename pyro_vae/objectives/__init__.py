"""What is maximised in training."""

from .elbo import ELBO
from .hybrid import Hybrid
from .semi_supervised import SemiSupervised

__all__ = ["ELBO", "Hybrid", "SemiSupervised"]
