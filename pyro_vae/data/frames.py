"""`Data` from DataFrames and AnnData: a likelihood per column, categories one-hot, rows named."""

import dataclasses
import shlex
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..conditionals import Family
from ..conditionals import likelihood as check_likelihood
from ..errors import UserError, unknown_name_error
from .arrays import warn_of_signs
from .dataset import Data
from .library_size import with_library_size
from .sparse import likelihood_of_counts
from .splitting import from_arrays, likelihood_for
from .tables import (
    FEW_CATEGORIES,
    ColumnType,
    Table,
    categories_of,
    column_type,
    columns_of,
    drop_hint,
    is_anndata,
    kind_hint,
    matrix_of,
    plain_values,
    row_names,
    sparse_counts_of,
)

MOST_LISTED = 8  # columns, in a message


def from_frame(
    frame: Any,
    labels: str | None = None,
    index: str | None = None,
    kinds: Mapping[str, str] | None = None,
    valid: float | int = 0.1,
    test: float | int = 0.1,
    name: str = "data",
    split_seed: int = 0,
    likelihood: str | Family | None = None,
    library_size: bool = False,
    drop: Collection[str] | None = None,
    covariates: Collection[str] | None = None,
) -> Data:
    """`Data` from a pandas or polars DataFrame; missing values are kept.

    Each column has the likelihood that fits it: `normal` for floats, negative integers and integers
    whose variance is below half their mean (years) or whose mean is above a million,
    `negative-binomial` for other integers,
    `bernoulli` for booleans and integers 0 and 1, `one-hot` for text and categories.
    `data.likelihood` is the likelihood of all, and `data.table` turns x into columns again. NaN,
    None and NA are missing values.

    Example:
        >>> import pyro_vae as pv
        >>> frame = {"height": [1.8, 1.7, None, 1.6], "children": [0, 2, 1, 0], "smoker": list("ynny")}
        >>> data = pv.data.from_frame(frame, valid=0, test=0)
        >>> data.likelihood.blocks
        (('normal', 1), ('negative-binomial', 1), ('one-hot', 2))
        >>> data.missing
        True

    Args:
        frame: a DataFrame, or `{name: values}`.
        labels: the column with labels y; it is not part of x.
        index: a column that names the rows; it is not part of x. Default: a pandas frame's own index.
        kinds: `{column: kind}`: real, count, binary, boolean or category, where the dtype does not
            say what a column is.
        valid, test: fractions of the data, or counts; 0 for none.
        name: of the data set.
        split_seed: of the splits.
        likelihood: one for all columns, instead of one for each kind.
        library_size: whether the total count of a row, of columns that are all counts, is an offset
            of the model's mean; see `with_library_size`.
        drop: columns that are left out.
        covariates: the columns of the covariates c of a conditional model, such as a batch; they are
            not part of x, and have no missing values.

    Raises:
        UserError: no such column, a column of dates or other objects, text with more than 256
            different values, a column without values, a covariate with missing values.
    """
    if is_anndata(frame):
        raise UserError("this is an AnnData object: pv.data.from_anndata(adata)")
    values, kinds = columns_of(frame), checked_kinds(kinds)
    single = {"labels": (labels,), "index": (index,)}
    dropped = _checked_list("drop", drop, {**single, "kinds": kinds})
    given = _checked_list("covariates", covariates, {**single, "drop": dropped})
    for column in (labels, index, *kinds, *dropped, *given):
        if column is not None and column not in values:
            for option, names in {"drop": dropped, "covariates": given}.items():
                _check_separate(option, column, names, values)
            raise unknown_name_error("column of the data", column, values)
    row_names(frame, index)
    others = (labels, index, *dropped, *given)
    types = _column_types({n: v for n, v in values.items() if n not in others}, kinds)
    if not types:
        raise UserError("the data have no columns for x")
    of_c = _column_types({n: values[n] for n in given}, kinds)
    label_type = None if labels is None else _label_type(values[labels], labels)
    library = type(frame).__module__.split(".")[0]
    library_name = library if library in ("pandas", "polars") else None
    table = Table(types, label_type, index, library_name, covariates=of_c)
    data = _data(table, frame, table.encode(frame), valid, test, name, split_seed, likelihood)
    return with_library_size(data) if library_size else data


