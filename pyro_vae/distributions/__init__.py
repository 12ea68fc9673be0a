"""Probability distributions that torch and Pyro lack."""

from .continuous_bernoulli import ContinuousBernoulli
from .counts import NegativeBinomial, Poisson
from .flows import FlowDistribution, affine_flow
from .grey_bernoulli import GreyBernoulli
from .grey_levels import (
    BinomialProportion,
    CategoricalLevels,
    DiscretizedLogistic,
    GreyLevels,
)
from .missing import IgnoreMissing, ValueOrNaN
from .normal_mixture import NormalMixture, StratifiedComponent
from .one_hot import GumbelSoftmax, LinearOneHotCategorical

__all__ = [
    "BinomialProportion",
    "CategoricalLevels",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "FlowDistribution",
    "GreyBernoulli",
    "GreyLevels",
    "GumbelSoftmax",
    "IgnoreMissing",
    "LinearOneHotCategorical",
    "NegativeBinomial",
    "NormalMixture",
    "Poisson",
    "StratifiedComponent",
    "ValueOrNaN",
    "affine_flow",
]
