"""Components and classes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from .charts import bars
from .style import BLUE, GREY, INK, Values, as_array, shades, shortened


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
    fractions = as_array(fractions).astype(float)
    order = np.arange(len(fractions)) if order is None else as_array(order)
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
    order = component_order(labels, clusters, num_clusters) if order is None else as_array(order)
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
    _table(ax, table, [shortened(name) for name in names], names)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    ax.set_title("confusion matrix")
    return ax


def _counts(
    labels: Values, clusters: Values, num_clusters: int, num_classes: int | None = None
) -> np.ndarray:
    """`[clusters, classes]` numbers of data."""
    labels, clusters = as_array(labels), as_array(clusters)
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
    fractions = table / max(1, table.max())
    ax.pcolormesh(fractions, cmap=shades(BLUE), vmin=0, vmax=1, antialiased=True)
    size = 8 if max(rows, columns) <= 12 else 6
    for i, j in zip(*np.nonzero(table), strict=True):
        color = "white" if fractions[i, j] > 0.55 else INK
        ax.text(
            j + 0.5, i + 0.5, str(table[i, j]), ha="center", va="center", fontsize=size, color=color
        )
    names = [shortened(name) for name in column_labels or map(str, range(columns))]
    upright = sum(map(len, names)) > 36
    ax.set_xticks(np.arange(columns) + 0.5, names, rotation=90 if upright else 0)
    ax.set_yticks(np.arange(rows) + 0.5, row_labels)
    ax.tick_params(length=0, labelsize=9 if size == 8 else 7)
    ax.invert_yaxis()
    for spine in ax.spines.values():
        spine.set_color(GREY)