def _column_types(values: Mapping[Any, Any], kinds: Mapping[str, str]) -> tuple[ColumnType, ...]:
    """The type of each column, with a warning of numbers that may be something else.

    Raises:
        UserError: columns that cannot be used. The message names the first, and how all are left out.
    """
    types, errors = [], {}
    for name, column in values.items():
        try:
            types.append(column_type(column, name, kinds.get(name)))
        except UserError as e:
            errors[name] = e
    if errors:
        first, *more = errors
        if not more:
            raise errors[first]
        listed = ", ".join(repr(name) for name in more[:MOST_LISTED])
        rest = "" if len(more) <= MOST_LISTED else f", and {len(more) - MOST_LISTED} more"
        others = "another column" if len(more) == 1 else f"{len(more)} other columns"
        raise UserError(
            f"{errors[first]}; {others} cannot be used either: {listed}{rest}"
        ) from errors[first]
    for kind in types:
        if kind.name not in kinds:
            _warn_of_numbers(values[kind.name], kind)
    return tuple(types)


def _warn_of_numbers(values: Any, column: ColumnType) -> None:
    """Warn of whole numbers that may be names of rows, or counts that became floats."""
    if column.kind not in ("count", "real"):
        return
    array, missing = plain_values(values, column.name)
    present, name = array[~missing].astype(np.float64), column.name
    if not (present == np.round(present)).all():
        return
    span = float(present.max() - present.min())
    if len(present) > FEW_CATEGORIES and span < 2 * len(array) and len(set(present)) == len(array):
        warnings.warn(
            f"column {name!r} has another whole number in each row: if it names the rows, "
            f"index={name!r} (--index {shlex.quote(str(name))}), or {drop_hint(name)}",
            stacklevel=4,
        )
    elif array.dtype.kind == "f" and missing.any() and present.min() >= 0:
        warnings.warn(
            f"column {name!r} has whole numbers and missing values, as floats: it is taken as real; "
            f"counts are {kind_hint(name, 'count')}",
            stacklevel=4,
        )


def checked_kinds(kinds: Mapping[str, str] | None) -> dict[str, str]:
    """The kinds of columns that are set; raises unless they are `{column: kind}`."""
    if not isinstance(kinds, Mapping | None):
        raise UserError(
            f"kinds must be a dict of columns, such as {{'zip': 'category'}}, not {kinds!r}"
        )
    return dict(kinds or {})


def _checked_list(
    option: str, columns: Collection[str] | None, others: Mapping[str, Collection[str | None]]
) -> tuple[str, ...]:
    """The columns that an option lists; raises if one of the other options has one of them."""
    if isinstance(columns, str):
        raise UserError(
            f"{option} must be a list of columns, such as [{columns!r}], not {columns!r}"
        )
    try:
        listed = () if columns is None else tuple(columns)
    except TypeError:
        raise UserError(f"{option} must be a list of columns, not {columns!r}") from None
    for column in listed:
        for other, used in others.items():
            if column in used:
                raise UserError(f"column {column!r} is used twice: in {option} and in {other}")
    twice = next((column for column in listed if listed.count(column) > 1), None)
    if twice is not None and option != "drop":
        raise UserError(f"{option} has the column {twice!r} twice")
    return listed


def _check_separate(
    option: str, column: object, names: Collection[str], values: Mapping[Any, Any]
) -> None:
    """Raise if a name in the list of an option is several columns' names, with commas."""
    parts = str(column).split(",")
    if column in names and all(part in values for part in parts):
        raise UserError(
            f"{option} takes one name for each column: {option}={parts} (--{option} "
            f"{' '.join(parts)}), not {column!r}"
        )


