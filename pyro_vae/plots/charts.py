"""Curves and bars."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullFormatter

from .style import BLUE, GREY, INK, ORANGE, Values, as_array, with_two_spines


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
        return with_two_spines(ax)
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
    return with_two_spines(ax)


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
        heights = as_array(values)
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
    return with_two_spines(ax)


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
    kl = as_array(kl)
    order = np.argsort(-kl, kind="stable")
    on = np.ones(len(kl), bool) if active is None else as_array(active).astype(bool)
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
    activity = as_array(activity)
    order = np.argsort(-activity, kind="stable") if order is None else as_array(order)
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
    return with_two_spines(ax)
