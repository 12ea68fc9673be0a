"""Probability distributions that torch and Pyro lack."""

from .continuous_bernoulli import ContinuousBernoulli
from .counts import NegativeBinomial, Poisson
from .flows import FlowDistribution, affine_flow
from .gray_bernoulli import GrayBernoulli
from .gray_levels import (
    BinomialProportion,
    CategoricalLevels,
    DiscretizedLogistic,
    GrayLevels,
)
from .normal_mixture import NormalMixture, StratifiedComponent
from .one_hot import GumbelSoftmax, LinearOneHotCategorical

__all__ = [
    "BinomialProportion",
    "CategoricalLevels",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "FlowDistribution",
    "GrayBernoulli",
    "GrayLevels",
    "GumbelSoftmax",
    "LinearOneHotCategorical",
    "NegativeBinomial",
    "NormalMixture",
    "Poisson",
    "StratifiedComponent",
    "affine_flow",
]