def from_anndata(
    adata: Any,
    labels: str | None = None,
    layer: str | None = None,
    library_size: bool = False,
    valid: float | int = 0.1,
    test: float | int = 0.1,
    name: str = "data",
    split_seed: int = 0,
    likelihood: str | Family | None = None,
    covariates: Collection[str] | None = None,
) -> Data:
    """`Data` from an AnnData object: x is its matrix, the variables are columns.

    A sparse matrix of counts stays sparse: batches of its rows become dense. Other sparse matrices,
    such as normalized counts, are made dense.

    Example:
        >>> import anndata, numpy as np, pyro_vae as pv  # doctest: +SKIP
        >>> cells = anndata.AnnData(np.array([[0.0, 3.0], [5.0, 1.0], [2.0, 0.0]]))  # doctest: +SKIP
        >>> cells.obs["type"] = ["T", "B", "T"]  # doctest: +SKIP
        >>> data = pv.data.from_anndata(cells, labels="type", valid=0, test=0)  # doctest: +SKIP
        >>> data.likelihood, data.num_classes  # doctest: +SKIP
        ('negative-binomial', 2)

    Args:
        adata: the AnnData object.
        labels: a column of `adata.obs` with labels y.
        layer: a layer instead of `X`, such as raw counts.
        library_size: whether the total count of a row is an offset of the model's mean, as in scVI;
            see `with_library_size`.
        valid, test: fractions of the data, or counts; 0 for none.
        name: of the data set.
        split_seed: of the splits.
        likelihood: Default: `negative-binomial` for counts, `bernoulli` for values 0 and 1, else
            `normal`.
        covariates: columns of `adata.obs`, such as a batch: the covariates c of a conditional model.

    Raises:
        UserError: no such layer or column of `obs`, variables of one name, a row without counts.
    """
    if not is_anndata(adata):
        raise UserError(f"from_anndata takes an AnnData object, not {type(adata).__name__}")
    if not adata.var_names.is_unique:
        raise UserError("several variables have one name: adata.var_names_make_unique()")
    given = _checked_list("covariates", covariates, {"labels": (labels,)})
    for column in (labels, *given):
        if column is not None and column not in adata.obs.columns:
            _check_separate("covariates", column, given, adata.obs)
            raise unknown_name_error("column of obs", column, list(adata.obs.columns))
    both = next((name for name in given if name in adata.var_names), None)
    if both is not None:
        raise UserError(f"{both!r} is a column of obs and a variable, too: rename one of them")
    x = sparse_counts_of(adata, layer)
    if x is None:
        x = matrix_of(adata, layer)
        fits = likelihood_for(x)
    else:
        fits = likelihood_of_counts(x)
    kind = {"negative-binomial": "count", "bernoulli": "binary"}.get(fits, "real")
    types = tuple(ColumnType(n, kind) for n in adata.var_names)
    label_type = None if labels is None else _label_type(adata.obs[labels], labels)
    of_c = _column_types({n: adata.obs[n] for n in given}, {})
    table = Table(types, label_type, None, "anndata", layer, of_c)
    data = _data(table, adata, x, valid, test, name, split_seed, likelihood)
    return with_library_size(data) if library_size else data


def _data(
    table: Table,
    frame: Any,
    x: Any,
    valid: float | int,
    test: float | int,
    name: str,
    split_seed: int,
    likelihood: str | Family | None,
) -> Data:
    """`Data` of a table whose x is encoded, or a sparse matrix."""
    if likelihood is not None:
        check_likelihood(likelihood)
    class_names = None if table.labels is None else table.labels.categories
    data = from_arrays(
        x,
        table.encode_labels(frame),
        valid,
        test,
        num_classes=None if class_names is None else len(class_names),
        name=name,
        split_seed=split_seed,
        missing=True,
        c=table.encode_covariates(frame),
    )
    likelihood = table.likelihood if likelihood is None else likelihood
    return dataclasses.replace(data, table=table, likelihood=likelihood, class_names=class_names)


def _label_type(values: Any, name: str) -> ColumnType:
    """The column of labels: text, categories or whole numbers; -1 and missing values: no label."""
    array, missing = plain_values(values, name)
    if array.dtype.kind == "f" and (array != array.round())[~missing].any():
        raise UserError(f"labels {name!r} have fractions: labels are text or whole numbers")
    if array.dtype.kind != "O":
        missing = missing | (array == -1)
    present = set(array[~missing].tolist())
    if array.dtype.kind == "f":  # as pandas has whole numbers beside a missing value
        present = {int(value) for value in present}
    if not present:
        raise UserError(f"labels {name!r} have no values: leave labels= out")
    if present == {1} and array.dtype.kind != "O" and bool((array == -1).any()):
        warn_of_signs(f"labels {name!r}")
    declared = categories_of(values)
    return ColumnType(name, "category", tuple(sorted(present)) if declared is None else declared)
