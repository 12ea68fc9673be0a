"""The units of a latent: how many nats each carries, and how far it moves with the data."""

from collections.abc import Callable

import torch
from torch.distributions import Independent

from ..errors import check_int_at_least
from ..programs import trace_pair
from ..programs.contexts import eval_mode, seeded
from ..programs.modules import device_of
from ..programs.traces import Traces
from .inputs import scored
from .latents import encode
from .likelihood import chunks, rows_per_chunk


@torch.no_grad()
def unit_kl(
    model: Callable,
    guide: Callable,
    x: torch.Tensor,
    num_samples: int = 10,
    seed: int = 0,
    **others: torch.Tensor,
) -> dict[str, torch.Tensor]:
    r"""The KL of each unit of the latents, in nats per data point; the units' sum is the latent's KL.

    .. math:: E_x E_q [\log q(u \mid x) - \log p(u)]

    Only latents whose guide and prior are both independent over the units have it. Others, of a
    flow or of a full covariance, are left out.

    Args:
        x: `[N, ...]`, as observed.
        num_samples: Monte Carlo samples per data point.
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
    batch = scored(model, x, others, guide, proper=False)
    device = device_of(model, guide, default=batch["x"].device)
    totals: dict[str, torch.Tensor] = {}
    with eval_mode(model, guide), seeded(seed, device):
        rows = rows_per_chunk(model, guide, batch, device)
        for part in chunks(batch, max(1, min(len(batch["x"]), rows // num_samples)), device):
            traces = trace_pair(model, guide, part, num_samples)
            for name, gain in _log_ratios(traces).items():
                shape = gain.shape[-1:]
                kl = traces.expectation(gain, shape).expand(num_samples, traces.size, *shape)
                totals[name] = totals.get(name, 0.0) + kl.mean(0).sum(0)
    return {name: total / len(batch["x"]) for name, total in totals.items()}


@torch.no_grad()
def unit_activity(
    model: Callable, guide: Callable, x: torch.Tensor, **others: torch.Tensor
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
    return {name: v.reshape(len(v), -1).var(0) for name, v in codes.items()}


def _log_ratios(traces: Traces) -> dict[str, torch.Tensor]:
    """`{latent: log q - log p of each unit}`, `[enum..., (S,) B, D]`."""
    ratios = {}
    for name, site in traces.sampled.items():
        if name not in traces.model or name in (*traces.auxiliary, *traces.auxiliary.values()):
            continue
        sites = site, traces.model[name]
        bases = [s["fn"].base_dist for s in sites if _independent(s)]
        if len(bases) == 2:
            q, p = bases
            ratios[name] = q.log_prob(site["value"]) - p.log_prob(site["value"])
    return ratios


def _independent(site: dict) -> bool:
    """Whether a site is a vector of independent numbers, all of them counted."""
    fn = site["fn"]
    is_vector = isinstance(fn, Independent) and len(fn.event_shape) == 1
    return (
        is_vector and not fn.base_dist.event_shape and site["mask"] is None and "runs" not in site
    )
