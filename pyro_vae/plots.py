"""Pictures: each function draws on the matplotlib Axes that it is given, and returns them."""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Ellipse, Patch, Rectangle
from scipy.stats import binom

INK, GREY, BLUE, ORANGE = "#222222", "#9a9a9a", "#2a6fbb", "#d9772b"


def axes(width=6.0, height=4.0, rows=1, columns=1, **options):
    """A figure that belongs to no window, and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def _array(x):
    return x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def palette(n):
    """n colors that differ: tab10, tab20, then around the wheel."""
    name = "tab10" if n <= 10 else "tab20" if n <= 20 else "hsv"
    return ListedColormap(colormaps[name](np.linspace(0, 1, n, endpoint=n <= 20)))


def _bare(ax):
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def _plain(ax):
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def is_image(shape):
    """Whether data of this event shape can be shown as a picture."""
    return len(shape) in (2, 3) and (len(shape) == 2 or shape[0] in (1, 3))


def images(ax, x, columns=None, row_labels=None, title=None, white=1.0):
    """A grid of images `[N, (C,) H, W]`, row by row: 0 is black, `white` is white (and said, if not 1)."""
    x = (_array(x).astype(float) / white).clip(0, 1)
    if x.ndim == 3:
        x = x[:, None]
    n, c, h, w = x.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    pad = max(1, h // 14)
    canvas = np.ones((rows * (h + pad) - pad, columns * (w + pad) - pad, 3))
    for i, image in enumerate(x):
        r, k = divmod(i, columns)
        pixels = np.broadcast_to(image, (3, h, w)) if c == 1 else image
        canvas[r * (h + pad) :, k * (w + pad) :][:h, :w] = pixels.transpose(1, 2, 0)
    ax.imshow(canvas, interpolation="nearest")
    _bare(ax)
    if row_labels is not None:
        ax.set_yticks([r * (h + pad) + (h - 1) / 2 for r in range(rows)], row_labels)
        ax.tick_params(length=0)
    if white != 1:
        ax.set_xlabel(f"black is 0, white {white:g} or more")
    if title:
        ax.set_title(title)
    return ax


def white_of(x):
    """What to show as white: 1, or for counts and the like the largest of the data."""
    return max(1.0, float(x.max()))


def pairs_of_images(
    ax, x, other, columns=8, title=None, white=1.0, labels=("data", "reconstruction")
):
    """Rows of data, each above the row of its reconstructions."""
    x, other = _array(x), _array(other)
    columns = min(columns, len(x))
    whole = len(x) // columns * columns  # rows are whole
    x, other = x[:whole], other[:whole]
    rows = [
        part
        for i in range(0, len(x), columns)
        for part in (x[i : i + columns], other[i : i + columns])
    ]
    labels = [*labels] * (len(rows) // 2)
    return images(ax, np.concatenate(rows), columns, labels, title, white)


def columns_of_images(ax, columns, title=None):
    """`{heading: images [N, (C,) H, W]}`: a column each, one row per data point."""
    x = np.stack([_array(v) for v in columns.values()], 1)
    images(ax, x.reshape(-1, *x.shape[2:]), len(columns), title=title)
    width = x.shape[-1] + max(1, x.shape[-2] // 14)  # with the gap that `images` leaves
    ax.xaxis.tick_top()
    ax.set_xticks([i * width + x.shape[-1] / 2 - 0.5 for i in range(len(columns))], list(columns))
    ax.tick_params(length=0, labelsize=9)
    return ax


def curves(ax, history, best_epoch=None):
    """Training loss and validation -ELBO by epoch, nats per data point."""
    if not history:
        return _plain(ax)
    epochs = [row["epoch"] for row in history]
    loss = np.array([row["loss"] for row in history])
    ax.plot(epochs, loss, color=GREY, label="training loss")
    shown = [loss]
    if "elbo" in history[-1]:
        bound = -np.array([row["elbo"] for row in history])
        ax.plot(epochs, bound, color=BLUE, label="validation $-$ELBO")
        shown.append(bound)
    if best_epoch is not None and len(history) > 1:
        ax.axvline(best_epoch, color=ORANGE, lw=1, ls=":", label=f"best epoch, {best_epoch}")
    if len(history) > 4:  # the first epochs are far off, and would flatten the rest
        low = min(s.min() for s in shown)
        high = max(s[len(s) // 10] for s in shown)
        ax.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    ax.set_xlabel("epoch")
    ax.set_ylabel("nats per data point")
    ax.legend(frameon=False)
    return _plain(ax)


def bars(ax, values, ylabel=None, title=None, colors=BLUE, labels=None):
    """`{name: number}` as bars, or `[K]` numbers as bars 0..K-1."""
    if not isinstance(values, dict):
        values = {str(i): float(v) for i, v in enumerate(_array(values))}
    names = list(values) if labels is None else labels
    ax.bar(range(len(values)), list(values.values()), color=colors, width=0.75)
    ax.set_xticks(range(len(values)), names)
    ax.set_ylabel(ylabel or "")
    if title:
        ax.set_title(title)
    return _plain(ax)


def gaps(ax, summary, title=None):
    """A bar a guide: what its family costs (approximation), and what its network costs in addition.

    One that is more than four times as long as the others' median ends at the axis, with its number.

    Args:
        summary: `[{"guide", "approximation": (mean, sd), "amortization": (mean, sd)}]`, in nats.
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
    fit = right <= 4 * np.median(right)
    end = 1.18 * right[fit].max()
    for y, total in enumerate(left):
        ax.annotate(
            f"{total:.2f}" + ("" if fit[y] else " \N{RIGHTWARDS ARROW}"), (min(right[y], end), y),
            (6 if fit[y] else -6, 0), textcoords="offset points", va="center", fontsize=9,
            ha="left" if fit[y] else "right", color=INK if fit[y] else "white",
        )  # fmt: skip
    ax.invert_yaxis()
    ax.set_xlim(min(0, left.min()), end)
    ax.set_xlabel("log p(x) - ELBO, nats per data point")
    if title:
        ax.set_title(title)
    return _plain(ax)


