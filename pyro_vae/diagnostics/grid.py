"""The true posterior and the evidence of a model with two latent numbers, on a grid."""

import math
import warnings
from typing import NamedTuple

import torch

from ..errors import UserError, check_int_at_least
from ..evaluate.chunked import evaluate_in_chunks, evaluation_mode
from ..evaluate.inputs import Array, Batch, PyroProgram, scored_inputs
from ..programs.modules import device_of
from .joint import Joint

LOG_DENSITY_CUTOFF = 12.0  # nats below the largest value; densities below it are neglected
MAX_ROUNDS = 12  # of the search for the window
MIN_ROUNDS = 3
GUIDE_MARGIN = 0.35  # of the range of the guide's draws, to each side
RESOLVED = (
    0.3  # nats: change of log p(x) without every other point, if the points resolve the density
)
MAX_REFINEMENT = 4  # times as many points on each axis, for log p(x)


class PosteriorGrid(NamedTuple):
    """Densities on a grid of G points per axis, by `posterior_grid`."""

    axes: torch.Tensor  #: `[N, 2, G]`, the window of each data point
    log_likelihood: torch.Tensor  #: `[N]`, log p(x) by quadrature, nats per data point
    posterior: torch.Tensor  #: `[N, G, G]`, the density p(z | x)
    guide: torch.Tensor | None  #: `[N, G, G]`, the density q(z | x)


def posterior_grid(
    model: PyroProgram,
    x: Array,
    guide: PyroProgram | None = None,
    num: int = 100,
    seed: int | None = 0,
    **others: Array | None,
) -> PosteriorGrid:
    r"""The posterior density of a model with two latent numbers, on a grid.

    The window of each data point is fitted to the points within 12 nats of the largest density,
    and to draws of the guide, with a margin. Discrete latents are summed exactly; constrained latents
    are mapped to the reals. If the window contains the posterior, `log_likelihood` is exact up to
    quadrature error. Where `num` points do not resolve the density, up to four times as many are taken
    for it; a warning says where they do not either, as in a heavy tail or a very narrow ridge.

    Args:
        model: the generative program.
        x: `[N, ...]`, as observed, in the units in which the model was trained.
        guide: a guide whose density is evaluated too. Default: none.
        num: G, points per axis, 10 or more.
        seed: of the draws that the windows start from. None uses torch's random stream.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `PosteriorGrid`: `axes`, `log_likelihood`, `posterior` and `guide`, on the device of x.

    Raises:
        UserError: as `log_likelihood`; the latents are not two numbers.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2, network=pv.conditionals.MLP((4,)))
        >>> grid = pv.diagnostics.posterior_grid(model, torch.ones(3, 6), num=20)
        >>> grid.posterior.shape
        torch.Size([3, 20, 20])
    """
    check_int_at_least(10, num=num)
    batch = scored_inputs(model, x, others, guide)
    device = device_of(model, guide, default=batch["x"].device)

    def grid(chunk: Batch, capacity: int) -> Batch:
        fields, change = _grid(Joint(model, chunk, guide), num, max(1, capacity))
        known = {name: value for name, value in fields._asdict().items() if value is not None}
        return {**known, "change": change}

    with evaluation_mode(model, guide, seed=seed, device=device):
        first = Joint(model, {k: v[:1].to(device) for k, v in batch.items()})
        if first.size != 2:
            raise UserError(f"a grid is of two latent numbers, this model has {first.size}")
        fields = evaluate_in_chunks(grid, model, guide, batch, seed=None, num_particles=num)
    coarse = int((fields.pop("change") > RESOLVED).sum())
    if coarse:
        warnings.warn(
            f"a grid of {MAX_REFINEMENT * num} points on each axis is too coarse for {coarse} of {len(batch['x'])} data points: "
            "their density has a heavy tail or a narrow ridge, and log p(x) and the posterior are wrong; "
            "num= sets more points",
            stacklevel=2,
        )
    return PosteriorGrid(
        fields["axes"], fields["log_likelihood"], fields["posterior"], fields.get("guide")
    )


