"""Probability distributions that torch and Pyro lack."""

from .columns import ColumnBlocks, Columns
from .continuous_bernoulli import ContinuousBernoulli
from .counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from .flows import FlowDistribution, affine_flow
from .gray_bernoulli import GrayBernoulli
from .gray_levels import (
    BinomialProportion,
    CategoricalLevels,
    DiscretizedLogistic,
    GrayLevels,
)
from .library_size import CountsOfRow
from .missing import IgnoreMissing, ValueOrNaN
from .modified_cholesky import ModifiedCholeskyNormal
from .normal_mixture import NormalMixture, StratifiedComponent
from .one_hot import GumbelSoftmax, LinearOneHotCategorical, OneHotData

__all__ = [
    "BinomialProportion",
    "CategoricalLevels",
    "ColumnBlocks",
    "Columns",
    "ContinuousBernoulli",
    "CountsOfRow",
    "DiscretizedLogistic",
    "FlowDistribution",
    "GrayBernoulli",
    "GrayLevels",
    "GumbelSoftmax",
    "IgnoreMissing",
    "LinearOneHotCategorical",
    "ModifiedCholeskyNormal",
    "NegativeBinomial",
    "NormalMixture",
    "OneHotData",
    "Poisson",
    "StratifiedComponent",
    "ValueOrNaN",
    "ZeroInflatedNegativeBinomial",
    "affine_flow",
]
