"""Plots: each function draws on the matplotlib Axes that it takes, and returns these Axes.

Colors can be told apart with the common forms of color blindness, and are legible on light and on
dark backgrounds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Ellipse, Patch, Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter

from .diagnostics.grid import PosteriorGrid
from .generate.paths import Traversal

__all__ = [
    "Projection",
    "axes",
    "bars",
    "column",
    "column_ticks",
    "columns_of_images",
    "component_order",
    "confusion",
    "contingency",
    "curves",
    "ellipses",
    "gaps",
    "graph",
    "images",
    "interpolations",
    "is_image",
    "occupancy",
    "outline",
    "pairs_of_images",
    "palette",
    "panels",
    "plain_text",
    "posterior",
    "project",
    "ranks",
    "scatter",
    "traversal",
    "unit_activity",
    "unit_kl",
    "white_of",
]

INK, GREY, BLUE, ORANGE = "#222222", "#8f8f8f", "#2a6fbb", "#d9772b"
#: Ten colors by Petroff (2021, arXiv 2107.02270), which the color-blind can tell apart.
CATEGORIES = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
MARKERS = "os^DvP*X<>"  # of the first ten groups, the second ten, ...
RASTER = 1500  # points, above which a scatter plot is a picture inside of an SVG file

Values = torch.Tensor | npt.ArrayLike


def axes(width: float = 6.0, height: float = 4.0) -> tuple[Figure, Axes]:
    """A figure that belongs to no window, and its Axes.

    Args:
        width, height: inches.

    Example:
        >>> import pyro_vae as pv
        >>> figure, ax = pv.plots.axes(3, 2)
        >>> ax = pv.plots.bars(ax, {"a": 1.0, "b": 2.0})
        >>> figure.savefig("bars.svg")  # doctest: +SKIP
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def panels(
    num: int,
    width: float = 6.0,
    height: float = 4.0,
    stacked: bool = False,
    same: bool = False,
    columns: int | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure that belongs to no window, and its Axes side by side.

    Args:
        num: how many Axes.
        width, height: of the figure, inches.
        stacked: one Axes below the other.
        same: whether all have the same limits.
        columns: how many side by side; the others follow below. Default: all, or one if stacked.

    Example:
        >>> import pyro_vae as pv
        >>> figure, (left, right) = pv.plots.panels(2, 6, 3)
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    columns = columns or (1 if stacked else num)
    rows = math.ceil(num / columns)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=same, sharey=same)
    for ax in grid.flat[num:]:
        ax.set_axis_off()
    return figure, list(grid.flat[:num])


def plain_text(text: str) -> str:
    r"""A name of a user as matplotlib shows it: a dollar sign begins no formula.

    Example:
        >>> import pyro_vae as pv
        >>> print(pv.plots.plain_text("price_$"))
        price_\$
    """
    return text.replace("$", r"\$")


def palette(n: int) -> ListedColormap:
    """n colors for n groups; from the eleventh on they repeat, and the markers differ.

    Example:
        >>> import pyro_vae as pv
        >>> pv.plots.palette(20).N
        20
    """
    return ListedColormap([CATEGORIES[i % len(CATEGORIES)] for i in range(n)])


def is_image(shape: Sequence[int]) -> bool:
    """Whether data of this event shape can be shown as an image: `(H, W)` or `(1 or 3, H, W)`.

    Example:
        >>> import pyro_vae as pv
        >>> pv.plots.is_image((1, 8, 8)), pv.plots.is_image((64,))
        (True, False)
    """
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


# ------------------------------------------------------------------- images


class _Grid(NamedTuple):
    """Where the images of a grid lie, in pixels."""

    rows: int
    columns: int
    height: int
    width: int
    gap: int

    def corner(self, i: int) -> tuple[int, int]:
        """Top and left of image i."""
        row, column = divmod(i, self.columns)
        return row * (self.height + self.gap), column * (self.width + self.gap)


