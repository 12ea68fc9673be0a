"""`p(a | b)`: families and likelihoods, networks, and the `Conditional` that joins them."""

from ..errors import UserError, unknown
from .conditional import Conditional
from .families import (
    LIKELIHOODS,
    Bernoulli,
    Binomial,
    ContinuousBernoulli,
    Family,
    GreyBernoulli,
    MultivariateNormal,
    Normal,
    NormalLikelihood,
    OneHotCategorical,
    RelaxedOneHotCategorical,
)
from .networks import MLP, Conv

__all__ = [
    "Bernoulli",
    "Binomial",
    "Conditional",
    "ContinuousBernoulli",
    "Conv",
    "Family",
    "GreyBernoulli",
    "MLP",
    "MultivariateNormal",
    "Normal",
    "NormalLikelihood",
    "OneHotCategorical",
    "RelaxedOneHotCategorical",
    "likelihood",
]


def likelihood(name):
    """A likelihood by its name (`"bernoulli"`, `"binomial"`, ...), or the family itself."""
    if isinstance(name, Family):
        return name
    if not isinstance(name, str):
        raise UserError(f"a likelihood is a name or a Family, not {type(name).__name__}")
    if name not in LIKELIHOODS:
        raise unknown("likelihood", name, LIKELIHOODS)
    return LIKELIHOODS[name]
