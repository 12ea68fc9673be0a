"""`p(a | b)`: families and likelihoods, networks, and the `Conditional` that joins them."""

from .columns import Columns, OneHotLikelihood
from .conditional import Conditional, network_autocast
from .copying import copy_linear_layers
from .families import (
    ConstantCorrelationNormal,
    Family,
    LowRankNormal,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    RelaxedOneHotCategorical,
)
from .flows import Flow
from .library_size import LibrarySize, LogNormalize
from .likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    GrayBernoulli,
    NegativeBinomial,
    NormalLikelihood,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
    likelihood,
)
from .missing import IgnoreMissing
from .mixtures import MixtureOfNormals
from .networks import MLP, Conv, Network, ResidualMLP

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "Columns",
    "Conditional",
    "ConstantCorrelationNormal",
    "ContinuousBernoulli",
    "Conv",
    "DiscretizedLogistic",
    "Family",
    "Flow",
    "GrayBernoulli",
    "IgnoreMissing",
    "LibrarySize",
    "LogNormalize",
    "LowRankNormal",
    "MLP",
    "MixtureOfNormals",
    "MultivariateNormal",
    "NegativeBinomial",
    "Network",
    "Normal",
    "NormalLikelihood",
    "OneHotCategorical",
    "OneHotLikelihood",
    "Poisson",
    "RelaxedOneHotCategorical",
    "ResidualMLP",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "copy_linear_layers",
    "likelihood",
    "network_autocast",
]