def _grid(n: int, height: int, width: int, columns: int | None) -> _Grid:
    columns = columns or math.ceil(math.sqrt(n))
    return _Grid(math.ceil(n / columns), columns, height, width, max(1, height // 14))


def images(
    ax: Axes,
    x: Values,
    columns: int | None = None,
    row_labels: Sequence[str] | None = None,
    title: str | None = None,
    white: float = 1.0,
) -> Axes:
    """A grid of images, row by row.

    Args:
        x: `[N, H, W]` or `[N, C, H, W]`; 0 is black, `white` is white.
        columns: images per row. Default: as many as make a square.
        row_labels: one for each row.
        white: the value that is shown as white; stated below the grid if it is not 1.

    Example:
        >>> import torch, pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.images(ax, torch.rand(6, 1, 8, 8), columns=3, row_labels=["a", "b"])
        >>> [tick.get_text() for tick in ax.get_yticklabels()]
        ['a', 'b']
    """
    x = (_array(x).astype(float) / white).clip(0, 1)
    if x.ndim == 3:
        x = x[:, None]
    n, channels, h, w = x.shape
    grid = _grid(n, h, w, columns)
    rows, columns, gap = grid.rows, grid.columns, grid.gap
    canvas = np.zeros((rows * (h + gap) - gap, columns * (w + gap) - gap, 4))  # transparent
    for i, image in enumerate(x):
        top, left = grid.corner(i)
        pixels = np.broadcast_to(image, (3, h, w)) if channels == 1 else image
        canvas[top : top + h, left : left + w, :3] = pixels.transpose(1, 2, 0)
        canvas[top : top + h, left : left + w, 3] = 1
    ax.imshow(canvas, interpolation="none")  # in an SVG file pixels stay pixels, at any size
    _bare(ax)
    if row_labels is not None:
        ax.set_yticks([r * (h + gap) + (h - 1) / 2 for r in range(rows)], row_labels)
        ax.tick_params(length=0)
    if white != 1:
        ax.set_xlabel(f"black is 0, white {white:g} or more")
    if title:
        ax.set_title(title)
    return ax


def outline(
    ax: Axes,
    masks: Values,
    columns: int | None = None,
    color: str = ORANGE,
    label: str | None = None,
) -> Axes:
    """Outline parts of the images of a grid that `images` drew.

    Args:
        masks: `[N, H, W]` bool, True inside of the outline; all True frames an image.
        columns: as passed to `images`.
        label: what the outline means, written below the grid.

    Example:
        >>> import torch, pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.images(ax, torch.rand(4, 8, 8))
        >>> given = torch.zeros(4, 8, 8, dtype=torch.bool)
        >>> given[:, :4] = True
        >>> ax = pv.plots.outline(ax, given, label="outlined: given")
    """
    masks = _array(masks).astype(bool)
    n, h, w = masks.shape
    grid, segments = _grid(n, h, w, columns), []
    for i, mask in enumerate(masks):
        top, left = (corner - 0.5 for corner in grid.corner(i))
        padded = np.pad(mask, 1)
        for r, c in zip(*np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1]), strict=True):
            segments.append([(left + c, top + r), (left + c + 1, top + r)])
        for r, c in zip(*np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1]), strict=True):
            segments.append([(left + c, top + r), (left + c, top + r + 1)])
    ax.add_collection(
        LineCollection(
            segments, colors=color, linewidths=1.4, capstyle="projecting", clip_on=False
        ),
        autolim=False,
    )
    if label:
        ax.set_xlabel(label)
    return ax


def white_of(x: torch.Tensor) -> float:
    """The value to show as white: 1, or the largest value of x if that is larger.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.plots.white_of(torch.tensor([0.0, 16.0]))
        16.0
    """
    values = x[~x.isnan()]
    return max(1.0, float(values.max())) if len(values) else 1.0


