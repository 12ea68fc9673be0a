"""Every private or undocumented name of Pyro that the library uses, each with its reason.

Tested with Pyro 1.9.2; `tests/test_internals.py` pins each name. Methods that a `Messenger` or a
distribution is meant to override (`_pyro_sample`, `_validate_sample`, `_get_checked_instance`) are not
listed: they are how one is written.
"""

import math
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.util
import torch
from opt_einsum import shared_intermediates
from pyro.distributions import MaskedDistribution
from pyro.distributions import util as distribution_util
from pyro.infer import trace_elbo, trace_mean_field_elbo
from pyro.infer import util as infer_util
from pyro.infer.autoguide import AutoGuide
from pyro.ops import packed
from pyro.ops.einsum.adjoint import require_backward
from pyro.ops.rings import MarginalRing
from pyro.poutine import Trace, messenger, runtime, subsample_messenger
from pyro.poutine import util as poutine_util
from pyro.poutine.trace_messenger import TraceMessenger

# The plate of particles of Pyro's own ELBOs has this name: a site in it is in no other data plate.
PARTICLES = "num_particles_vectorized"

# `EnumMessenger` writes into a site's `infer` the dimension in which its values are enumerated.
ENUMERATE_DIM = "_enumerate_dim"

# `pyro.markov` writes into a site's `infer` which sites are in scope; without it none is left out.
MARKOV_SCOPE = "_markov_scope"

# `pyro.deterministic` writes this into a site's `infer`: the site is neither data nor a latent.
DETERMINISTIC = "_deterministic"

# A function with a handler applied is a partial of this class, which hides the function's signature.
BoundPartial = messenger._bound_partial

# The distribution at the site that draws a plate's subsample: the site is neither data nor a latent.
SubsampleDistribution = subsample_messenger._Subsample

# Removes these sites from a trace, as Pyro's ELBOs do.
prune_subsample_sites = poutine_util.prune_subsample_sites

# Scales and masks a log-prob, as at a site: a term beside the site's has to agree with it.
scale_and_mask = distribution_util.scale_and_mask

# Sums a transform's log-determinant over the dimensions of an event.
sum_rightmost = distribution_util.sum_rightmost


def svi_is_collecting() -> bool:
    """Whether `SVI.step` is looking for parameters: it traces param sites alone, and says so nowhere else."""
    stack = runtime._PYRO_STACK
    return any(isinstance(m, TraceMessenger) and m.param_only for m in stack)


@contextmanager
def isolated_pyro_runtime() -> Iterator[None]:
    """Run another pair in the midst of a program, hidden from the handlers of that program.

    `poutine.block` is not enough: plates and enumeration dimensions are allocated globally.
    """
    handlers, runtime._PYRO_STACK[:] = list(runtime._PYRO_STACK), []
    plates, runtime._DIM_ALLOCATOR._stack = runtime._DIM_ALLOCATOR._stack, []
    enumeration = dict(vars(runtime._ENUM_ALLOCATOR))
    try:
        yield
    finally:
        runtime._PYRO_STACK[:] = handlers
        runtime._DIM_ALLOCATOR._stack = plates
        vars(runtime._ENUM_ALLOCATOR).update(enumeration)


def stored_parameters() -> MutableMapping[str, torch.Tensor]:
    """The unconstrained tensors in Pyro's parameter store: the store itself shows constrained ones."""
    return pyro.get_param_store()._params


def set_up(auto: AutoGuide, **batch: torch.Tensor) -> None:
    """Make an AutoGuide's parameters now: Pyro makes them on the first call."""
    auto._setup_prototype(**batch)


def prototype_of(auto: AutoGuide) -> Trace | None:
    """The trace of the model that an AutoGuide was set up by; None before its first call."""
    return auto.prototype_trace


def mask_of(distribution: MaskedDistribution) -> bool | torch.Tensor:
    """The mask of a masked distribution: values under it need no support check."""
    return distribution._mask


@contextmanager
def pyro_without_host_sync() -> Iterator[None]:
    """Within, Pyro's objectives do not look at values: they compute the same without.

    A recording or a CUDA graph cannot hold a look at a value on the host. Pyro does so in three
    places: for warnings of NaN, to mask zero probabilities in `Dice`, and to take the loss as a number
    in `Trace_ELBO`. `tests/test_recorded.py` compares with Pyro's own, program by program.
    """
    changed = [
        (infer_util.Dice, "compute_expectation", _expectation),
        (pyro.util, "torch_isnan", lambda value: False),
        (pyro.util, "torch_isinf", lambda value: False),
        (trace_elbo, "torch_item", _detached),
        (trace_mean_field_elbo, "torch_item", _detached),
    ]
    before = [getattr(place, name) for place, name, _ in changed]
    for place, name, value in changed:
        setattr(place, name, value)
    try:
        yield
    finally:
        for (place, name, _), value in zip(changed, before, strict=True):
            setattr(place, name, value)


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value


def _expectation(self: Any, costs: Mapping[frozenset, list[Any]]) -> Any:
    """`Dice.compute_expectation` of Pyro 1.9.2, with the masking made static: the same value.

    There, `if not mask.all(): prob, cost = prob[mask], cost[mask]`, where mask is `prob > 0`. Tensors
    carry their named dimensions as `_pyro_dims`. `_pyro_backward` and `_pyro_backward_result` are the
    adjoint pass of Pyro's einsum.
    """
    with shared_intermediates() as cache:
        ring = MarginalRing(cache=cache)
        expected: Any = 0.0
        for ordinal, terms in costs.items():
            factors = self._get_log_factors(ordinal)
            scale = math.exp(sum(f for f in factors if not isinstance(f, torch.Tensor)))
            factors = [f for f in factors if isinstance(f, torch.Tensor)]
            queries: dict[frozenset, Any] = {frozenset(cost._pyro_dims): None for cost in terms}
            for factor in factors:
                key = frozenset(factor._pyro_dims)
                if queries.get(key, False) is None:
                    queries[key] = factor
            for cost in terms:
                key = frozenset(cost._pyro_dims)
                if queries[key] is None:
                    queries[key] = torch.zeros_like(cost)
                    queries[key]._pyro_dims = cost._pyro_dims
                    factors.append(queries[key])
            sum_dims = set().union(*(f._pyro_dims for f in factors)) - ordinal
            for query in queries.values():
                require_backward(query)
            ring.sumproduct(factors, sum_dims)._pyro_backward()
            # one exp for all terms, as there: gradients are then added, and round, alike
            probs = {key: query._pyro_backward_result.exp() for key, query in queries.items()}
            for cost in terms:
                key = frozenset(cost._pyro_dims)
                prob = probs[key]
                prob._pyro_dims = queries[key]._pyro_dims
                cost, prob = packed.broadcast_all(cost, prob)
                zero, mask = prob.new_zeros(()), prob > 0
                cost, prob = torch.where(mask, cost, zero), torch.where(mask, prob, zero)
                expected = expected + scale * infer_util._fulldot(prob, cost)
    return expected
