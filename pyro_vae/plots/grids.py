"""Grids of images."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from ..errors import UserError
from ..generate.paths import Traversal
from .style import ORANGE, Values, as_array, without_axes


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
    x = (as_array(x).astype(float) / white).clip(0, 1)
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise UserError(f"images are [N, H, W] or [N, C, H, W] with C 1 or 3, not {list(x.shape)}")
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
    without_axes(ax)
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
    masks = as_array(masks).astype(bool)
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
            segments, colors=ORANGE, linewidths=1.4, capstyle="projecting", clip_on=False
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
    x, other = as_array(x), as_array(other)
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
    x = np.stack([as_array(v) for v in columns.values()], 1)
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
    x = as_array(x)
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
    x, values = as_array(traversed.x), as_array(traversed.values)
    num, steps = x.shape[:2]
    h, w = x.shape[-2:]
    units = [f"unit {u}" for u in as_array(traversed.units)]
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
