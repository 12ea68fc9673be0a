"""Judging a pair, with beta = 1, in eval mode, on data that the caller states."""

from .check import check_pair
from .clustering import baselines, clustering
from .latents import active_units, encode, occupancy, posterior, reconstruct, responsibilities
from .likelihood import elbo, elbo_terms, is_proper, log_likelihood
from .quality import frechet, two_sample

__all__ = [
    "active_units",
    "baselines",
    "check_pair",
    "clustering",
    "elbo",
    "elbo_terms",
    "encode",
    "frechet",
    "is_proper",
    "log_likelihood",
    "occupancy",
    "posterior",
    "reconstruct",
    "responsibilities",
    "two_sample",
]
