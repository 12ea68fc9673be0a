"""Columns of a table."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from .style import BLUE, ORANGE, Values, as_array, shortened, with_two_spines


def column(
    ax: Axes,
    data: Values,
    draws: Values,
    kind: str = "real",
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Axes:
    """The distribution of one column of a table in the data and in draws of a model.

    Heights are fractions of the values that are not missing. Real numbers, and counts of more than
    twelve values, are histograms with common bins: filled for the data, a line for the draws. The
    outermost bins also have all values beyond them. Other columns have a bar for each value: left
    the data, right the draws.

    Args:
        data: `[N]`; NaN is a missing value. Of a category: the number of its value, from 0.
        draws: `[S]`, of the model.
        kind: real, count, binary, boolean or category.
        names: of the values of a category.

    Example:
        >>> import pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.column(ax, [0, 0, 1, 2], [0, 1, 1, 2], "category", ["red", "blue", "green"])
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['red', 'blue', 'green']
        >>> [float(bar.get_height()) for bar in ax.patches[:3]]  # of the data
        [0.5, 0.25, 0.25]
    """
    both = [as_array(values).astype(float) for values in (data, draws)]
    both = [values[np.isfinite(values)] for values in both]
    known = np.concatenate(both)
    if title:
        ax.set_title(title)
    if not len(known):
        return with_two_spines(ax)
    if kind in ("binary", "boolean"):
        values, names = 2, ["false", "true"] if kind == "boolean" else None
    else:
        values = len(names) if names is not None else int(known.max()) + 1
    if kind != "real" and (kind != "count" or values <= 12):
        for number, (part, color) in enumerate(zip(both, (BLUE, ORANGE), strict=True)):
            counts = np.bincount(part.round().astype(int), minlength=values)
            at = np.arange(values) + 0.4 * number - 0.2
            ax.bar(at, counts / max(1, len(part)), 0.4, color=color)
        labels = (
            [str(i) for i in range(values)] if names is None else [shortened(n, 9) for n in names]
        )
        step = 1 + (values - 1) // 12
        upright = names is not None and sum(map(len, labels[::step])) > 18
        ax.set_xticks(range(0, values, step), labels[::step], rotation=90 if upright else 0)
    else:
        bins = min(20, max(6, math.ceil(2 * len(both[0]) ** (1 / 3))))
        edges = _bin_edges(known, kind == "count", bins)
        filled, line = (
            np.histogram(part.clip(edges[0], edges[-1]), edges)[0] / max(1, len(part))
            for part in both
        )
        ax.stairs(filled, edges, fill=True, color=BLUE)
        ax.stairs(line, edges, color=ORANGE, linewidth=1.4)
        ax.xaxis.set_major_locator(MaxNLocator(3, integer=kind == "count"))
        ax.ticklabel_format(axis="x", style="plain", useOffset=False)
    ax.yaxis.set_major_locator(MaxNLocator(2))
    return with_two_spines(ax)


def _bin_edges(values: np.ndarray, whole: bool, num: int) -> np.ndarray:
    """The edges of a histogram between the outer half percents; of whole numbers, halves."""
    low, high = np.quantile(values, [0.005, 0.995])
    if whole:
        width = max(1, math.ceil((high - low + 1) / num))
        return np.arange(math.floor(low), high + width + 1, width) - 0.5
    if high <= low:  # a constant column
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, num + 1)
