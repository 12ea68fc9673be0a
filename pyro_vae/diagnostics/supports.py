"""The supports of a model's latents: one for all draws, with bounds that may differ between data points."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pyro.distributions as dist
import torch
from torch.distributions import Transform, biject_to, constraints

from .._torch_internals import MixtureSameFamilyConstraint
from ..errors import UserError
from ..programs.sites import base_constraint, base_distribution, states_support

Constraint = constraints.Constraint

BOUNDS = ("lower_bound", "upper_bound")  # of a constraint, in the order of its constructor
ANGLES = (torch.distributions.VonMises, dist.SineBivariateVonMises)  # with a period of one turn


def _support_of(fn: Any) -> Constraint:
    """The support of a distribution; of an angle one turn, though torch states all reals."""
    kind = base_distribution(fn, transforms=False)
    while hasattr(kind, "component_distribution"):
        kind = base_distribution(kind.component_distribution, transforms=False)
    return _one_turn(fn.support) if isinstance(kind, ANGLES) else fn.support


def _one_turn(support: Constraint) -> Constraint:
    if isinstance(support, constraints.independent):
        base = _one_turn(support.base_constraint)
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    if isinstance(support, MixtureSameFamilyConstraint):
        return MixtureSameFamilyConstraint(_one_turn(support.base_constraint))
    return constraints.interval(-math.pi, math.pi)


def has_tensor_bounds(fn: Any) -> bool:
    """Whether the bounds of a distribution's support are tensors, which another latent may change."""
    return states_support(fn) and any(map(torch.is_tensor, bounds_of(_support_of(fn))))


def bounds_of(support: Constraint) -> list[Any]:
    """The lower and the upper bound of the numbers of a support, those that it has."""
    support = base_constraint(support)
    return [getattr(support, name) for name in BOUNDS if hasattr(support, name)]


def common_support(name: str, distributions: Iterable[Any]) -> Constraint:
    """The support of a latent, which is the same in all of these distributions.

    A bound becomes `[*event]`, or `[B, *event]` if it differs between data points. A distribution
    that states no support is taken to be real.

    Args:
        name: of the latent.
        distributions: of the latent in several runs of the model, `[..., B]` or without the rows.

    Raises:
        UserError: the bounds depend on another latent, or on the component of a mixture.
    """
    supports = [_simplified(name, fn) for fn in distributions]
    if not have_equal_bounds(supports):
        raise _varying_support_error(name)
    return supports[0]


def have_equal_bounds(supports: Iterable[Constraint]) -> bool:
    """Whether supports of one latent have the same bounds."""
    first, *others = ([torch.as_tensor(b) for b in bounds_of(s)] for s in supports)
    return all(len(b) == len(first) and all(map(torch.equal, first, b)) for b in others)


def differs_between_rows(support: Constraint) -> bool:
    """Whether a `common_support` has other bounds for other data points."""
    return any(torch.as_tensor(b).dim() > support.event_dim for b in bounds_of(support))


def transform_onto(name: str, support: Constraint) -> Transform:
    """The map from the reals onto the support of a latent.

    Raises:
        UserError: there is none.
    """
    try:
        return biject_to(support)
    except NotImplementedError:
        raise UserError(
            f"{name!r} is neither continuous nor can it be summed: its support is {support}"
        ) from None


def _simplified(name: str, fn: Any) -> Constraint:
    event_dim = len(fn.event_shape)

    def simplify(bound: torch.Tensor) -> torch.Tensor:
        if bound.dim() > event_dim + 1:  # enumerated values, draws
            bound = _only_slice(name, bound.flatten(0, -event_dim - 2), 0)
        if bound.dim() > event_dim and (bound == bound[:1]).all():
            bound = bound[0]
        return bound

    support = _support_of(fn) if states_support(fn) else constraints.real
    return _map_bounds(_without_components(name, support), simplify)


def _without_components(name: str, support: Constraint) -> Constraint:
    """The support of a mixture is that of its components."""
    if isinstance(support, constraints.independent):
        base = _without_components(name, support.base_constraint)
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    if isinstance(support, MixtureSameFamilyConstraint):
        support = support.base_constraint
        dim = -1 - support.event_dim
        return _map_bounds(support, lambda b: _only_slice(name, b, dim) if b.dim() >= -dim else b)
    return support


def _map_bounds(support: Constraint, function: Callable) -> Constraint:
    """The support with `function` of each bound that is a tensor."""
    if isinstance(support, constraints.independent):
        base = _map_bounds(support.base_constraint, function)
        return constraints.independent(base, support.reinterpreted_batch_ndims)
    bounds = bounds_of(support)
    if not any(map(torch.is_tensor, bounds)):
        return support
    return type(support)(*(function(b) if torch.is_tensor(b) else b for b in bounds))


def _only_slice(name: str, bound: torch.Tensor, dim: int) -> torch.Tensor:
    """The slice of a bound along a dimension, along which it does not change."""
    first = bound.select(dim, 0)
    if (bound != first.unsqueeze(dim)).any():
        raise _varying_support_error(name)
    return first


def _varying_support_error(name: str) -> UserError:
    return UserError(
        f"the bounds of {name!r} depend on another latent, or on the component of a mixture: there "
        "is no one map from the reals onto its support"
    )
