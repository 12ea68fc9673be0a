"""Two latent numbers: the true posterior and the evidence, by running the model on a grid."""

import math
from typing import NamedTuple

import torch

from ..errors import UserError, check_int_at_least
from ..evaluate.inputs import scored
from ..evaluate.likelihood import chunks, rows_per_chunk
from ..guides import PriorGuide
from ..programs.contexts import eval_mode, seeded
from ..programs.modules import device_of
from .joint import Joint

LOG_DENSITY_CUTOFF = 12.0  # nats below the highest point where the posterior is taken to end


class PosteriorGrid(NamedTuple):
    """What `posterior_grid` returns, G points a side."""

    axes: torch.Tensor  #: `[N, 2, G]`, each data point's own window
    log_likelihood: torch.Tensor  #: `[N]`, log p(x) by quadrature, nats per data point
    posterior: torch.Tensor  #: `[N, G, G]`, the density p(z | x)
    guide: torch.Tensor | None  #: `[N, G, G]`, the density q(z | x)


@torch.no_grad()
def posterior_grid(model, x, guide=None, num=100, seed=0, **others):
    r"""The posterior density of a model with two latent numbers, on a grid of `num` points a side.

    Each data point's window closes in on what is within 12 nats of the highest point, and on draws of the
    guide. Discrete latents are summed exactly; constrained ones are on the reals. Where the window
    holds the posterior, `log_likelihood` is exact to quadrature: smooth densities need few points.

    Raises:
        UserError: more or fewer latent numbers than two.
    """
    check_int_at_least(10, num=num)
    batch = scored(model, x, others, guide)
    x, device = batch["x"], device_of(model, guide, default=batch["x"].device)
    parts = []
    with eval_mode(model, guide), seeded(seed, device):
        first = Joint(model, {k: v[:1].to(device) for k, v in batch.items()})
        if first.size != 2:
            raise UserError(f"a grid is of two latent numbers, this model has {first.size}")
        rows = rows_per_chunk(model, guide or PriorGuide(model), batch, device)
        for part in chunks(batch, max(1, rows // num), device):
            parts.append(_grid(Joint(model, part, guide), num, max(1, rows // len(part["x"]))))
    fields = [None if v[0] is None else torch.cat(v).to(x.device) for v in zip(*parts, strict=True)]
    return PosteriorGrid(*fields)


def _grid(joint, num, at_once):
    prior = Joint(joint.model, joint.batch).draw(500)
    low, high = prior.amin(0), prior.amax(0)  # [B, 2]
    low, high = 1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low
    if joint.guide is not None:
        mine = joint.draw(200)
        low, high = torch.minimum(low, mine.amin(0)), torch.maximum(high, mine.amax(0))
    for round in range(12):  # close in, and follow what continues beyond an edge
        axes, log_p, _ = _evaluate(joint, low, high, num, at_once)
        near = log_p > log_p.amax((1, 2), keepdim=True) - LOG_DENSITY_CUTOFF
        wide = high - low
        least, most = (
            torch.stack([edge(near.any(2), axes[:, 0]), edge(near.any(1), axes[:, 1])], -1)
            for edge in (_first, _last)
        )
        beyond = least <= axes[..., 0], most >= axes[..., -1]
        low = least - torch.where(beyond[0], 0.5 * wide, wide / (num - 1))
        high = most + torch.where(beyond[1], 0.5 * wide, wide / (num - 1))
        inside = not (beyond[0].any() or beyond[1].any())
        if joint.guide is not None:
            low, high = torch.minimum(low, mine.amin(0)), torch.maximum(high, mine.amax(0))
        if round >= 2 and inside:
            break
    axes, log_p, log_q = _evaluate(joint, low, high, num, at_once)
    cell = ((high - low) / (num - 1)).log().sum(-1)
    evidence = log_p.logsumexp((1, 2)) + cell
    posterior = (log_p - evidence[:, None, None]).exp()
    return axes, evidence, posterior, None if joint.guide is None else log_q.exp()


def _first(near, axis):
    return torch.where(near, axis, math.inf).amin(-1)


def _last(near, axis):
    return torch.where(near, axis, -math.inf).amax(-1)


def _evaluate(joint, low, high, num, at_once):
    """`(axes [B, 2, G], log p(x, u) [B, G, G], log start [B, G, G])`."""
    unit = torch.linspace(0, 1, num, dtype=low.dtype, device=low.device)
    axes = low.unsqueeze(-1) + (high - low).unsqueeze(-1) * unit
    points = torch.stack(
        [
            axes[:, 0].unsqueeze(-1).expand(-1, num, num),
            axes[:, 1].unsqueeze(-2).expand(-1, num, num),
        ],
        -1,
    )
    u = points.flatten(1, 2).transpose(0, 1)  # [G * G, B, 2]
    found = [joint.log_densities(part) for part in u.split(at_once)]
    log_q, log_p = (torch.cat(v).T.reshape(-1, num, num) for v in zip(*found, strict=True))
    return axes, log_p, log_q
