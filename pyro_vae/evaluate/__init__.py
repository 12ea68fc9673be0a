"""Judging a pair, with beta = 1, in eval mode, on data that the caller states."""

from .check import check_pair
from .clustering import baselines, clustering
from .latents import active_units, encode, occupancy, reconstruct, responsibilities
from .likelihood import elbo, elbo_terms, is_proper, log_likelihood
from .samples import predict, sample

__all__ = [
    "active_units",
    "baselines",
    "check_pair",
    "clustering",
    "elbo",
    "elbo_terms",
    "encode",
    "is_proper",
    "log_likelihood",
    "occupancy",
    "predict",
    "reconstruct",
    "responsibilities",
    "sample",
]
