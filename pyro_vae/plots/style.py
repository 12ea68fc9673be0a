"""Axes, colors and what all figures share."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from ..errors import UserError

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


def as_written(figure: Figure) -> Figure:
    """The same figure, whose texts are shown as they are written: no dollar sign begins a formula.

    For figures with names of columns, categories or classes, which may have dollar signs.

    Example:
        >>> import pyro_vae as pv
        >>> figure, ax = pv.plots.axes(3, 2)
        >>> ax = pv.plots.bars(ax, {"from $0 to $9": 1.0, "$10 and more": 2.0})
        >>> pv.plots.as_written(figure).savefig("bars.svg")  # doctest: +SKIP
    """
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
    return figure


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


def as_array(values: Values) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    return np.asarray(values)


def in_the_plane(values: Values, name: str) -> np.ndarray:
    """Values `[N, 2]` as an array; raises for another shape."""
    array = as_array(values)
    if array.ndim != 2 or array.shape[1] != 2:
        raise UserError(
            f"{name} has shape {list(array.shape)}, and the plane takes [N, 2]: pv.plots.project(z) "
            "makes it so"
        )
    return array


def without_axes(ax: Axes) -> Axes:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def with_two_spines(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def shortened(text: str, length: int = 16) -> str:
    """A name, cut to a length."""
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def shades(color: str) -> Colormap:
    """From transparent to a color."""
    rgb = to_rgb(color)
    return LinearSegmentedColormap.from_list("shades", [(*rgb, 0.0), (*rgb, 1.0)])
