"""Judging a pair, with beta = 1, in eval mode, on data that the caller states."""

from .check import check_pair
from .clustering import baselines, clustering
from .density import aggregate_posterior, ex_post
from .latents import active_units, encode, occupancy, reconstruct, responsibilities
from .likelihood import elbo, elbo_terms, is_proper, log_likelihood
from .samples import sample

__all__ = [
    "active_units",
    "aggregate_posterior",
    "baselines",
    "check_pair",
    "clustering",
    "elbo",
    "elbo_terms",
    "encode",
    "ex_post",
    "is_proper",
    "log_likelihood",
    "occupancy",
    "reconstruct",
    "responsibilities",
    "sample",
]
