"""What is maximised in training."""

from .elbo import ELBO
from .semi_supervised import SemiSupervised

__all__ = ["ELBO", "SemiSupervised"]
