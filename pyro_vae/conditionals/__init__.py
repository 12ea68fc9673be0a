"""`p(a | b)`: families and likelihoods, networks, and the `Conditional` that joins them."""

import dataclasses

from ..errors import UserError, check_int_at_least, unknown_name_error
from .conditional import Conditional, network_autocast
from .copying import copy_linear_layers
from .families import (
    Family,
    LowRankNormal,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    RelaxedOneHotCategorical,
)
from .flows import Flow
from .likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    GreyBernoulli,
    NegativeBinomial,
    NormalLikelihood,
    Poisson,
)
from .mixtures import MixtureOfNormals
from .networks import MLP, Conv, Network

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "Conditional",
    "ContinuousBernoulli",
    "Conv",
    "DiscretizedLogistic",
    "Family",
    "Flow",
    "GreyBernoulli",
    "LowRankNormal",
    "MLP",
    "MixtureOfNormals",
    "MultivariateNormal",
    "NegativeBinomial",
    "Network",
    "Normal",
    "NormalLikelihood",
    "OneHotCategorical",
    "Poisson",
    "RelaxedOneHotCategorical",
    "copy_linear_layers",
    "likelihood",
    "network_autocast",
]


def likelihood(name: str | Family, levels: int | None = None) -> Family:
    """A likelihood by its name (`"bernoulli"`, `"poisson"`, ...), or the family itself.

    Args:
        levels: grey levels of those that have them (default: 256).
    """
    if isinstance(name, Family):
        return name
    if not isinstance(name, str):
        raise UserError(f"a likelihood is a name or a Family, not {type(name).__name__}")
    if name not in LIKELIHOODS:
        raise unknown_name_error("likelihood", name, LIKELIHOODS)
    family = LIKELIHOODS[name]
    if levels is None:
        return family
    if family.levels is None:
        raise UserError(f"the likelihood {name!r} has no levels to set")
    check_int_at_least(2, levels=levels)
    return dataclasses.replace(family, levels=levels)
