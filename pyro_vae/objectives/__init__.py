"""What is maximised in training."""

from .elbo import ELBO

__all__ = ["ELBO"]
