"""The graph of a pair."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Rectangle

from ..programs.calling import check_program
from ..programs.dependencies import dependencies_of
from ..programs.inspection import Example
from .style import GREY, INK, without_axes


def graph(
    ax: Axes,
    program: Callable[..., Any] | Mapping[str, Sequence[str]],
    observed: Sequence[str] = ("x",),
    plate: str | None = "N data points",
    dashed: bool = False,
    title: str | None = None,
    example: Example | None = None,
) -> Axes:
    """A graphical model: circles for variables (observed ones are filled), arrows from parents.

    A variable stands below all its parents. A parent that has no entry of its own counts as
    observed: `graph(ax, guide, dashed=True)` draws a guide, with x above z.

    Args:
        program: any model or guide, whose graph is read off one run; or `{variable: [parents]}`.
        observed: names of observed variables.
        plate: the label of the plate around all variables; None draws no plate.
        dashed: whether arrows are dashed, as is usual for guides.
        title: above the graph.
        example: x, or `{"x": x, ...}`, a batch to run the program on. A model that takes `size=`, and a
            `Guide`, need none.

    Raises:
        UserError: no example where one is needed, or one that the program fails on.

    Example:
        >>> import pyro_vae as pv
        >>> _, ax = pv.plots.axes()
        >>> ax = pv.plots.graph(ax, pv.models.VAE((5,), latent_dim=2))
        >>> [text.get_text() for text in ax.texts if text.get_style() == "italic"]
        ['z', 'x']
    """
    if isinstance(program, Mapping):
        parents = program
    else:
        check_program("model", program)
        parents, data = dependencies_of(program, example)
        observed = (*observed, *data)
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
        size = min(10.0, 44 / len(name))  # within the circle
        slant = "italic" if len(name) == 1 else "normal"
        ax.text(
            across, up, name, ha="center", va="center", zorder=3, fontsize=size, fontstyle=slant
        )
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
    return without_axes(ax)


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
