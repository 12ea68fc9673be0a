"""Judging a pair, with beta = 1, in eval mode, on data that the caller states."""

from .check import check_pair
from .classification import classifiers, classify, features
from .clustering import baselines, clustering
from .latents import (
    active_units,
    encode,
    entropy,
    mutual_information,
    occupancy,
    reconstruct,
    responsibilities,
)
from .likelihood import elbo, elbo_terms, is_proper, log_likelihood
from .samples import analogies, sample

__all__ = [
    "active_units",
    "analogies",
    "baselines",
    "check_pair",
    "classifiers",
    "classify",
    "clustering",
    "elbo",
    "elbo_terms",
    "encode",
    "entropy",
    "features",
    "is_proper",
    "log_likelihood",
    "mutual_information",
    "occupancy",
    "reconstruct",
    "responsibilities",
    "sample",
]