def _grid(joint: Joint, num: int, num_points: int) -> tuple[PosteriorGrid, torch.Tensor]:
    """The grid of one chunk, `num_points` points at a time; and how much its log p(x) may be wrong.

    While the points do not resolve a density, log p(x) is taken from twice as many on each axis.
    """
    low, high = _window(joint, num, num_points)
    axes, log_p, log_q = _evaluate(joint, low, high, num, num_points)
    finest = num
    evidence, change = _evidence(log_p, (high - low) / (num - 1))
    while bool((change > RESOLVED).any()) and finest < MAX_REFINEMENT * num:
        finest *= 2
        finer = _evaluate(joint, low, high, finest, num_points)[1]
        evidence, change = _evidence(finer, (high - low) / (finest - 1))
    posterior = (log_p - evidence[:, None, None]).exp()
    grid = PosteriorGrid(axes, evidence, posterior, None if joint.guide is None else log_q.exp())
    return grid, change


def _evidence(log_p: torch.Tensor, spacing: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(log p(x), change)`, `[B]` each: the largest change of log p(x) without every other point.

    A smooth density that the points resolve has hardly any.
    """
    log_cell = spacing.log().sum(-1)
    evidence = log_p.logsumexp((1, 2)) + log_cell
    coarse = [log_p[:, i::2, j::2].logsumexp((1, 2)) for i in range(2) for j in range(2)]
    changes = torch.stack(coarse) + math.log(4) + log_cell - evidence
    return evidence, changes.abs().amax(0)


def _window(joint: Joint, num: int, num_points: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Lower and upper ends `[B, 2]` that contain the posterior and the guide's mass."""
    prior = Joint(joint.model, joint.batch).draw(500)
    guide_draws = None if joint.guide is None else joint.draw(200)

    def with_guide(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if guide_draws is None:
            return low, high
        least, most = guide_draws.amin(0), guide_draws.amax(0)
        margin = GUIDE_MARGIN * (most - least)
        return torch.minimum(low, least - margin), torch.maximum(high, most + margin)

    low, high = prior.amin(0), prior.amax(0)
    low, high = with_guide(1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low)
    for round in range(MAX_ROUNDS):  # shrink, and extend where the density continues past an edge
        axes, log_p, _ = _evaluate(joint, low, high, num, num_points)
        near = log_p > log_p.amax((1, 2), keepdim=True) - LOG_DENSITY_CUTOFF
        width = high - low
        least, most = (
            torch.stack([edge(near.any(2), axes[:, 0]), edge(near.any(1), axes[:, 1])], -1)
            for edge in (_first, _last)
        )
        past_low, past_high = least <= axes[..., 0], most >= axes[..., -1]
        low = least - torch.where(past_low, 0.5 * width, width / (num - 1))
        high = most + torch.where(past_high, 0.5 * width, width / (num - 1))
        low, high = with_guide(low, high)
        if round + 1 >= MIN_ROUNDS and not (past_low.any() or past_high.any()):
            break
    return low, high


def _first(near: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    return torch.where(near, axis, math.inf).amin(-1)


def _last(near: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    return torch.where(near, axis, -math.inf).amax(-1)


def _evaluate(
    joint: Joint, low: torch.Tensor, high: torch.Tensor, num: int, num_points: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`(axes [B, 2, G], log p(x, u) [B, G, G], log start [B, G, G])`."""
    unit = torch.linspace(0, 1, num, dtype=low.dtype, device=low.device)
    axes = low.unsqueeze(-1) + (high - low).unsqueeze(-1) * unit
    first = axes[:, 0].unsqueeze(-1).expand(-1, num, num)
    second = axes[:, 1].unsqueeze(-2).expand(-1, num, num)
    u = torch.stack([first, second], -1).flatten(1, 2).transpose(0, 1)  # [G * G, B, 2]
    parts = [joint.log_densities(part) for part in u.split(num_points)]
    log_q, log_p = (torch.cat(v).T.reshape(-1, num, num) for v in zip(*parts, strict=True))
    return axes, log_p, log_q
