"""Judging a pair, with beta = 1, in eval mode, on data that the caller states."""

from .ais import ais, bdmc
from .calibration import calibration
from .check import check_pair
from .classification import classifiers, classify, features
from .clustering import baselines, clustering
from .density import aggregate_posterior, ex_post
from .gaps import inference_gaps
from .grid import posterior_grid
from .inputs import is_proper
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
from .likelihood import elbo, elbo_terms, log_likelihood
from .nuts import nuts
from .quality import frechet, two_sample
from .surgery import elbo_surgery
from .weights import diagnostics, importance_weights

__all__ = [
    "active_units",
    "aggregate_posterior",
    "ais",
    "baselines",
    "bdmc",
    "calibration",
    "check_pair",
    "classifiers",
    "classify",
    "clustering",
    "diagnostics",
    "elbo",
    "elbo_surgery",
    "elbo_terms",
    "encode",
    "entropy",
    "ex_post",
    "features",
    "frechet",
    "importance_weights",
    "inference_gaps",
    "is_proper",
    "log_likelihood",
    "mutual_information",
    "nuts",
    "occupancy",
    "posterior",
    "posterior_grid",
    "reconstruct",
    "responsibilities",
    "two_sample",
]
