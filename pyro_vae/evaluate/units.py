"""The units of a latent: how many nats each carries, and how far it moves with the data."""

from contextlib import suppress

import torch
from torch.distributions import Independent

from ..errors import check_int_at_least
from ..programs import trace_pair
from ..programs.traces import Traces
from .chunked import evaluate_in_chunks
from .inputs import Array, Batch, PyroProgram, scored_inputs
from .latents import encode, variance_over_data


@torch.no_grad()
def unit_kl(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    num_samples: int = 10,
    seed: int | None = 0,
    **others: Array | None,
) -> dict[str, torch.Tensor]:
    r"""The KL of each unit of the latents, in nats per data point; the units' sum is the latent's KL.

    .. math:: E_x E_q [\log q(u \mid x) - \log p(u)]

    Only latents whose guide and prior are both independent over the units have it. Others, of a
    flow or of a full covariance, are left out. A KL given the draws of its parents is in closed form
    where torch knows one, as of two normals, and where the prior depends on no latent that the model
    sums or the guide samples later.

    Args:
        x: `[N, ...]`, as observed.
        num_samples: Monte Carlo samples per data point, of the parents and of a KL without a closed
            form.
        seed: of the samples.
        others: further inputs of the pair by name, `[N, ...]`.

    Returns:
        `{latent: [D]}`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), 2, network=pv.conditionals.MLP((8,)))
        >>> guide = pv.guides.Guide(model, network=pv.conditionals.MLP((8,)))
        >>> pv.evaluate.unit_kl(model, guide, torch.ones(5, 6))["z"].shape
        torch.Size([2])
    """
    check_int_at_least(1, num_samples=num_samples)
    batch = scored_inputs(model, x, others, guide, proper=False)

    def kls(chunk: Batch, _: int) -> Batch:
        traces = trace_pair(model, guide, chunk, num_samples)
        result = {}
        for name, kl in _kls(traces).items():
            shape = kl.shape[-1:]
            expected = traces.expectation(kl, shape).expand(num_samples, traces.size, *shape)
            result[name] = expected.mean(0)
        return result

    result = evaluate_in_chunks(kls, model, guide, batch, seed=seed, num_particles=num_samples)
    return {name: kl.mean(0) for name, kl in result.items()}


@torch.no_grad()
def unit_activity(
    model: PyroProgram, guide: PyroProgram, x: Array, **others: Array | None
) -> dict[str, torch.Tensor]:
    """The variance over the data of each unit's posterior mean; `active_units` counts the large ones.

    Args:
        x: `[N, ...]`, as observed.
        others: further inputs of the pair by name, `[N, ...]`.

    Returns:
        `{latent: [D]}`.

    References:
        Burda et al. 2016, arXiv 1509.00519.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), 2, network=pv.conditionals.MLP((8,)))
        >>> guide = pv.guides.Guide(model, given={"z": []})  # constants: nothing moves
        >>> pv.evaluate.unit_activity(model, guide, torch.rand(5, 6).round())["z"]
        tensor([0., 0.])
    """
    codes = encode(model, guide, x, **others)
    return {name: variance_over_data(v) for name, v in codes.items()}


def _kls(traces: Traces) -> dict[str, torch.Tensor]:
    """`{latent: KL of each unit, or log q - log p of its draw}`, `[enum..., (S,) B, D]`."""
    kls = {}
    for name, site in traces.sampled.items():
        latent = traces.auxiliary.get(name, name)
        if name in traces.auxiliary.values() or latent not in traces.model:
            continue
        if not torch.equal(site["value"], traces.guide[latent]["value"]):
            continue  # an auxiliary draw that is mapped to the latent's support, or a component
        sites = site, traces.model[latent]
        bases = [s["fn"].base_dist for s in sites if _independent(s)]
        if len(bases) == 2:
            q, p = bases
            kls[latent] = q.log_prob(site["value"]) - p.log_prob(site["value"])
            if latent == name and traces.has_kl_given_parents(latent):
                with suppress(NotImplementedError):
                    kls[latent] = torch.distributions.kl_divergence(q, p)
    return kls


def _independent(site: dict) -> bool:
    """Whether a site is a vector of independent numbers, all of them counted."""
    fn = site["fn"]
    is_vector = isinstance(fn, Independent) and len(fn.event_shape) == 1
    return (
        is_vector and not fn.base_dist.event_shape and site["mask"] is None and "runs" not in site
    )