def occupancy(ax, shares):
    """Shares of the data in each component, beside the uniform share."""
    shares = _array(shares)
    cmap = palette(len(shares))
    bars(
        ax,
        shares,
        "share of the data",
        "component occupancy",
        [cmap(i) for i in range(len(shares))],
    )
    ax.axhline(1 / len(shares), color=INK, lw=0.8, ls=":")
    ax.set_xlabel("component")
    return ax


def project(codes, groups=None, seed=0):
    """`[N, D]` codes in the plane: as they are for D = 2, else their first principal components.

    With `groups` (a model's own clusters, `[N]`), the two directions that part them best instead
    (linear discriminant analysis).
    """
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    codes = _array(codes)
    if codes.shape[1] == 1:
        return np.concatenate([codes, np.zeros_like(codes)], 1)
    if codes.shape[1] == 2:
        return codes
    if groups is not None and len(np.unique(_array(groups))) > 2:
        return LinearDiscriminantAnalysis(n_components=2).fit_transform(codes, _array(groups))
    return PCA(2, random_state=seed).fit_transform(codes)


def scatter(ax, points, colors=None, title=None, names=None, axis_labels=None):
    """Points `[N, 2]`, colored by whole numbers from 0 (-1: grey).

    Args:
        axis_labels: `(horizontal, vertical)`, for coordinates that mean something. Default: no axes.
    """
    points = _array(points)
    if colors is None:
        ax.scatter(*points.T, s=5, color=BLUE, lw=0, alpha=0.6)
    else:
        colors = _array(colors)
        n = int(colors.max()) + 1
        cmap = palette(max(n, 2))
        for k in range(-1, n):
            where = colors == k
            if where.any():
                label = "none" if k < 0 else str(k if names is None else names[k])
                color = GREY if k < 0 else cmap(k)
                ax.scatter(*points[where].T, s=14, color=color, lw=0, alpha=0.8, label=label)
        legend = ax.legend(
            frameon=False, fontsize=8, markerscale=1.6, loc="center left", bbox_to_anchor=(1, 0.5)
        )
        for handle in legend.legend_handles:
            handle.set_alpha(1)
    if title:
        ax.set_title(title)
    if axis_labels is None:
        return _bare(ax)
    ax.set(xlabel=axis_labels[0], ylabel=axis_labels[1])
    return _plain(ax)


def ellipses(
    ax: Axes,
    means: torch.Tensor,
    stddevs: torch.Tensor,
    color: str = BLUE,
    num_sd: float = 2.0,
    label: str | None = None,
    alpha: float = 0.4,
    linewidth: float = 0.0,
    fill: bool = True,
) -> Axes:
    """Diagonal normals in the plane, `means` and `stddevs` `[N, 2]`, as ellipses of `num_sd` sd."""
    for i, (mean, sd) in enumerate(zip(_array(means), _array(stddevs), strict=True)):
        width, height = 2 * num_sd * sd
        patch = Ellipse(
            mean, width, height, color=color, alpha=alpha, linewidth=linewidth, fill=fill
        )
        patch.set_label(label if i == 0 else None)
        ax.add_patch(patch)
    ax.set_aspect("equal")
    ax.autoscale_view()
    return _plain(ax)


