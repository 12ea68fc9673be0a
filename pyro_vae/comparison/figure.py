"""The figure of a comparison: what each guide loses, and posteriors of a two-dimensional latent."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase

from .. import plots
from ..diagnostics.grid import PosteriorGrid

if TYPE_CHECKING:
    from .table import Comparison

Summary = list[dict[str, Any]]
PANEL_COLUMNS = 3  # panels side by side
POSTERIOR_COLUMNS = 5  # guides side by side
PICTURED = 2  # data points whose posteriors are drawn


def plot(comparison: "Comparison") -> Figure:
    """A panel for each model and objective; below, a column of posteriors for each guide."""
    summary = comparison.summary()
    with_gaps = [row for row in summary if row["approximation"] is not None]
    panels: dict[tuple[str, str], Summary] = {}
    for row in with_gaps or summary:
        panels.setdefault((row["model"], row["objective"]), []).append(row)
    posteriors = comparison.posteriors
    shown = [len(grid.posterior) for grid in posteriors.values()]
    num_data = min([PICTURED, *shown]) if posteriors else 0
    guides = max(len(rows) for rows in panels.values())
    longest = max(len(row["guide"]) for row in summary)
    lines, columns = _lines(len(panels), PANEL_COLUMNS)
    pictures = _lines(len(posteriors), POSTERIOR_COLUMNS)
    top, below = 0.6 + (0.8 + 0.36 * guides) * lines, 2.4 * num_data * pictures[0]
    width = max(0.6 + 0.085 * longest + 4.4 * columns, 2.3 * pictures[1])
    figure = Figure(figsize=(width, top + below), layout="constrained")
    parts: list[FigureBase] = [figure]
    if posteriors:
        parts = list(figure.subfigures(2, 1, height_ratios=(top, below), squeeze=False).flat)
    axes = list(parts[0].subplots(lines, columns, squeeze=False, sharey=True).flat)
    titled = [len({row[n] for row in summary}) > 1 for n in ("model", "objective")]
    for ax, (names, rows) in zip(axes, panels.items(), strict=False):
        title = ", ".join(n for n, several in zip(names, titled, strict=True) if several)
        _gaps(ax, comparison, rows, title) if with_gaps else _elbos(ax, comparison, rows, title)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    if with_gaps:
        handles = axes[0].get_legend_handles_labels()
        parts[0].legend(*handles, loc="outside upper center", ncols=2, frameon=False)
    if posteriors:
        _posteriors(parts[1], posteriors, num_data, *pictures)
    return plots.as_written(figure)


def _lines(number: int, longest: int) -> tuple[int, int]:
    """How many lines, and how many in a line: lines of equal lengths, if they can be."""
    lines = math.ceil(number / longest)
    return lines, math.ceil(number / max(lines, 1))


def _gaps(ax: Axes, comparison: "Comparison", rows: Summary, title: str) -> None:
    plots.gaps(ax, rows, title)
    ax.set_xlabel(f"log p(x) − ELBO, nats per data point\n{comparison.data_of('approximation')}")


def _elbos(ax: Axes, comparison: "Comparison", rows: Summary, title: str) -> None:
    """The ELBO of each guide, mean ± sd over seeds: a comparison without gaps."""
    names = [row["guide"] for row in rows]
    mean, sd = zip(*(row["elbo"] for row in rows), strict=True)
    ax.errorbar(mean, names, xerr=sd, fmt="o", color=plots.BLUE, ecolor=plots.INK, capsize=2)
    if not ax.yaxis_inverted():
        ax.invert_yaxis()
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.margins(x=0.1)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(xlabel=f"ELBO, nats per data point\n{comparison.data_of('elbo')}", title=title)


def _posteriors(
    figure: FigureBase,
    posteriors: dict[str, PosteriorGrid],
    num_data: int,
    lines: int,
    columns: int,
) -> None:
    """A column per guide, one row per data point: the guide's density over the true posterior.

    The guides of a data point have one window.
    """
    axes = figure.subplots(lines * num_data, columns, squeeze=False)
    # [guide, data point]: a line of guides is a row for each data point
    panels = axes.reshape(lines, num_data, columns).transpose(0, 2, 1).reshape(-1, num_data)
    for (guide, grid), column in zip(posteriors.items(), panels, strict=False):
        for row, ax in enumerate(column):
            plots.posterior(ax, grid, row, title=guide if row == 0 else None)
            ax.set(xlabel="", ylabel="")
            ax.tick_params(labelsize=7)
            legend = ax.get_legend()
            handles, texts = legend.legend_handles, [text.get_text() for text in legend.texts]
            legend.remove()  # one for all, beside the densities
    for ax in panels[len(posteriors) :].flat:
        ax.set_axis_off()
    for row in panels[: len(posteriors)].T:
        # the limits of each contain the contours of its guide and of the posterior
        limits = np.stack([ax.viewLim.get_points() for ax in row])  # [guide, low/high, x/y]
        low, high = limits[:, 0].min(0), limits[:, 1].max(0)
        for ax in row:
            ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    figure.legend(handles, texts, loc="outside lower center", ncols=len(texts), frameon=False)
