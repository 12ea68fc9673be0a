"""Pyro's objectives without a look at values: what a recording, or a CUDA graph, can hold.

Pyro 1.9.2 looks at values on the host in three places: for warnings of NaN, to mask zero
probabilities in DiCE, and to take the loss as a number in `Trace_ELBO`. The same is computed here
without. `tests/test_recorded.py` compares with Pyro's own, program by program.
"""

import math
from contextlib import contextmanager

import pyro.util
import torch
from opt_einsum import shared_intermediates
from pyro.infer import trace_elbo, trace_mean_field_elbo
from pyro.infer.util import Dice, _fulldot
from pyro.ops import packed
from pyro.ops.einsum.adjoint import require_backward
from pyro.ops.rings import MarginalRing


@contextmanager
def sync_free_pyro():
    """Within, Pyro's objectives do not look at values: they compute the same without."""
    changed = [
        (Dice, "compute_expectation", _expectation),
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


def _detached(value):
    return value.detach() if isinstance(value, torch.Tensor) else value


def _expectation(self, costs):
    """`Dice.compute_expectation` of pyro 1.9.2, with the masking made static: the same value.

    There, `if not mask.all(): prob, cost = prob[mask], cost[mask]`, mask being `prob > 0`.
    """
    with shared_intermediates() as cache:
        ring = MarginalRing(cache=cache)
        expected = 0.0
        for ordinal, terms in costs.items():
            factors = self._get_log_factors(ordinal)
            scale = math.exp(sum(f for f in factors if not isinstance(f, torch.Tensor)))
            factors = [f for f in factors if isinstance(f, torch.Tensor)]
            queries = {frozenset(cost._pyro_dims): None for cost in terms}
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
                expected = expected + scale * _fulldot(prob, cost)
    return expected
