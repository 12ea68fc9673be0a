"""What is maximised in training."""

from .elbo import ELBO
from .hybrid import Hybrid

__all__ = ["ELBO", "Hybrid"]
