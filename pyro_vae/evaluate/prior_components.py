"""The components of a latent's prior that is a mixture: which of them the data are in."""

from typing import Any

import torch
from torch.distributions import MixtureSameFamily

from ..distributions import NormalMixture
from ..programs import trace_pair
from ..programs.sites import is_latent
from .chunked import evaluate_in_chunks
from .inputs import Array, Batch, PyroProgram, pair_inputs


def prior_responsibilities(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    seed: int | None = 0,
    **others: Array | None,
) -> dict[str, torch.Tensor]:
    r"""Probabilities of the components of each latent whose prior is a mixture, given x.

    .. math:: p(k \mid z) \propto \pi_k\, p_k(z), \quad z \sim q(z \mid x)

    Such a prior (`MixturePrior`, `VampPrior`, or torch's `MixtureSameFamily` in a user-defined
    model) sums its component in the density. So the pair has no discrete latent, and
    `responsibilities` has no value for it.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, as observed, in the units in which the pair was trained.
        seed: of the draws of z, one per data point. None uses torch's random stream.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `{latent: [N, K]}`; rows sum to 1.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from pyro_vae.evaluate.prior_components import prior_responsibilities
        >>> model = pv.models.VAE((6,), 2, prior=pv.models.MixturePrior(2, num_components=3))
        >>> guide = pv.guides.Guide(model)
        >>> prior_responsibilities(model, guide, torch.ones(4, 6))["z"].shape
        torch.Size([4, 3])
    """
    batch = pair_inputs(model, x, others, guide)

    def probabilities(chunk: Batch, _: int) -> Batch:
        traces = trace_pair(model, guide, chunk)
        result = {}
        for name, site in traces.model.items():
            if not is_latent(site) or "runs" in site:
                continue
            log_p = _component_log_probs(site["fn"], site["value"])
            if log_p is not None:
                p, shape = log_p.softmax(-1), tuple(log_p.shape[-1:])
                result[name] = traces.expectation(p, shape).expand(traces.size, *shape)
        return result

    return evaluate_in_chunks(probabilities, model, guide, batch, seed=seed)


def _component_log_probs(fn: Any, value: torch.Tensor) -> torch.Tensor | None:
    """`[..., K]`: the log of each component's weight times its density; None if fn is no mixture."""
    if isinstance(fn, NormalMixture):
        return fn.log_weights + fn.component_log_probs(value)
    if isinstance(fn, MixtureSameFamily):
        each = value.unsqueeze(-1 - len(fn.event_shape))
        return fn.mixture_distribution.logits + fn.component_distribution.log_prob(each)
    return None
