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
MAX_BLOCK = 2**20  # points whose parabolas are computed at once
LEAST_DETERMINANT = 1e-4  # of a Hessian, relative to its diagonal's: below, it is that of a ridge
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
    for it; a warning says where they do not either, as in a heavy tail or a very narrow ridge. The
    posterior is that of the `num` points: their sum, times the area of a cell, is 1 where they resolve it.

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
            "their density has a heavy tail or a narrow ridge, and log p(x) and the posterior may be wrong; "
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
    low, high, best, has_ends = _window(joint, num, num_points)
    axes, log_p, log_q = _evaluate(joint, low, high, num, num_points)
    finest = num
    evidence, change = _evidence(log_p, (high - low) / (num - 1), best)
    while bool((change > RESOLVED).any()) and finest < MAX_REFINEMENT * num:
        finest *= 2
        finer = _evaluate(joint, low, high, finest, num_points)[1]
        evidence, change = _evidence(finer, (high - low) / (finest - 1), best)
    change = torch.where(has_ends, change, math.inf)
    posterior = (log_p - evidence[:, None, None]).exp()
    grid = PosteriorGrid(axes, evidence, posterior, None if joint.guide is None else log_q.exp())
    return grid, change


def _evidence(
    log_p: torch.Tensor, spacing: torch.Tensor, best: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(log p(x), error)`, `[B]` each: about how many nats the sum over the points is wrong.

    It is the largest of three: the change without every other point, which a smooth density that the
    points resolve hardly has; what the width of a ridge says, along which the points may lie evenly and
    miss it all; and what the points lack to a density that is known.

    Args:
        log_p: `[B, G, G]`.
        spacing: `[B, 2]`.
        best: `[B]`, the largest log-density that is known.
    """
    log_cell = spacing.log().sum(-1)
    evidence = log_p.logsumexp((1, 2)) + log_cell
    coarse = [log_p[:, i::2, j::2].logsumexp((1, 2)) for i in range(2) for j in range(2)]
    changes = torch.stack(coarse) + math.log(4) + log_cell - evidence
    around = _parabolas(log_p)
    expected = (around.top.flatten(1).softmax(1) * around.error.flatten(1)).sum(1)
    missed = best.double() - around.top.amax((1, 2))
    return evidence, torch.stack([changes.abs().amax(0).double(), expected, missed]).amax(0)


class _Window(NamedTuple):
    low: torch.Tensor  #: `[B, 2]`, the lower ends
    high: torch.Tensor  #: `[B, 2]`, the upper ends
    #: `[B]`, the largest log-density at a draw of the prior or of the guide: where the prior has a heavy
    #: tail, a grid from end to end may have no point near its center
    best: torch.Tensor
    has_ends: torch.Tensor  #: bool `[B]`: the density does not continue past an edge


def _window(joint: Joint, num: int, num_points: int) -> _Window:
    """The window of each data point; it contains the posterior and the guide's mass."""
    prior = Joint(joint.model, joint.batch).draw(500)
    guide_draws = None if joint.guide is None else joint.draw(200)
    draws = prior if guide_draws is None else torch.cat([prior, guide_draws])  # [D, B, 2]
    log_p_draws = torch.cat([joint.log_densities(part)[1] for part in draws.split(num_points)])
    best = log_p_draws.amax(0)

    def with_guide(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if guide_draws is None:
            return low, high
        least, most = guide_draws.amin(0), guide_draws.amax(0)
        margin = GUIDE_MARGIN * (most - least)
        return torch.minimum(low, least - margin), torch.maximum(high, most + margin)

    low, high = prior.amin(0), prior.amax(0)
    low, high = with_guide(1.5 * low - 0.5 * high, 1.5 * high - 0.5 * low)
    reach_low, reach_high = torch.full_like(low, 0.25), torch.full_like(low, 0.25)
    for round in range(MAX_ROUNDS):  # shrink, and extend where the density continues past an edge
        axes, log_p, _ = _evaluate(joint, low, high, num, num_points)
        top = _parabolas(log_p).top
        cutoff = torch.maximum(top.amax((1, 2)), best) - LOG_DENSITY_CUTOFF
        near = top > cutoff[:, None, None]
        width = high - low
        least, most = (
            torch.stack([edge(near.any(2), axes[:, 0]), edge(near.any(1), axes[:, 1])], -1)
            for edge in (_first, _last)
        )
        near_draw = (log_p_draws > cutoff).unsqueeze(-1)
        least = least.minimum(torch.where(near_draw, draws, math.inf).amin(0))
        most = most.maximum(torch.where(near_draw, draws, -math.inf).amax(0))
        past_low, past_high = least <= axes[..., 0], most >= axes[..., -1]
        # a posterior that is far away is reached in steps that grow
        reach_low = torch.where(past_low, 2 * reach_low, 0.25)
        reach_high = torch.where(past_high, 2 * reach_high, 0.25)
        low = least - torch.where(past_low, reach_low * width, width / (num - 1))
        high = most + torch.where(past_high, reach_high * width, width / (num - 1))
        low, high = with_guide(low, high)
        if round + 1 >= MIN_ROUNDS and not (past_low.any() or past_high.any()):
            break
    return _Window(low, high, best, ~(past_low | past_high).any(-1))


class _Parabolas(NamedTuple):
    """The parabolas through each point of a grid and its neighbors, `[B, G, G]` each."""

    top: torch.Tensor  #: the largest log-density around the point
    error: torch.Tensor  #: by how many nats a sum over such points is wrong, about


def _parabolas(log_p: torch.Tensor) -> _Parabolas:
    """What log-densities `[B, G, G]` are between the points of their grid.

    A mode or a ridge that is narrower than the grid's cells lies between points whose values say little
    of it. They are on a parabola, and the differences between them tell its top and its width.
    """
    rows = max(1, MAX_BLOCK // log_p[0].numel())
    tops, errors = zip(*(_of_rows(block) for block in log_p.split(rows)), strict=True)
    return _Parabolas(torch.cat(tops), torch.cat(errors))


def _of_rows(log_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    f = log_p.double()
    center = f[:, 1:-1, 1:-1]
    left, right = f[:, :-2, 1:-1], f[:, 2:, 1:-1]
    below, above = f[:, 1:-1, :-2], f[:, 1:-1, 2:]
    slopes = (right - left) / 2, (above - below) / 2
    bends = right + left - 2 * center, above + below - 2 * center
    twist = (f[:, 2:, 2:] + f[:, :-2, :-2] - f[:, 2:, :-2] - f[:, :-2, 2:]) / 4
    product = bends[0] * bends[1]
    determinant = product - twist**2
    steps = [-(bends[1 - i] * slopes[i] - twist * slopes[1 - i]) / determinant for i in range(2)]
    # the top of the parabola in both directions, and of those in each: of a ridge, whose curvature along
    # it may be lost in rounding, and beside a peak
    is_peak = (bends[0] < 0) & (determinant > LEAST_DETERMINANT * product)
    candidates = [
        (
            (slopes[0] * steps[0] + slopes[1] * steps[1]) / 2,
            is_peak & (steps[0].abs() <= 1) & (steps[1].abs() <= 1),
        )
    ]
    for slope, bend in zip(slopes, bends, strict=True):
        inside = (bend < 0) & ((slope / bend).abs() <= 1)
        candidates.append((slope**2 / (-2 * bend), inside))
    rise = torch.zeros_like(center)
    for candidate, inside in candidates:
        rise = torch.where(inside & candidate.isfinite(), candidate.maximum(rise), rise)
    # the squared ratio of the spacing to the width where that is least; and the trapezoidal rule's
    # error for a normal density
    half = (bends[0] - bends[1]) / 2
    ratio = (half**2 + twist**2).sqrt() - (bends[0] + bends[1]) / 2
    error = 2 * (-2 * math.pi**2 / ratio.clamp_min(1e-6)).exp()
    top, errors = f.clone(), torch.zeros_like(f)
    top[:, 1:-1, 1:-1] += rise
    errors[:, 1:-1, 1:-1] = torch.where(error.isfinite(), error, 2.0)
    return top, errors


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
