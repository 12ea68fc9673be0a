"""The section of a report about the columns of a table: each in the data and in draws of the model."""

import math
from itertools import accumulate, islice
from typing import NamedTuple

import torch
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .. import plots
from ..conditionals import Columns, Conditional, Family, LibrarySize, OneHotLikelihood
from ..conditionals.missing import without_missing
from ..data.display import named_columns
from ..evaluate import ColumnProfile, column_profiles
from ..generate import sample
from ..programs.inspection import covariates_of
from ..programs.interfaces import conditional_of
from .context import ReportContext
from .html import Section
from .samples import WIDTH

MOST_COLUMNS, MOST_COMPONENTS = 24, 12
MOST_DATA = 2000
ROW_HEIGHT = 1.2  # inches


class ShownColumn(NamedTuple):
    """A column of the frame, or of x, and its columns in x."""

    name: str
    kind: str  #: as of `data.tables.KINDS`
    categories: list[str] | None
    start: int
    size: int

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """The column of x `[N, D]`; of a category the number of its value; NaN where it is missing."""
        part = x[:, self.start : self.start + self.size]
        if self.categories is None:
            return part[:, 0]
        codes = part.nan_to_num().argmax(1).to(x.dtype)
        return torch.where(part.isnan().any(1), torch.nan, codes)

    def kind_of(self, *samples: torch.Tensor) -> str:
        """The kind that all samples fit: draws of another likelihood may be real numbers.

        A column of no frame has the kind that its values suggest.
        """
        known = torch.cat([v[~v.isnan()] for v in samples])
        if self.kind in ("real", "category"):
            return self.kind
        if bool(((known < 0) | (known != known.round())).any()):
            return "real"
        return "count" if bool((known > 1).any()) else self.kind