def graph(
    ax: Axes,
    parents: Mapping[str, Iterable[str]],
    observed: Iterable[str] = ("x",),
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
    """
    parents = {name: tuple(above) for name, above in parents.items()}
    roots = [p for above in parents.values() for p in above if p not in parents]
    observed = {*observed, *roots}
    levels = dict.fromkeys(roots, 0)
    for name, above in parents.items():
        levels[name] = 1 + max((levels[p] for p in above), default=-1)
    rows = [[n for n in levels if levels[n] == row] for row in range(1 + max(levels.values()))]
    place = {
        name: (1.4 * (column - (len(row) - 1) / 2), -1.4 * depth)
        for depth, row in enumerate(rows)
        for column, name in enumerate(row)
    }
    for name, (across, up) in place.items():
        face = "#d5d5d5" if name in observed else "white"
        ax.add_patch(Circle((across, up), 0.36, facecolor=face, edgecolor=INK, zorder=2))
        text = f"${name}$" if len(name) == 1 else name
        ax.text(across, up, text, ha="center", va="center", zorder=3)
    arrow = {"arrowstyle": "-|>", "color": INK, "linestyle": "--" if dashed else "-"}
    for name, above in parents.items():
        for parent in above:
            start, end = np.array(place[parent]), np.array(place[name])
            rim = 0.36 * (end - start) / np.linalg.norm(end - start)
            ax.annotate(
                "", end - rim, start + rim, arrowprops={**arrow, "shrinkA": 0, "shrinkB": 0}
            )
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


def contingency(ax, labels, clusters, num_clusters):
    """How many data of each label (column) each component (row) holds."""
    labels, clusters = _array(labels), _array(clusters)
    classes = int(labels.max()) + 1
    table = np.zeros((num_clusters, classes), int)
    np.add.at(table, (clusters, labels), 1)
    ax.imshow(table, cmap="Blues", aspect="auto")
    for i in range(num_clusters):
        for j in range(classes):
            if table[i, j]:
                color = "white" if table[i, j] > 0.6 * table.max() else INK
                ax.text(j, i, table[i, j], ha="center", va="center", fontsize=8, color=color)
    ax.set_xticks(range(classes))
    ax.set_yticks(range(num_clusters))
    ax.set_xlabel("label")
    ax.set_ylabel("component")
    ax.set_title("what each component holds")
    return ax


def confusion(ax, labels, classes, num_classes):
    """How many data of each label (column) were given each class (row)."""
    contingency(ax, labels, classes, num_classes)
    ax.set_ylabel("class given")
    ax.set_title("confusion")
    return ax


def ranks(ax, values, num_samples, bins=20, title=None):
    """Ranks `[N]` in 0..num_samples of one latent number (`diagnostics.simulation_based_calibration`), beside uniform.

    The band holds 99 in 100 bins of a calibrated guide.
    """
    values = _array(values).ravel()
    edges = np.linspace(0, num_samples + 1, bins + 1) - 0.5
    low, high = binom.interval(0.99, len(values), 1 / bins)
    ax.axhspan(low, high, color=GREY, alpha=0.3, lw=0)
    ax.axhline(len(values) / bins, color=INK, lw=0.8, ls=":")
    ax.hist(values, edges, color=BLUE, rwidth=0.92)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xlabel("rank of the truth among the guide's draws")
    ax.set_ylabel("data")
    if title:
        ax.set_title(title)
    return _plain(ax)


def _mass_levels(density, shares):
    """The heights above which lie these shares of the mass, rising."""
    flat = np.sort(density.ravel())[::-1]
    mass = np.cumsum(flat) / flat.sum()
    levels = sorted({flat[min(np.searchsorted(mass, s), len(flat) - 1)] for s in shares})
    return [v for v in levels if v > 0]


def posterior(ax, grid, datum=0, draws=None, title=None, shares=(0.5, 0.9, 0.99)):
    """One data point's posterior over two latent numbers: true (filled), the guide's (lines), draws (dots).

    Contours hold the stated shares of the mass.

    Args:
        grid: of `diagnostics.posterior_grid`.
        draws: `[S, 2]`, of `diagnostics.nuts_posterior`.
    """
    horizontal, vertical = _array(grid.axes[datum])
    true = _array(grid.posterior[datum]).T
    levels = _mass_levels(true, shares)
    blues = [colormaps["Blues"](v) for v in np.linspace(0.2, 0.65, len(levels))]
    ax.contourf(horizontal, vertical, true, [*levels, true.max() * 1.001], colors=blues)
    handles = [Patch(color=blues[-1], label="posterior")]
    shown = true > levels[0] / 20
    if draws is not None:
        points = _array(draws)
        ax.scatter(*points.T, s=2, color=INK, lw=0, alpha=0.35)
        handles.append(Line2D([], [], color=INK, marker=".", lw=0, ms=4, label="NUTS"))
    if grid.guide is not None:
        mine = _array(grid.guide[datum]).T
        shown |= mine > mine.max() / 300
        ax.contour(
            horizontal, vertical, mine, _mass_levels(mine, shares), colors=ORANGE, linewidths=1.2
        )
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
