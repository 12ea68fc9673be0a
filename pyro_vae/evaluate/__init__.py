"""Judging a pair, with beta = 1, in eval mode, on data that the caller states."""

from .check import check_pair
from .classification import classifiers, classify, features
from .clustering import baselines, clustering
from .density import aggregate_posterior, ex_post
from .latents import (
    active_units,
    encode,
    entropy,
    mutual_information,
    occupancy,
    posterior,
    reconstruct,
    responsibilities,
)
from .likelihood import elbo, elbo_terms, is_proper, log_likelihood
from .quality import frechet, two_sample

__all__ = [
    "active_units",
    "aggregate_posterior",
    "baselines",
    "check_pair",
    "classifiers",
    "classify",
    "clustering",
    "elbo",
    "elbo_terms",
    "encode",
    "entropy",
    "ex_post",
    "features",
    "frechet",
    "is_proper",
    "log_likelihood",
    "mutual_information",
    "occupancy",
    "posterior",
    "reconstruct",
    "responsibilities",
    "two_sample",
]