def columns(context: ReportContext) -> list[Section]:
    """The distribution of each column of a table, in the data and in draws of the model."""
    shape = tuple(context.as_shown(context.x[:1]).shape[1:])
    if len(shape) != 1 or shape == (2,):  # points in the plane have a scatter plot
        return []
    n, split = min(len(context.x), MOST_DATA), context.split
    covariates = {name: context.others[name][:n] for name in covariates_of(context.model)}
    covariates = covariates or context.own_arguments(n)
    draws = sample(context.model, n, seed=context.seed, **covariates)
    data = context.data
    x, draws = (data.unstandardize(context.as_shown(v)).cpu() for v in (context.x[:n], draws))
    all_columns = _columns_of(context, shape[0])
    shown = all_columns[:MOST_COLUMNS]
    across = min(len(shown), 2 if len(shown) <= 12 else 3)
    height = 0.45 + ROW_HEIGHT * -(-len(shown) // across)
    figure, axes = plots.panels(len(shown), WIDTH, height, columns=across)
    for ax, column in zip(axes, shown, strict=True):
        values, drawn = column.values(x), column.values(draws)
        kind = column.kind_of(values, drawn)
        plots.column(ax, values, drawn, kind, column.categories)
        ax.set_title(column.name, fontsize=8)
        ax.tick_params(labelsize=7)
    handles = [
        Patch(color=plots.BLUE, label=f"{split} data"),
        Line2D([], [], color=plots.ORANGE, linewidth=3, label="draws of the model"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    some = "" if n == len(context.x) else f"the first {n} of "
    given = ", for the same covariates" if covariates else ""
    caption = (
        f"Each column in {some}the {split} data and in as many draws of the model{given}, as fractions "
        "of the observed values" + (", in original units. " if data.scaling is not None else ". ")
        + "Where both agree, the model has the column's own distribution; that does not yet mean that "
        "it has the dependence between columns."
    )  # fmt: skip
    family = _family(context)
    if isinstance(family, LibrarySize):
        caption += (
            f" All draws have the library size {family.size:g}, and each data point has its own: the "
            "data vary more."
        )
    if len(shown) < len(all_columns):
        caption += f" The first {len(shown)} of {len(all_columns)} columns."
    return [Section("Columns", figure, caption)]


def profiles(context: ReportContext) -> list[Section]:
    """The columns of a table, component by component: a row for each column."""
    clusters, data = context.clusters, context.data
    if clusters is None or len(context.x.shape) != 2 or data.table is None:
        return []
    size = context.responsibilities.shape[-1]  # type: ignore[union-attr]
    counts = torch.bincount(clusters, minlength=size)
    shown = [int(k) for k in context.order if counts[int(k)] > 0][:MOST_COMPONENTS]
    kinds = {column.name: column.kind for column in data.table.columns}
    named = named_columns(data, context.x)
    kept = dict(islice(named.items(), MOST_COLUMNS))
    found = column_profiles(kept, clusters.cpu().numpy(), size)
    names = context.label_names if context.has_some_labels else None
    header = [context.group, *(str(k) if names is None else names[k] for k in shown)]
    rows = [["data", *(f"{int(counts[k])}" for k in shown)]]
    for column in found:
        is_fraction = kinds[column.name] in ("boolean", "binary")
        cells = [_profile_cell(column, k, is_fraction) for k in shown]
        rows.append([str(column.name), *cells])
    caption = (
        f"The {context.result['split']} data of each {context.group}, each data point in its most "
        "probable one, in original units: mean ± standard deviation; of true and false, or 1 and 0, the "
        "fraction that is true; of a category the most frequent value and its fraction. Missing values do "
        "not count."
    )
    in_use = int((counts > 0).sum())
    if len(shown) < in_use:
        caption += f" The first {len(shown)} of {in_use} in use."
    if len(found) < len(named):
        caption += f" The first {len(found)} of {len(named)} columns."
    return [Section("Profiles", None, caption, [header, *rows])]


def _profile_cell(column: ColumnProfile, k: int, is_fraction: bool) -> str:
    center, spread = column.centers[k], column.spreads[k]
    if center is None or spread is None:
        return "–"
    if is_fraction:
        return f"{100 * center:.0f} %"
    if column.kind == "category":
        return f"{center} ({100 * spread:.0f} %)"
    if not 1e-5 < spread < 1e7:
        return f"{center:.4g} ± {spread:.2g}"
    decimals = max(0, 1 - math.floor(math.log10(spread)))
    return f"{center:.{decimals}f} ± {spread:.{decimals}f}"


def _columns_of(context: ReportContext, num: int) -> list[ShownColumn]:
    """The columns of x `[N, num]`: those of the frame, else of the likelihood, else one by one."""
    table = context.data.table
    if table is not None and len(table.names) == num:
        parts = [
            (str(c.name), c.kind, [str(v) for v in c.categories] or None, c.size)
            for c in table.columns
        ]
    else:
        parts = []
        for is_category, size in _blocks(context, num):
            first = sum(part[3] for part in parts)
            if is_category:
                name, names = f"columns {first} to {first + size - 1}", list(map(str, range(size)))
                parts.append((name, "category", names, size))
            else:  # see `kind_of`
                parts += [(f"column {first + i}", "binary", None, 1) for i in range(size)]
    starts = accumulate((part[3] for part in parts), initial=0)
    return [
        ShownColumn(name, kind, categories, start, size)
        for (name, kind, categories, size), start in zip(parts, starts, strict=False)
    ]


def _blocks(context: ReportContext, num: int) -> list[tuple[bool, int]]:
    """`(whether it is one category, number of columns)` of the blocks of the likelihood of x."""
    family = _family(context)
    if isinstance(family, Columns) and sum(size for _, size in family.blocks) == num:
        return [(isinstance(kind, OneHotLikelihood), size) for kind, size in family.families()]
    return [(False, num)]


def _family(context: ReportContext) -> Family | None:
    """The likelihood of x; None of a user-defined program."""
    conditional = conditional_of(context.model, "x")
    return without_missing(conditional.family) if isinstance(conditional, Conditional) else None
