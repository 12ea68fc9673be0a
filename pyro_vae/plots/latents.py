"""Encodings in the plane."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator

from .style import (
    BLUE,
    CATEGORIES,
    GREY,
    MARKERS,
    RASTER,
    Values,
    as_array,
    in_the_plane,
    palette,
    shortened,
    with_two_spines,
)


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
        return (as_array(codes) - self.center) @ self.directions

    def covariance(self, covariances: Values) -> np.ndarray:
        """`[K, D, D]` covariances in the plane, `[K, 2, 2]`."""
        return self.directions.T @ as_array(covariances) @ self.directions


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
    codes = as_array(codes).astype(float)
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
    points = in_the_plane(points, "points")
    raster = len(points) > RASTER
    x, y = points.T
    if groups is None:
        ax.scatter(x, y, s=5, color=BLUE, alpha=0.6, lw=0, rasterized=raster)
    else:
        groups = as_array(groups)
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
                _badge(ax, center, str(k) if names is None else shortened(names[k]), colors(k))
    if title:
        ax.set_title(title)
    if axis_labels is not None:
        ax.set_xlabel(axis_labels[0])
        ax.set_ylabel(axis_labels[1])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    ax.tick_params(labelsize=8)
    return with_two_spines(ax)


def _apart(centers: np.ndarray, extent: np.ndarray) -> np.ndarray:
    """Points `[K, 2]`, moved apart until none is nearer to another than a twentieth of the extent."""
    distance = 0.05
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
    means, covariances = in_the_plane(means, "means"), as_array(covariances)
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
