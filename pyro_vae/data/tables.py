"""Tables with named columns of several kinds as numbers x `[N, D]`, and back.

A frame is a pandas or polars DataFrame, an AnnData object, or `{name: values}`. None of their
libraries is imported here; what a caller passes has imported its own.
"""

import csv
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..conditionals import Columns, Family
from ..conditionals.likelihoods import LARGEST_MEAN
from ..errors import RowError, UserError, unknown_name_error
from .arrays import as_floats
from .sparse import is_counts, is_sparse

FLOAT32_MAX = float(np.finfo(np.float32).max)
#: Kinds of columns, and the likelihood of each.
KINDS = {
    "real": "normal",
    "count": "negative-binomial",
    "binary": "bernoulli",  # integers 0 and 1
    "boolean": "bernoulli",
    "category": "one-hot",
}
FEW_CATEGORIES = 20  # of more, each has two rows or more on average, or they are names of rows
MAX_CATEGORIES = 256
DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([ T].*)?")
MIN_DISPERSION = 0.5  # variance / mean, below which a column is no count
MAX_COUNT = 2**24  # the largest that float32 tells from its neighbors


@dataclass(frozen=True)
class ColumnType:
    """One column of a frame.

    Args:
        name: of the column.
        kind: real, count, binary, boolean or category; see `KINDS`.
        categories: the values of a category, in the order of their columns in x.
    """

    name: Any
    kind: str
    categories: tuple[Any, ...] = ()

    @property
    def size(self) -> int:
        """The number of its columns in x."""
        return len(self.categories) if self.kind == "category" else 1

    def encode(self, values: Any) -> np.ndarray:
        """`[N, size]` numbers; a missing value is NaN.

        Raises:
            UserError: values that the column did not have, or infinite ones.
        """
        array, missing = plain_values(values, self.name)
        if self.kind == "category":
            return self._one_hot(array, missing)
        if array.dtype.kind not in "biuf":
            raise UserError(f"column {self.name!r} has {_described(array)}; expected numbers")
        numbers = np.where(missing, np.nan, array.astype(np.float64))
        present = numbers[~missing]
        infinite = np.flatnonzero(np.isinf(numbers))
        if len(infinite):
            raise RowError(
                f"column {self.name!r} has {len(infinite)} infinite values (first: ",
                infinite[0],
                "): an empty cell or NaN is a missing value",
            )
        if self.kind in ("binary", "boolean") and not np.isin(present, (0, 1)).all():
            row = np.flatnonzero(~missing & ~np.isin(numbers, (0, 1)))[0]
            start = f"column {self.name!r} had the values 0 and 1, and now {numbers[row]:g} in "
            raise RowError(start, row)
        if self.kind == "count" and len(present) and present.max() > MAX_COUNT:
            raise RowError(
                f"column {self.name!r} has counts up to {present.max():.0f} (",
                int(np.nanargmax(numbers)),
                "), which float32 cannot tell "
                f"from their neighbors: {kind_hint(self.name, 'real')}, or {drop_hint(self.name)}",
            )
        return numbers[:, None]

    def _one_hot(self, array: np.ndarray, missing: np.ndarray) -> np.ndarray:
        result = np.zeros((len(array), self.size))
        result[missing] = np.nan
        present = np.flatnonzero(~missing)
        kind = f"category of column {self.name!r}"
        result[present, self.codes(array[present], kind, present)] = 1
        return result

    def codes(self, values: np.ndarray, kind: str, rows: np.ndarray) -> list[int]:
        """The number of the category of each of `values [N]`.

        A number has the category of its text: a column of texts, some of them digits, may be read as
        numbers where all of its values are digits.

        Args:
            values: without missing ones.
            kind: what they are, for messages.
            rows: `[N]` their rows in the table, for messages.

        Raises:
            UserError: a value that is no category.
        """
        known = {category: i for i, category in enumerate(self.categories)}
        result = [known.get(v, known.get(_as_text(v))) for v in values.tolist()]
        for value, code, row in zip(values.tolist(), result, rows, strict=True):
            if code is None:
                raise RowError(f"{unknown_name_error(kind, value, known)} (", row, ")")
        return [code for code in result if code is not None]

    def decode(self, x: np.ndarray, round_counts: bool = True) -> np.ndarray:
        """The values `[N]` of numbers `[N, size]`: the most probable category, rounded counts."""
        missing = np.isnan(x).any(1)
        if self.kind == "category":
            values: np.ndarray = np.empty(len(x), dtype=object)
            codes = np.nan_to_num(x).argmax(1)
            values[:] = [
                None if gone else self.categories[i] for i, gone in zip(codes, missing, strict=True)
            ]
            return values
        numbers = x[:, 0]
        if self.kind == "real" or missing.any():
            return numbers
        if self.kind == "count":
            return numbers.round().astype(np.int64) if round_counts else numbers
        return numbers > 0.5 if self.kind == "boolean" else (numbers > 0.5).astype(np.int64)


