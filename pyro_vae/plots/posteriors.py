"""Diagnostics of posteriors."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..diagnostics.grid import PosteriorGrid
from .style import BLUE, GREY, INK, ORANGE, Values, as_array, shades, with_two_spines


def ranks(
    ax: Axes, values: Values, num_samples: int, bins: int = 20, title: str | None = None
) -> Axes:
    """The rank histogram of one latent number, with the band of a calibrated guide.

    Args:
        values: `[N]` ranks in 0..num_samples, of `diagnostics.simulation_based_calibration`.
        num_samples: draws of the guide per data point.
        bins: of the histogram; the band contains 99 in 100 of them if the guide is calibrated.

    Example:
        >>> import torch, pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.ranks(ax, torch.randint(100, (500,)), num_samples=99)
    """
    from scipy.stats import binom

    values = as_array(values).ravel()
    edges = np.linspace(0, num_samples + 1, bins + 1) - 0.5
    low, high = binom.interval(0.99, len(values), 1 / bins)
    ax.axhspan(low, high, color=GREY, alpha=0.3, lw=0)
    ax.axhline(len(values) / bins, color=INK, lw=0.8, ls=":")
    ax.hist(values, edges.tolist(), color=BLUE, rwidth=0.92)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xlabel("rank of the truth among draws")
    ax.set_ylabel("data")
    if title:
        ax.set_title(title)
    return with_two_spines(ax)


def _mass_levels(density: np.ndarray, masses: Iterable[float]) -> list[float]:
    """The heights above which lie these fractions of the mass, rising."""
    flat = np.sort(density.ravel())[::-1]
    mass = np.cumsum(flat) / flat.sum()
    last = len(flat) - 1
    levels = sorted({float(flat[min(int(np.searchsorted(mass, s)), last)]) for s in masses})
    return [v for v in levels if v > 0]


def posterior(
    ax: Axes,
    grid: PosteriorGrid,
    datum: int = 0,
    draws: Values | None = None,
    title: str | None = None,
    masses: Sequence[float] = (0.5, 0.9, 0.99),
) -> Axes:
    """The posterior of one data point over two latent numbers.

    The true posterior is filled, the guide's density are lines, and draws are dots.

    Args:
        grid: of `diagnostics.posterior_grid`.
        datum: which data point of the grid.
        draws: `[S, 2]`, of `diagnostics.nuts_posterior`.
        masses: the probability that each contour contains.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((4,), 2, network=pv.conditionals.MLP((8,)))
        >>> grid = pv.diagnostics.posterior_grid(model, torch.ones(1, 4), num=20)
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.posterior(ax, grid)
    """
    horizontal, vertical = as_array(grid.axes[datum])
    true = as_array(grid.posterior[datum]).T
    levels = _mass_levels(true, masses)
    fills = [shades(BLUE)(v) for v in np.linspace(0.25, 0.85, len(levels))]
    ax.contourf(horizontal, vertical, true, [*levels, true.max() * 1.001], colors=fills)
    handles: list[Patch | Line2D] = [Patch(color=fills[-1], label="posterior")]
    shown = true > levels[0] / 20
    if draws is not None:
        first, second = as_array(draws).T
        ax.scatter(first, second, s=2, color=INK, lw=0, alpha=0.35)
        handles.append(Line2D([], [], color=INK, marker=".", lw=0, ms=4, label="NUTS"))
    if grid.guide is not None:
        guide = as_array(grid.guide[datum]).T
        shown |= guide > guide.max() / 300
        levels = _mass_levels(guide, masses)
        ax.contour(horizontal, vertical, guide, levels, colors=ORANGE, linewidths=1.2)
        handles.append(Line2D([], [], color=ORANGE, lw=1.2, label="guide"))
    ax.set_xlim(*horizontal[np.flatnonzero(shown.any(0))[[0, -1]]])
    ax.set_ylim(*vertical[np.flatnonzero(shown.any(1))[[0, -1]]])
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):  # more would overlap in a narrow panel
        axis.set_major_locator(MaxNLocator(4))
    ax.legend(handles=handles, frameon=False, fontsize=8)
    ax.set_xlabel("z₁")
    ax.set_ylabel("z₂")
    if title:
        ax.set_title(title)
    return with_two_spines(ax)