def pairs_of_images(
    ax: Axes,
    x: Values,
    other: Values,
    columns: int = 8,
    title: str | None = None,
    white: float = 1.0,
    labels: tuple[str, str] = ("data", "reconstruction"),
) -> Axes:
    """Rows of images, each above the row of their counterparts.

    Args:
        x, other: `[N, (C,) H, W]`, e.g. data and reconstructions; N is cut to whole rows.
        labels: of the two kinds of rows.

    Example:
        >>> import torch, pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.pairs_of_images(ax, torch.rand(8, 8, 8), torch.rand(8, 8, 8), columns=4)
        >>> len(ax.get_yticklabels())
        4
    """
    x, other = _array(x), _array(other)
    columns = min(columns, len(x))
    whole = len(x) // columns * columns
    rows = [
        part
        for i in range(0, whole, columns)
        for part in (x[i : i + columns], other[i : i + columns])
    ]
    return images(ax, np.concatenate(rows), columns, [*labels] * (len(rows) // 2), title, white)


def columns_of_images(ax: Axes, columns: Mapping[str, Values], title: str | None = None) -> Axes:
    """Columns of images under headings, one row per data point.

    Args:
        columns: `{heading: [N, (C,) H, W]}`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> x = torch.rand(3, 8, 8)
        >>> ax = pv.plots.columns_of_images(ax, {"given": x, "truth": x})
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['given', 'truth']
    """
    x = np.stack([_array(v) for v in columns.values()], 1)
    images(ax, x.reshape(-1, *x.shape[2:]), len(columns), title=title)
    return column_ticks(ax, list(columns), x.shape[-2:], top=True)


def column_ticks(ax: Axes, labels: Sequence[str], shape: Sequence[int], top: bool = False) -> Axes:
    """Tick labels for the columns of a grid that `images` drew.

    Args:
        labels: one for each column.
        shape: `(H, W)` of an image.
        top: above the grid instead of below it.

    Example:
        >>> import torch, pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.images(ax, torch.rand(6, 8, 8), columns=3)
        >>> ax = pv.plots.column_ticks(ax, ["-1", "0", "1"], (8, 8))
    """
    grid = _grid(len(labels), shape[0], shape[1], len(labels))
    at = [grid.corner(i)[1] + (grid.width - 1) / 2 for i in range(len(labels))]
    if top:
        ax.xaxis.tick_top()
    longest = max(map(len, labels))
    upright = longest > 6 and len(labels) > 5
    ax.set_xticks(at, labels, rotation=60 if upright else 0, ha="left" if upright else "center")
    ax.tick_params(axis="x", length=0, labelsize=9)
    return ax


def interpolations(ax: Axes, x: Values, white: float = 1.0, title: str | None = None) -> Axes:
    """Paths between data, one per row, their ends framed.

    Args:
        x: `[N, steps, (C,) H, W]`, as `interpolate` returns.
        white: the value that is shown as white.

    Example:
        >>> import torch, pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.interpolations(ax, torch.rand(2, 5, 8, 8))
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['0', '0.25', '0.5', '0.75', '1']
    """
    x = _array(x)
    num, steps = x.shape[:2]
    images(ax, x.reshape(-1, *x.shape[2:]), steps, title=title, white=white)
    ends = np.zeros((num, steps, *x.shape[-2:]), bool)
    ends[:, [0, -1]] = True
    outline(ax, ends.reshape(-1, *x.shape[-2:]), steps)
    column_ticks(ax, [f"{t:.3g}" for t in np.linspace(0, 1, steps)], x.shape[-2:])
    ax.set_xlabel("position on the path; framed: its ends")
    return ax


def traversal(
    ax: Axes, traversed: Traversal, span: float = 2.5, white: float = 1.0, title: str | None = None
) -> Axes:
    """One unit of a latent per row, moved from left to right; the prior's mean is framed.

    Rows are labeled by the unit, at the left, and by the range of its values, at the right. Ticks
    below are in standard deviations of the prior.

    Args:
        traversed: as `traverse` returns, of images.
        span: as passed to `traverse`.
        white: the value that is shown as white.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from pyro_vae.generate.paths import Traversal
        >>> values = torch.linspace(-2.5, 2.5, 5).expand(3, 5)
        >>> traversed = Traversal(torch.rand(3, 5, 8, 8), torch.tensor([7, 0, 2]), torch.ones(3), values)
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.traversal(ax, traversed)
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['-2.5', '-1.25', '0', '1.25', '2.5']
        >>> [tick.get_text() for tick in ax.get_yticklabels()]
        ['unit 7', 'unit 0', 'unit 2']
    """
    x, values = _array(traversed.x), _array(traversed.values)
    num, steps = x.shape[:2]
    h, w = x.shape[-2:]
    units = [f"unit {u}" for u in _array(traversed.units)]
    images(ax, x.reshape(-1, *x.shape[2:]), steps, units, title, white)
    offsets = np.linspace(-span, span, steps)
    column_ticks(ax, ["0" if abs(t) < 1e-9 else f"{t:.4g}" for t in offsets], (h, w))
    ax.set_xlabel("standard deviations of the prior from its mean")
    if steps % 2:
        center = np.zeros((num, steps, h, w), bool)
        center[:, steps // 2] = True
        outline(ax, center.reshape(-1, h, w), steps)
    right = ax.secondary_yaxis("right")
    ranges = [f"{row[0]:.1f} to {row[-1]:.1f}" for row in values]
    right.set_yticks(ax.get_yticks(), ranges, fontsize=8)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    return ax


# ------------------------------------------------------------------- curves and bars


def curves(ax: Axes, history: Sequence[Mapping], best_epoch: int | None = None) -> Axes:
    """Training loss and validation -ELBO by epoch, nats per data point.

    Args:
        history: of a `Run`, one dict per epoch.
        best_epoch: marked by a line.

    Example:
        >>> import pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> history = [{"epoch": 1, "loss": 9.0, "elbo": -8.5}, {"epoch": 2, "loss": 8.0, "elbo": -8.0}]
        >>> ax = pv.plots.curves(ax, history, best_epoch=2)
    """
    if not history:
        return _plain(ax)
    epochs = [row["epoch"] for row in history]
    loss = np.array([row["loss"] for row in history])
    ax.plot(epochs, loss, color=GREY, marker=_marker(epochs), label="training loss")
    shown = [loss]
    validated = [row for row in history if "elbo" in row]
    if validated:
        bound = -np.array([row["elbo"] for row in validated])
        at, name = [row["epoch"] for row in validated], "validation \N{MINUS SIGN}ELBO"
        ax.plot(at, bound, color=BLUE, marker=_marker(at), label=name)
        shown.append(bound)
    if best_epoch is not None and len(history) > 1:
        ax.axvline(best_epoch, color=ORANGE, lw=1, ls=":", label=f"best epoch, {best_epoch}")
    if len(history) > 4:  # the first tenth is far off, and would flatten the rest
        low = min(s.min() for s in shown)
        high = max(s[len(s) // 10 :].max() for s in shown)
        ax.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("epoch")
    ax.set_ylabel("nats per data point")
    ax.legend(frameon=False)
    return _plain(ax)


def _marker(points: Sequence) -> str | None:
    """The marker of a curve: a line through a single point has no length."""
    return "o" if len(points) == 1 else None


def bars(
    ax: Axes,
    values: Mapping[str, float] | Values,
    ylabel: str = "",
    title: str | None = None,
    colors: str | Sequence[str] = BLUE,
    labels: Sequence[str] | None = None,
) -> Axes:
    """Numbers as bars.

    Args:
        values: `{name: number}`, or `[K]` numbers.
        labels: below the bars. Default: the names, or 0..K-1.

    Example:
        >>> import pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.bars(ax, {"z": 9.4, "w": 0.1}, "nats per data point")
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['z', 'w']
    """
    if isinstance(values, Mapping):
        names, heights = list(values), np.array(list(values.values()), float)
    else:
        heights = _array(values)
        names = [str(i) for i in range(len(heights))]
    names = names if labels is None else list(labels)
    ax.bar(range(len(heights)), heights, color=colors, width=0.75)
    step = 1 + (len(names) - 1) // 30  # more labels would overlap
    ax.set_xticks(range(0, len(names), step), names[::step])
    if len(names) > 12:
        ax.tick_params(axis="x", labelsize=7)
    ax.set_ylabel(ylabel)
    if title:
        ax.set_title(title)
    return _plain(ax)


def unit_kl(ax: Axes, kl: Values, active: Values | None = None, title: str | None = None) -> Axes:
    """The KL of each unit of a latent, the largest first.

    Args:
        kl: `[D]` nats per data point, as `evaluate.unit_kl` returns.
        active: `[D]` bool; units that are not active are gray.

    Example:
        >>> import pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.unit_kl(ax, [0.0, 2.5, 1.0], [False, True, True])
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['1', '2', '0']
    """
    kl = _array(kl)
    order = np.argsort(-kl, kind="stable")
    on = np.ones(len(kl), bool) if active is None else _array(active).astype(bool)
    colors = [BLUE if on[i] else GREY for i in order]
    bars(ax, kl[order], "nats per data point", title, colors, [str(i) for i in order])
    ax.set_xlabel("latent unit")
    if not on.all():
        kinds = [(BLUE, "active")] * bool(on.any()) + [(GREY, "not active")]
        ax.legend(handles=[Patch(color=c, label=text) for c, text in kinds], frameon=False)
        ax.set_ylim(0, 1.35 * max(float(kl.max()), 1e-6))  # room for the legend
    return ax


def unit_activity(
    ax: Axes,
    activity: Values,
    threshold: float = 0.01,
    order: Values | None = None,
    title: str | None = None,
) -> Axes:
    """The variance of each unit's posterior mean over the data, with the threshold of active units.

    Args:
        activity: `[D]` variances.
        threshold: a unit is active above it.
        order: `[D]` the order of the units. Default: the most active first.

    References:
        Burda et al. 2016, arXiv 1509.00519.

    Example:
        >>> import pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.unit_activity(ax, [1e-4, 0.9, 0.5])
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['1', '2', '0']
    """
    activity = _array(activity)
    order = np.argsort(-activity, kind="stable") if order is None else _array(order)
    low = min(threshold, activity[activity > 0].min(initial=threshold)) / 10
    colors = [BLUE if activity[i] > threshold else GREY for i in order]
    labels = [str(i) for i in order]
    bars(ax, activity[order].clip(low, None), "variance of the mean", title, colors, labels)
    ax.set_yscale("log")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(low, max(activity.max(), threshold) * 20)  # room for the legend
    ax.axhline(threshold, color=ORANGE, lw=1.2, ls="--", label=f"active above {threshold:g}")
    ax.legend(frameon=False, loc="upper right", fontsize=8)
    ax.set_xlabel("latent unit")
    return ax


def gaps(ax: Axes, summary: Sequence[Mapping], title: str | None = None) -> Axes:
    """One bar per guide: the approximation gap of its family, then its amortization gap.

    A bar that is more than four times as long as the others' median ends at the edge, with its
    number.

    Args:
        summary: `[{"guide", "approximation": (mean, sd), "amortization": (mean, sd)}]`, in nats.

    References:
        Cremer et al. 2018, arXiv 1801.03558.

    Example:
        >>> import pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> rows = [{"guide": "full", "approximation": (0.1, 0.0), "amortization": (0.4, 0.1)}]
        >>> ax = pv.plots.gaps(ax, rows)
        >>> ax.texts[0].get_text()
        '0.50'
    """
    names = [row["guide"] for row in summary]
    left, right = np.zeros(len(names)), np.zeros(len(names))
    for part, color in (("approximation", BLUE), ("amortization", ORANGE)):
        mean, sd = np.array([row[part] for row in summary]).T
        ax.barh(names, mean, left=left, color=color, height=0.62, label=f"{part} gap")
        left = left + mean
        right = np.maximum(right, left + sd)
        if sd.any():
            ax.errorbar(left, names, xerr=sd, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
    fits = right <= 4 * np.median(right)
    end = 1.18 * right[fits].max()
    for y, total in enumerate(left):
        ax.annotate(
            f"{total:.2f}" + ("" if fits[y] else " \N{RIGHTWARDS ARROW}"), (min(right[y], end), y),
            (6 if fits[y] else -6, 0), textcoords="offset points", va="center", fontsize=9,
            ha="left" if fits[y] else "right", color=INK if fits[y] else "white",
        )  # fmt: skip
    if not ax.yaxis_inverted():  # panels may share their axis
        ax.invert_yaxis()
    ax.set_xlim(min(0, left.min()), end)
    ax.set_xlabel("log p(x) - ELBO, nats per data point")
    if title:
        ax.set_title(title)
    return _plain(ax)


# ------------------------------------------------------------------- components and classes


def occupancy(ax: Axes, fractions: Values, order: Values | None = None) -> Axes:
    """The fraction of the data in each component; the dotted line is the uniform fraction.

    Args:
        fractions: `[K]`, as `evaluate.occupancy` returns.
        order: `[K]` the order of the components. Default: 0..K-1.

    Example:
        >>> import pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.occupancy(ax, [0.7, 0.1, 0.2], order=[0, 2, 1])
        >>> [tick.get_text() for tick in ax.get_xticklabels()]
        ['0', '2', '1']
    """
    fractions = _array(fractions).astype(float)
    order = np.arange(len(fractions)) if order is None else _array(order)
    labels = [str(i) for i in order]
    bars(ax, fractions[order], "fraction of the data", "component occupancy", BLUE, labels)
    ax.axhline(1 / len(fractions), color=INK, lw=0.8, ls=":")
    ax.set_xlabel("component")
    return ax


def component_order(labels: Values, clusters: Values, num_clusters: int) -> np.ndarray:
    """`[K]` components sorted by the label that each is matched with, for display alone.

    Components are matched one to one with labels (Hungarian method); those left over follow the
    component of the label that most of their data have. Empty ones are last. With as many
    components as labels, a table in this order has the matches on its diagonal.

    Args:
        labels: `[N]` ints; -1 is not labeled.
        clusters: `[N]` ints in 0..K-1.
        num_clusters: K.

    Example:
        >>> import pyro_vae as pv
        >>> pv.plots.component_order([0, 0, 1, 1, 2], [2, 2, 0, 0, 1], 3)
        array([2, 0, 1])
    """
    from scipy.optimize import linear_sum_assignment

    table = _counts(labels, clusters, num_clusters)
    matched, classes = linear_sum_assignment(table, maximize=True)
    label, rank = table.argmax(1), np.ones(num_clusters)
    label[matched], rank[matched] = classes, 0
    if num_clusters > table.shape[1]:
        label[table.sum(1) == 0] = table.shape[1]
    return np.lexsort((-table.sum(1), rank, label))


def contingency(
    ax: Axes,
    labels: Values,
    clusters: Values,
    num_clusters: int,
    order: Values | None = None,
    names: Sequence[str] | None = None,
) -> Axes:
    """How many data points of each label (columns) each component (rows) contains.

    Args:
        labels: `[N]` ints; data labeled -1 are left out.
        clusters: `[N]` ints in 0..K-1.
        num_clusters: K.
        order: `[K]` the order of the rows. Default: `component_order`.
        names: of the labels. Default: their numbers.

    Example:
        >>> import pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.contingency(ax, [0, 0, 1], [1, 1, 0], 2)
        >>> [tick.get_text() for tick in ax.get_yticklabels()]
        ['1', '0']
    """
    order = component_order(labels, clusters, num_clusters) if order is None else _array(order)
    table = _counts(labels, clusters, num_clusters, None if names is None else len(names))
    _table(ax, table[order], [str(i) for i in order], names)
    ax.set_xlabel("label")
    ax.set_ylabel("component")
    ax.set_title("components by label")
    return ax


def confusion(
    ax: Axes,
    labels: Values,
    classes: Values,
    num_classes: int,
    names: Sequence[str] | None = None,
) -> Axes:
    """How many data points of each true class (rows) were predicted to be of each class (columns).

    Args:
        labels: `[N]` true classes; data labeled -1 are left out.
        classes: `[N]` predicted classes.
        names: of the classes. Default: their numbers.

    Example:
        >>> import pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.confusion(ax, [0, 0, 1], [0, 1, 1], 2)
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('predicted class', 'true class')
    """
    table = _counts(labels, classes, num_classes, num_classes).T
    names = [str(i) for i in range(num_classes)] if names is None else names
    _table(ax, table, [_short(name) for name in names], names)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    ax.set_title("confusion matrix")
    return ax


def _counts(
    labels: Values, clusters: Values, num_clusters: int, num_classes: int | None = None
) -> np.ndarray:
    """`[clusters, classes]` numbers of data."""
    labels, clusters = _array(labels), _array(clusters)
    labels, clusters = labels[labels >= 0], clusters[labels >= 0]
    num_classes = int(labels.max(initial=0)) + 1 if num_classes is None else num_classes
    table = np.zeros((num_clusters, num_classes), int)
    np.add.at(table, (clusters, labels), 1)
    return table


def _table(
    ax: Axes,
    table: np.ndarray,
    row_labels: Sequence[str],
    column_labels: Sequence[str] | None = None,
) -> None:
    """Counts on cells whose opacity is their size, so that any background goes."""
    rows, columns = table.shape
    shades = table / max(1, table.max())
    ax.pcolormesh(shades, cmap=_shades(BLUE), vmin=0, vmax=1, antialiased=True)
    size = 8 if max(rows, columns) <= 12 else 6
    for i, j in zip(*np.nonzero(table), strict=True):
        color = "white" if shades[i, j] > 0.55 else INK
        ax.text(
            j + 0.5, i + 0.5, str(table[i, j]), ha="center", va="center", fontsize=size, color=color
        )
    names = [_short(name) for name in column_labels or map(str, range(columns))]
    upright = sum(map(len, names)) > 36
    ax.set_xticks(np.arange(columns) + 0.5, names, rotation=90 if upright else 0)
    ax.set_yticks(np.arange(rows) + 0.5, row_labels)
    ax.tick_params(length=0, labelsize=9 if size == 8 else 7)
    ax.invert_yaxis()
    for spine in ax.spines.values():
        spine.set_color(GREY)


def _short(text: str, length: int = 16) -> str:
    """A name, cut to a length."""
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _shades(color: str) -> Colormap:
    """From transparent to a color."""
    rgb = to_rgb(color)
    return LinearSegmentedColormap.from_list("shades", [(*rgb, 0.0), (*rgb, 1.0)])


# ------------------------------------------------------------------- latent space


class Projection(NamedTuple):
    """A linear map of codes into the plane, and the codes in it; what `project` returns.

    Example:
        >>> import torch, pyro_vae as pv
        >>> view = pv.plots.project(torch.randn(50, 8))
        >>> view(torch.zeros(3, 8)).shape, view.covariance(torch.eye(8).expand(3, 8, 8)).shape
        ((3, 2), (3, 2, 2))
    """

    points: np.ndarray  #: `[N, 2]`
    labels: tuple[str, str]  #: what the two axes are
    center: np.ndarray  #: `[D]`
    directions: np.ndarray  #: `[D, 2]`

    def __call__(self, codes: Values) -> np.ndarray:
        """`[N, D]` codes in the plane, `[N, 2]`."""
        return (_array(codes) - self.center) @ self.directions

    def covariance(self, covariances: Values) -> np.ndarray:
        """`[K, D, D]` covariances in the plane, `[K, 2, 2]`."""
        return self.directions.T @ _array(covariances) @ self.directions


def project(codes: Values, name: str = "z") -> Projection:
    """Codes in the plane: as they are if they have two units or one, else in two principal components.

    Labels and clusters have no part in it.

    Args:
        codes: `[N, D]`.
        name: of the latent, for the labels of the axes.

    Example:
        >>> import torch, pyro_vae as pv
        >>> view = pv.plots.project(torch.randn(50, 2))
        >>> view.labels
        ('unit 0 of z', 'unit 1 of z')
        >>> pv.plots.project(torch.randn(50, 8)).points.shape
        (50, 2)
    """
    codes = _array(codes).astype(float)
    size = codes.shape[1]
    if size <= 2:
        directions = np.eye(size, 2)
        labels = f"unit 0 of {name}", f"unit 1 of {name}" if size == 2 else ""
        return Projection(codes @ directions, labels, np.zeros(size), directions)
    center = codes.mean(0)
    _, sizes, rows = np.linalg.svd(codes - center, full_matrices=False)
    rows = np.concatenate([rows, np.zeros((2, size))])[:2]  # of a single code there is but one
    rows *= np.where(rows[np.arange(2), np.abs(rows).argmax(1)] < 0, -1, 1)[:, None]  # sign is free
    variances = np.append(sizes**2, [0.0, 0.0])
    fractions = variances[:2] / max(variances.sum(), 1e-300)
    first, second = (
        f"principal component {i + 1} of {name} ({100 * f:.0f} % of the variance)"
        for i, f in enumerate(fractions)
    )
    return Projection((codes - center) @ rows.T, (first, second), center, rows.T)


def scatter(
    ax: Axes,
    points: Values,
    groups: Values | None = None,
    title: str | None = None,
    names: Sequence[str] | None = None,
    axis_labels: tuple[str, str] | None = None,
) -> Axes:
    """Points in the plane, in the color of their group, with each group's name at its center.

    A long name is cut.

    Args:
        points: `[N, 2]`.
        groups: `[N]` ints from 0; -1 is gray and has no name.
        names: of the groups. Default: their numbers.
        axis_labels: of the horizontal and the vertical axis.

    Example:
        >>> import torch, pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.scatter(ax, torch.randn(20, 2), torch.arange(20) % 2, axis_labels=("a", "b"))
        >>> [text.get_text() for text in ax.texts]
        ['0', '1']
    """
    points = _array(points)
    raster = len(points) > RASTER
    x, y = points.T
    if groups is None:
        ax.scatter(x, y, s=5, color=BLUE, alpha=0.6, lw=0, rasterized=raster)
    else:
        groups = _array(groups)
        n = int(groups.max()) + 1
        colors = palette(max(n, 2))
        for k in range(-1, n):
            where = groups == k
            if not where.any():
                continue
            marker = MARKERS[max(k, 0) // len(CATEGORIES) % len(MARKERS)]
            color = to_rgba(GREY) if k < 0 else colors(k)
            ax.scatter(
                x[where], y[where], s=12, color=color, marker=marker, alpha=0.75, lw=0,
                rasterized=raster,
            )  # fmt: skip
        shown = [k for k in range(n) if (groups == k).any()]
        if shown:
            centers = np.stack([np.median(points[groups == k], 0) for k in shown])
            for k, center in zip(shown, _apart(centers, np.ptp(points, 0)), strict=True):
                _badge(ax, center, str(k) if names is None else _short(names[k]), colors(k))
    if title:
        ax.set_title(title)
    if axis_labels is not None:
        ax.set_xlabel(axis_labels[0])
        ax.set_ylabel(axis_labels[1])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    ax.tick_params(labelsize=8)
    return _plain(ax)


def _apart(centers: np.ndarray, extent: np.ndarray, distance: float = 0.05) -> np.ndarray:
    """Points `[K, 2]`, moved apart until none is nearer to another than a share of the extent."""
    extent = np.where(extent > 0, extent, 1.0)
    moved = centers / extent
    for _ in range(50):
        away = moved[:, None] - moved[None]
        gap = np.hypot(*np.moveaxis(away, -1, 0))
        near = (gap < distance) & ~np.eye(len(moved), dtype=bool)
        if not near.any():
            break
        away[gap == 0] = [0.0, 1e-3]
        away = np.triu(away[..., 0]), np.triu(away[..., 1])
        steps = np.stack([a - a.T for a in away], -1)
        lengths = np.maximum(np.hypot(*np.moveaxis(steps, -1, 0)), 1e-9)
        push = np.where(near, 0.55 * (distance - gap).clip(0), 0.0) / lengths
        moved = moved + (steps * push[..., None]).sum(1)
    return moved * extent


def _badge(ax: Axes, at: np.ndarray, text: str, color: Iterable[float]) -> None:
    """A short text on a disk of the color, in black or white, whichever can be read."""
    shape = "circle,pad=0.25" if len(text) <= 2 else "round,pad=0.25"
    r, g, b, *_ = color
    dark = 0.3 * r + 0.59 * g + 0.11 * b < 0.5
    ax.annotate(
        text, (at[0], at[1]), ha="center", va="center", fontsize=8, fontweight="bold",
        color="#ffffff" if dark else "#000001",  # the disk's color stays in dark mode: so must this
        bbox={"boxstyle": shape, "fc": (r, g, b, 0.9), "ec": "white", "lw": 0.8},
    )  # fmt: skip


def ellipses(
    ax: Axes,
    means: Values,
    covariances: Values,
    num_sd: float = 2.0,
    color: str | None = BLUE,
    label: str | None = None,
    **style: Any,
) -> Axes:
    """An ellipse for each of K normal distributions in the plane.

    It contains the mass 1 - exp(-num_sd^2 / 2): 0.86 with two standard deviations.

    Args:
        means: `[K, 2]`.
        covariances: `[K, 2, 2]`; or `[K, 2]`, the standard deviations of diagonal ones.
        num_sd: how many standard deviations the boundary is from the center.
        color: of all of them; None: the colors that `scatter` gives to groups.
        label: of the first, for a legend.
        style: of the patches, e.g. `fill=False, linewidth=1.3`. Default: filled, transparent.

    Example:
        >>> import numpy as np, pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.ellipses(ax, np.zeros((1, 2)), np.eye(2)[None], num_sd=1)
        >>> float(ax.patches[0].width)
        2.0
    """
    means, covariances = _array(means), _array(covariances)
    if covariances.ndim == 2:
        covariances = covariances[:, :, None] ** 2 * np.eye(2)
    colors = palette(max(len(means), 2))
    style = {"fill": True, "linewidth": 0.0, "alpha": 0.4, **style}
    for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        values, vectors = np.linalg.eigh(covariance)
        width, height = 2 * num_sd * np.sqrt(values.clip(0))
        angle = math.degrees(math.atan2(vectors[1, 0], vectors[0, 0]))
        shape = Ellipse(
            (mean[0], mean[1]), width, height, angle=angle, color=color or colors(k),
            label=label if k == 0 else None, **style,
        )  # fmt: skip
        ax.add_patch(shape)
    ax.autoscale_view()
    return ax


def graph(
    ax: Axes,
    parents: Mapping[str, Sequence[str]],
    observed: Sequence[str] = ("x",),
    plate: str | None = "N data points",
    dashed: bool = False,
    title: str | None = None,
) -> Axes:
    """A graphical model: circles for variables (observed ones are filled), arrows from parents.

    A variable stands below all its parents. A parent that has no entry of its own counts as
    observed: `graph(ax, guide.given, dashed=True)` draws a guide, with x above z.

    Args:
        parents: `{variable: [parents]}`.
        observed: names of observed variables.
        plate: the label of the plate around all variables; None draws no plate.
        dashed: whether arrows are dashed, as is usual for guides.

    Example:
        >>> import pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.graph(ax, {"z": (), "x": ("z",)})
        >>> [text.get_text() for text in ax.texts if "$" in text.get_text()]
        ['$z$', '$x$']
    """
    roots = [p for above in parents.values() for p in above if p not in parents]
    filled = {*observed, *roots}
    levels = dict.fromkeys(roots, 0)
    for name, above in parents.items():
        levels[name] = 1 + max((levels[p] for p in above), default=-1)
    rows = [[n for n in levels if levels[n] == row] for row in range(1 + max(levels.values()))]
    place = {
        name: (1.4 * (column - (len(row) - 1) / 2), -1.4 * depth)
        for depth, row in enumerate(rows)
        for column, name in enumerate(row)
    }
    circles = {}
    for name, (across, up) in place.items():
        face = "#d5d5d5" if name in filled else "white"
        circles[name] = Circle((across, up), 0.36, facecolor=face, edgecolor=INK, zorder=2)
        ax.add_patch(circles[name])
        text = f"${name}$" if len(name) == 1 else name
        ax.text(across, up, text, ha="center", va="center", zorder=3)
    arrow: dict[str, Any] = {
        "arrowstyle": "-|>",
        "color": INK,
        "linestyle": "--" if dashed else "-",
    }
    for name, above in parents.items():
        for parent in above:
            start, end = np.array(place[parent]), np.array(place[name])
            ends = {"patchA": circles[parent], "patchB": circles[name], "shrinkA": 0, "shrinkB": 0}
            bend = _bend(start, end, list(place.values()))
            style = {"connectionstyle": f"arc3,rad={bend:.2f}"}
            ax.annotate("", tuple(end), tuple(start), arrowprops={**arrow, **ends, **style})
    half = 0.75 + max(abs(across) for across, _ in place.values())
    low = -1.4 * max(1, len(rows) - 1) - (1.0 if plate else 0.75)
    if plate:
        ax.add_patch(
            Rectangle((-half, low), 2 * half, 0.7 - low, fill=False, edgecolor=GREY, zorder=0)
        )
        ax.text(half - 0.08, low + 0.08, plate, ha="right", va="bottom", fontsize=8, color=GREY)
    ax.set(xlim=(-half - 0.1, half + 0.1), ylim=(low - 0.1, 0.8), aspect="equal")
    if title:
        ax.set_title(title)
    return _bare(ax)


def _bend(start: np.ndarray, end: np.ndarray, places: Sequence[tuple[float, float]]) -> float:
    """The curvature of an arrow that goes around the circles between its ends; 0 if none is."""
    along = end - start
    length = float(np.linalg.norm(along))
    sides = []  # of the circles in the way: negative to the left, seen along the arrow
    for place in places:
        across, up = np.array(place) - start
        position = (along[0] * across + along[1] * up) / length
        side = (along[1] * across - along[0] * up) / length
        if 1e-6 < position < length - 1e-6 and abs(side) < 0.36:
            sides.append(side)
    if not sides:
        return 0.0
    to_the_right = sum(sides) < -1e-6 or (abs(sum(sides)) < 1e-6 and len(sides) % 2)
    return (1.2 if to_the_right else -1.2) / length


# ------------------------------------------------------------------- columns of a table


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
    both = [_array(values).astype(float) for values in (data, draws)]
    both = [values[np.isfinite(values)] for values in both]
    known = np.concatenate(both)
    if title:
        ax.set_title(title)
    if not len(known):
        return _plain(ax)
    if kind in ("binary", "boolean"):
        values, names = 2, ["false", "true"] if kind == "boolean" else None
    else:
        values = len(names) if names is not None else int(known.max()) + 1
    if kind != "real" and (kind != "count" or values <= 12):
        for number, (part, color) in enumerate(zip(both, (BLUE, ORANGE), strict=True)):
            counts = np.bincount(part.round().astype(int), minlength=values)
            at = np.arange(values) + 0.4 * number - 0.2
            ax.bar(at, counts / max(1, len(part)), 0.4, color=color)
        labels = [str(i) for i in range(values)] if names is None else [_short(n, 9) for n in names]
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
    return _plain(ax)


def _bin_edges(values: np.ndarray, whole: bool, num: int) -> np.ndarray:
    """The edges of a histogram between the outer half percents; of whole numbers, halves."""
    low, high = np.quantile(values, [0.005, 0.995])
    if whole:
        width = max(1, math.ceil((high - low + 1) / num))
        return np.arange(math.floor(low), high + width + 1, width) - 0.5
    if high <= low:  # a constant column
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, num + 1)


# ------------------------------------------------------------------- diagnostics


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

    values = _array(values).ravel()
    edges = np.linspace(0, num_samples + 1, bins + 1) - 0.5
    low, high = binom.interval(0.99, len(values), 1 / bins)
    ax.axhspan(low, high, color=GREY, alpha=0.3, lw=0)
    ax.axhline(len(values) / bins, color=INK, lw=0.8, ls=":")
    ax.hist(values, edges.tolist(), color=BLUE, rwidth=0.92)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xlabel("rank of the truth among the guide's draws")
    ax.set_ylabel("data")
    if title:
        ax.set_title(title)
    return _plain(ax)


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
    horizontal, vertical = _array(grid.axes[datum])
    true = _array(grid.posterior[datum]).T
    levels = _mass_levels(true, masses)
    fills = [_shades(BLUE)(v) for v in np.linspace(0.25, 0.85, len(levels))]
    ax.contourf(horizontal, vertical, true, [*levels, true.max() * 1.001], colors=fills)
    handles: list[Patch | Line2D] = [Patch(color=fills[-1], label="posterior")]
    shown = true > levels[0] / 20
    if draws is not None:
        first, second = _array(draws).T
        ax.scatter(first, second, s=2, color=INK, lw=0, alpha=0.35)
        handles.append(Line2D([], [], color=INK, marker=".", lw=0, ms=4, label="NUTS"))
    if grid.guide is not None:
        guide = _array(grid.guide[datum]).T
        shown |= guide > guide.max() / 300
        levels = _mass_levels(guide, masses)
        ax.contour(horizontal, vertical, guide, levels, colors=ORANGE, linewidths=1.2)
        handles.append(Line2D([], [], color=ORANGE, lw=1.2, label="guide"))
    ax.set_xlim(*horizontal[np.flatnonzero(shown.any(0))[[0, -1]]])
    ax.set_ylim(*vertical[np.flatnonzero(shown.any(1))[[0, -1]]])
    ax.set_aspect("equal")
    ax.legend(handles=handles, frameon=False, fontsize=8)
    ax.set_xlabel("$z_1$")
    ax.set_ylabel("$z_2$")
    if title:
        ax.set_title(title)
    return _plain(ax)


# ------------------------------------------------------------------- shared


def _array(values: Values) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)


def _bare(ax: Axes) -> Axes:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def _plain(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    return ax