def _as_text(value: Any) -> str:
    """A value as a file has it: pandas reads whole numbers beside a missing value as 2.0."""
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if is_whole else value)


@dataclass(frozen=True)
class Table:
    """How the columns of a frame become x `[N, D]`, and x a frame again.

    The columns of x have the order of the frame's. A category has one column for each of its values.

    Args:
        columns: those of x.
        labels: the column of the labels y, if there is one.
        index: the name of the column that names the rows, if a column does.
        library: of the frame: pandas, polars, anndata or None.
        layer: of an AnnData object whose matrix is a layer.
        covariates: the columns of the covariates c, in their order; they are not part of x.

    Example:
        >>> import pyro_vae as pv
        >>> data = pv.data.from_frame({"height": [1.8, 1.7], "sex": ["m", "f"]}, valid=0, test=0)
        >>> data.table.names
        ['height', 'sex=f', 'sex=m']
        >>> data.table.decode(data.train.x)["sex"]
        array(['m', 'f'], dtype=object)
    """

    columns: tuple[ColumnType, ...]
    labels: ColumnType | None = None
    index: str | None = None
    library: str | None = None
    layer: str | None = None
    covariates: tuple[ColumnType, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of the columns of x; `name=value` of a category."""
        return [
            name
            for c in self.columns
            for name in (
                [f"{c.name}={v}" for v in c.categories] if c.kind == "category" else [str(c.name)]
            )
        ]

    @property
    def is_real(self) -> torch.Tensor:
        """Bool `[D]`: the columns of x that hold real numbers, which can be standardized."""
        return torch.tensor([c.kind == "real" for c in self.columns for _ in range(c.size)])

    @property
    def likelihood(self) -> str | Family:
        """The likelihood of the columns: one for all, or one for each block of a kind."""
        kinds = {c.kind for c in self.columns}
        likelihoods = {KINDS[kind] for kind in kinds}
        if len(likelihoods) == 1 and "category" not in kinds:
            return likelihoods.pop()
        blocks: list[tuple[str, int]] = []
        for column in self.columns:
            name = KINDS[column.kind]
            if column.kind != "category" and blocks and blocks[-1][0] == name:
                blocks[-1] = (name, blocks[-1][1] + 1)
            else:
                blocks.append((name, column.size))
        return Columns(tuple(blocks))

    def encode(self, frame: Any, dtype: torch.dtype | None = None) -> torch.Tensor:
        """x `[N, D]` of a frame with the same columns, in any order; others are ignored.

        Args:
            frame: as the table was made of.
            dtype: of x. Default: torch's, or float64 for a column that needs it.

        Raises:
            UserError: a column is not there, or has values of another kind.
        """
        if is_anndata(frame):
            missing = [c.name for c in self.columns if c.name not in frame.var_names]
            if missing:
                raise UserError(f"the AnnData object has no variable {missing[0]!r}")
            names = [c.name for c in self.columns]
            same = list(frame.var_names) == names
            return matrix_of(frame if same else frame[:, names], self.layer, dtype)
        values = columns_of(frame)
        for column in self.columns:
            _check_present(column, values)
        parts = [column.encode(values[column.name]) for column in self.columns]
        return as_floats(np.concatenate(parts, 1), "x", dtype)

    def encode_labels(self, frame: Any) -> torch.Tensor | None:
        """The labels `[N]` of a frame, -1 where they are missing; None without their column."""
        if self.labels is None:
            return None
        values = columns_of(frame.obs if is_anndata(frame) else frame)
        if self.labels.name not in values:
            return None
        array, missing = plain_values(values[self.labels.name], self.labels.name)
        if array.dtype.kind != "O":
            missing = missing | (array == -1)
        labels = torch.full((len(array),), -1)
        kind = f"label in column {self.labels.name!r}"
        present = np.flatnonzero(~missing)
        codes = self.labels.codes(array[present], kind, present)
        labels[torch.from_numpy(present)] = torch.tensor(codes, dtype=torch.int64)
        return labels

    def encode_covariates(self, frame: Any) -> torch.Tensor | None:
        """The covariates `[N, C]` of a frame, categories one-hot; None if the table has none.

        Args:
            frame: as the table was made of, or the columns of the covariates alone.

        Raises:
            UserError: a column is not there, has values of another kind, or misses a value.
        """
        if not self.covariates:
            return None
        values = columns_of(frame.obs if is_anndata(frame) else frame)
        parts = []
        for column in self.covariates:
            _check_present(column, values, ", a covariate")
            part = column.encode(values[column.name])
            absent = np.flatnonzero(np.isnan(part).any(1))
            if len(absent):
                start = f"covariate {column.name!r} has {len(absent)} missing values (first: "
                ending = "): covariates must be complete, so fill them in, or leave such rows out"
                raise RowError(start, int(absent[0]), ending)
            parts.append(part)
        return as_floats(np.concatenate(parts, 1), "c")

    @property
    def used_columns(self) -> frozenset[Any]:
        """The names of the columns of x, of the covariates, of the labels and of the index."""
        index = () if self.index is None else (self.index,)
        return frozenset([*(c.name for c in self._read), *index])

    @property
    def text_columns(self) -> frozenset[str]:
        """The names of the columns whose values are text; a file may have digits there."""
        return frozenset(
            c.name for c in self._read if any(isinstance(v, str) for v in c.categories)
        )

    @property
    def number_columns(self) -> frozenset[str]:
        """The names of the columns whose values are numbers."""
        return frozenset(c.name for c in self._read if c.kind in ("real", "count", "binary"))

    @property
    def _read(self) -> tuple[ColumnType, ...]:
        """The columns of x, of the covariates and of the labels."""
        labels = () if self.labels is None else (self.labels,)
        return (*self.columns, *self.covariates, *labels)

    def decode(self, x: torch.Tensor, round_counts: bool = True) -> dict[Any, np.ndarray]:
        """`{column: values [N]}` of x `[N, D]` in original units.

        A category is the most probable one. A boolean is true above a probability of 1/2.

        Args:
            x: values, samples or means.
            round_counts: whether counts are rounded to integers.

        Raises:
            UserError: x does not have the columns of the table.
        """
        if x.shape[1:] != (len(self.names),):
            raise UserError(
                f"x has shape {list(x.shape)}, and the table has {len(self.names)} columns of x: a "
                "condition takes some of them, and there is no frame of the others"
            )
        return _decoded(self.columns, x, round_counts=lambda part: round_counts)

    def decode_covariates(self, c: torch.Tensor) -> dict[Any, np.ndarray]:
        """`{column: values [N]}` of covariates `[N, C]` in original units."""

        def is_whole(part: np.ndarray) -> bool:  # but for the rounding of a standardization
            return np.allclose(part, part.round(), rtol=1e-5, atol=1e-3)

        if not self.covariates:
            return {}
        columns = _decoded(self.covariates, c, is_whole)
        return {name: _as_given(values) for name, values in columns.items()}


def _as_given(values: np.ndarray) -> np.ndarray:
    """Numbers without what float32 adds behind its seven digits: 30 for 30.00000013."""
    if values.dtype.kind != "f":
        return values
    return np.array([float(f"{value:.7g}") for value in values])


def _check_present(column: ColumnType, values: Mapping[Any, Any], role: str = "") -> None:
    if column.name not in values:
        known = ", ".join(map(str, values))
        raise UserError(f"these data have no column {column.name!r}{role}; their columns: {known}")


def _decoded(
    columns: Sequence[ColumnType],
    numbers: torch.Tensor,
    round_counts: Callable[[np.ndarray], bool],
) -> dict[Any, np.ndarray]:
    """`{column: values [N]}` of `numbers [N, D]`; `round_counts` is asked for each column."""
    array = numbers.detach().double().cpu().numpy()
    parts = np.split(array, np.cumsum([c.size for c in columns])[:-1], axis=1)
    return {
        c.name: c.decode(part, round_counts(part)) for c, part in zip(columns, parts, strict=True)
    }


class FileColumns(dict[str, list[Any]]):
    """`{column: values [N]}` of a text file, with the line on which each row begins.

    Args:
        columns: `{column: values}`.
        lines: `[N]`, counted from 1.
    """

    def __init__(self, columns: Mapping[str, list[Any]], lines: Sequence[int]) -> None:
        super().__init__(columns)
        self.lines = lines


@contextmanager
def rows_as_lines(frame: object) -> Iterator[None]:
    """Within, an error in a row of columns that come from a file names the line instead."""
    try:
        yield
    except RowError as error:
        if not isinstance(frame, FileColumns):
            raise
        raise error.at_line(frame.lines[error.row]) from None


def is_anndata(value: object) -> bool:
    """Whether a value is an AnnData object."""
    return type(value).__module__.split(".")[0] == "anndata" and hasattr(value, "var_names")


def is_frame(value: object) -> bool:
    """Whether a value is a DataFrame of pandas, polars or a library like them, or AnnData."""
    is_dataframe = hasattr(value, "columns") and hasattr(value, "to_numpy")
    return is_dataframe or is_anndata(value)


def check_collected(frame: Any) -> None:
    """Raise if a frame of polars has not been read yet."""
    if type(frame).__name__ == "LazyFrame":
        raise UserError("a LazyFrame holds no values yet: pass frame.collect()")


def columns_of(frame: Any) -> dict[Any, Any]:
    """`{name: values}` of a frame.

    Raises:
        UserError: not a frame, or one that has not been read, columns of different lengths, several
            columns of one name.
    """
    check_collected(frame)
    if isinstance(frame, Mapping):
        columns = dict(frame)
        lengths = {name: len(v) for name, v in columns.items() if hasattr(v, "__len__")}
        for name, length in lengths.items():
            first = next(iter(lengths))
            if length != lengths[first]:
                raise UserError(
                    f"column {name!r} has {length} rows, and {first!r} has {lengths[first]}"
                )
    elif not hasattr(frame, "columns"):
        raise UserError(f"a frame is a DataFrame or {{column: values}}, not {type(frame).__name__}")
    else:
        columns = {name: frame[name] for name in frame.columns}
        if len(columns) != len(frame.columns):
            names = list(frame.columns)
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"these data have several columns {twice!r}: rename them")
    return columns


def row_names(frame: Any, index: str | None) -> Any:
    """What names the rows of a frame: its column `index`, else its own index; None without one."""
    if index is not None and not is_anndata(frame) and index in (values := columns_of(frame)):
        return values[index]
    return frame.obs_names if is_anndata(frame) else getattr(frame, "index", None)


def sparse_counts_of(adata: Any, layer: str | None = None) -> Any:
    """The matrix of an AnnData object, or of a layer, if it is sparse and holds counts; else None."""
    matrix = _matrix_of(adata, layer)
    return matrix if is_sparse(matrix) and is_counts(matrix) else None


def matrix_of(
    adata: Any, layer: str | None = None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """The matrix `[N, D]` of an AnnData object, or of one of its layers, as dense floats."""
    matrix = _matrix_of(adata, layer)
    matrix = matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
    return as_floats(matrix.astype(np.float64) if matrix.dtype == np.uint8 else matrix, "X", dtype)


def _matrix_of(adata: Any, layer: str | None) -> Any:
    if layer is not None and layer not in adata.layers:
        raise unknown_name_error("layer", layer, list(adata.layers))
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise UserError("the AnnData object has no X: pass layer=")
    return matrix


def plain_values(values: Any, name: Any) -> tuple[np.ndarray, np.ndarray]:
    """The values of a column as a numpy array `[N]`, and which of them are missing `[N]`.

    Arrays of objects have one type of value, or are text.

    Raises:
        UserError: values that are neither numbers, booleans nor text.
    """
    if hasattr(values, "null_count") and hasattr(values, "is_null"):  # polars
        missing, items = values.is_null().to_numpy(), values.to_list()
        if values.dtype.is_numeric():
            array = values.fill_null(0).to_numpy()
            return _with_nan(array, missing)
        return _from_objects(items, missing, name)
    if hasattr(values, "isna"):  # pandas
        values = values.sparse.to_dense() if hasattr(values, "sparse") else values
        missing = np.asarray(values.isna())
        dtype = getattr(values.dtype, "numpy_dtype", values.dtype)  # of nullable columns
        if getattr(dtype, "kind", "O") in "iufb" and not hasattr(dtype, "categories"):
            filled = values.fillna(False if dtype.kind == "b" else 0) if missing.any() else values
            return _with_nan(np.asarray(filled).astype(dtype), missing)
        return _from_objects(values.astype(object).tolist(), missing, name)
    array = np.asarray(values)
    if array.ndim != 1:
        raise UserError(
            f"column {name!r} has shape {list(array.shape)}; expected one value per row"
        )
    if array.dtype.kind in "biuf":
        return _with_nan(array, np.zeros(len(array), bool))
    items = array.tolist() if isinstance(values, np.ndarray) else list(values)
    missing = np.array([v is None or (isinstance(v, float) and math.isnan(v)) for v in items], bool)
    return _from_objects(items, missing, name)


def _with_nan(array: np.ndarray, missing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The array, and the missing values with those that are NaN."""
    return array, missing | np.isnan(array) if array.dtype.kind == "f" else missing


def _from_objects(
    items: Sequence[Any], missing: np.ndarray, name: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Booleans, numbers or text among objects."""
    present = [v for v, gone in zip(items, missing, strict=True) if not gone]
    filler: Any
    dtype: np.dtype[Any]
    if present and all(isinstance(v, (bool, np.bool_)) for v in present):
        filler, dtype = False, np.dtype(bool)
    elif present and all(isinstance(v, (int, np.integer)) and abs(int(v)) < 2**63 for v in present):
        filler, dtype = 0, np.dtype(np.int64)
    elif all(isinstance(v, (int, float, np.integer, np.floating)) for v in present):
        filler, dtype = np.nan, np.dtype(np.float64)
    elif all(isinstance(v, str) for v in present):
        filler, dtype = "", np.dtype(object)
    else:
        kinds = sorted({type(v).__name__ for v in present})
        raise UserError(
            f"column {name!r} has values of the type {', '.join(kinds)}: a column holds numbers, "
            f"booleans or text; convert it, or leave it out, {drop_hint(name)}"
        )
    array = np.empty(len(items), dtype)
    array[:] = [filler if gone else v for v, gone in zip(items, missing, strict=True)]
    return array, missing


def drop_hint(name: Any) -> str:
    """How a column is left out, in Python and on the command line."""
    return f"drop=[{name!r}] (--drop {shlex.quote(str(name))})"


def kind_hint(name: Any, kind: str) -> str:
    """How the kind of a column is set, in Python and on the command line."""
    return f"kinds={{{name!r}: {kind!r}}} (--kinds {shlex.quote(f'{name}={kind}')})"


def _described(array: np.ndarray) -> str:
    return "text" if array.dtype.kind in "OUS" else f"{array.dtype} values"


def column_type(values: Any, name: Any, kind: str | None = None) -> ColumnType:
    """The type of a column by its dtype; `kind` replaces the kind that follows from it.

    Raises:
        UserError: a column without values, of text that names rows, or that is not of `kind`.
    """
    if kind is not None and kind not in KINDS:
        raise unknown_name_error("kind of column", kind, KINDS)
    array, missing = plain_values(values, name)
    present = array[~missing]
    if not len(present):
        raise UserError(f"column {name!r} has no values: leave it out, {drop_hint(name)}")
    is_text, is_asked_for = array.dtype.kind == "O", kind == "category"
    if kind is None:
        is_category = is_text or hasattr(getattr(values, "dtype", None), "categories")
        kind = "category" if is_category else _kind_of_numbers(present)
    if kind == "category":
        return ColumnType(name, kind, _categories(values, present, name, is_asked_for))
    column = ColumnType(name, kind)
    numbers = column.encode(values)
    if kind == "count" and ((numbers < 0) | (numbers != numbers.round()))[~missing].any():
        raise UserError(f"column {name!r} has values that are no counts: {kind_hint(name, 'real')}")
    if kind == "count" and (mean := float(np.nanmean(numbers))) > LARGEST_MEAN:
        raise UserError(
            f"column {name!r} has counts with a mean of {mean:.3g}, and likelihoods of counts follow "
            f"means up to {LARGEST_MEAN:.0e}: {kind_hint(name, 'real')}"
        )
    return column


def _kind_of_numbers(present: np.ndarray) -> str:
    if present.dtype.kind == "b":
        return "boolean"
    if present.dtype.kind == "f" or present.min() < 0:
        return "real"
    if present.max() <= 1:
        return "binary"
    # years and codes vary less than counts do, and a likelihood of counts cannot follow
    numbers = present.astype(np.float64)
    mean = numbers.mean()
    return "count" if numbers.var() >= MIN_DISPERSION * mean and mean <= LARGEST_MEAN else "real"


def categories_of(values: Any) -> tuple[Any, ...] | None:
    """The categories that the dtype of a pandas column lists; None for other columns."""
    declared = getattr(getattr(values, "dtype", None), "categories", None)
    return (
        tuple(declared.tolist()) if declared is not None and hasattr(declared, "tolist") else None
    )


def _categories(values: Any, present: np.ndarray, name: Any, is_asked_for: bool) -> tuple[Any, ...]:
    """The values of a category: those that its dtype lists, else those that there are, sorted."""
    declared = categories_of(values)
    categories = sorted(set(present.tolist())) if declared is None else declared
    size = len(categories)
    is_name = declared is None and not is_asked_for and size > FEW_CATEGORIES
    if is_name and all(isinstance(v, str) and DATE.fullmatch(v.strip()) for v in categories):
        raise UserError(
            f"column {name!r} has {size} dates: convert it to a number, such as days since the first, or "
            f"leave it out, {drop_hint(name)}; {kind_hint(name, 'category')} takes each as a category"
        )
    if size > MAX_CATEGORIES or (is_name and 2 * size > len(present)):
        raise UserError(
            f"column {name!r} has {size} different texts in {len(present)} rows: leave it out, "
            f"{drop_hint(name)}, or name the rows by it, index={name!r} "
            f"(--index {shlex.quote(str(name))})"
        )
    return tuple(categories)


def unused_names(columns: Mapping[str, Any], table: Mapping[Any, Any]) -> dict[str, Any]:
    """Columns to stand in front of a table's: `_name`, where the table has a column `name`."""
    return {f"_{name}" if name in table else name: values for name, values in columns.items()}


def write_csv(path: Path, columns: Mapping[Any, Any]) -> None:
    """Write `{name: values [N]}` as a CSV file; missing values are empty.

    A number that float32 holds exactly has the digits that float32 has: 0.1, not 0.10000000149011612.
    """
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*(list(v) for v in columns.values()), strict=True):
            writer.writerow([_as_cell(value) for value in row])


def _as_cell(value: Any) -> Any:
    """A value as a CSV file has it."""
    if value is None:
        return ""
    if not isinstance(value, float | np.floating):
        return value
    value = float(value)
    if math.isnan(value):
        return ""
    short = np.float32(value) if abs(value) < FLOAT32_MAX else None
    return float(str(short)) if short is not None and float(short) == value else value


def frame_like(
    library: str | None, columns: Mapping[Any, Any], rows: Any = None, row_name: str | None = None
) -> Any:
    """A frame of `{name: values}`, of the library that the data came in.

    Args:
        library: pandas, polars or anndata, whose frames are pandas'; None: `{name: values}`.
        columns: `{name: values [N]}`.
        rows: what names the rows; see `row_names`.
        row_name: the name of the column that `rows` came from.
    """
    named = {} if rows is None or row_name is None else {row_name: rows}
    if library is None:
        return {**named, **columns}
    if library == "polars":
        import polars

        return polars.DataFrame({str(k): v for k, v in {**named, **columns}.items()})
    import pandas

    frame = pandas.DataFrame(dict(columns))
    if rows is not None:
        frame.index = pandas.Index(rows, name=row_name or getattr(rows, "name", None))
    return frame
