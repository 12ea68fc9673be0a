"""A run applied to new data: arrays, frames and loaders in original units, and answers in them."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..conditionals import Conditional, LibrarySize
from ..data import Data, Split, as_data
from ..data.arrays import as_labels, as_tensor
from ..data.conversion import from_dataset
from ..data.dataset import conditioned, draw_binary
from ..data.files import read_source
from ..data.minibatches import LoaderBatches, row_slices
from ..data.sparse import SPARSE_ROWS
from ..data.tables import (
    ColumnType,
    columns_of,
    frame_like,
    is_anndata,
    is_frame,
    plain_values,
    row_names,
    rows_as_lines,
)
from ..errors import RowError, SupportError, UserError
from ..evaluate.inputs import Inputs, accepts_entry
from ..evaluate.support import Support
from ..programs.calling import accepts_argument
from ..programs.inspection import ignores_missing
from ..programs.interfaces import ModelInterface, conditional_of, interface_of
from .advice import advise

Tensors = dict[str, torch.Tensor]
SHOWN_COLUMNS = 6  # in a message


@dataclass
class NewData:
    """New data for a trained pair, converted as its training data were.

    A frame becomes numbers, columns are standardized, gray values are binarized (with a seed), and
    the condition is applied.

    Args:
        model, guide: the pair.
        data: what it was trained on.
        x: arrays, a frame, a `Dataset` or a loader, in original units.
        others: further inputs by name: `y=`, `c=`.
        allow_missing: whether x may have missing values though the model needs all of x.
        class_names: of the model's y, if it is a label that has names.
    """

    model: Any
    guide: Any
    data: Data
    x: Any
    others: Mapping[str, Any]
    allow_missing: bool = False
    class_names: Sequence[Any] | None = None

    @property
    def is_frame(self) -> bool:
        """Whether answers are frames."""
        return is_frame(self.x) or (self.data.table is not None and isinstance(self.x, Mapping))

    @functools.cached_property
    def rows(self) -> Any:
        """x that is no frame: `Data`, or batches."""
        if isinstance(self.x, Mapping) and self.data.table is None and "x" not in self.x:
            shape = self._row_shape
            takes, instead = f"arrays [N, {shape[0]}] without names", "an array, or an .npy file"
            if len(shape) == 3:
                takes, instead = f"images {list(shape)}", "an image folder, or an array"
            raise UserError(
                f"this run takes {takes}, and these data are columns by name "
                f"({', '.join(map(str, self.x))}): pass {instead}"
            )
        x, dtype = self.x, self.data.original_dtype
        if isinstance(x, Data) and (len(x.splits()) > 1 or x.table or x.class_names):
            raise UserError(
                "new data are no Data, which is split, and has columns and classes of its own: pass "
                "the frame or array, or the Path of the file"
            )
        if isinstance(x, Dataset) and isinstance(x, Sized):
            items = [self._with_integers(x[i]) for i in range(len(x))]
            return from_dataset(items, valid=0, test=0, missing=True, dtype=dtype)
        x = _Batches(x, self) if isinstance(x, DataLoader) else self._with_integers(x)
        return as_data(x, missing=True, dtype=dtype)

    def _with_integers(self, x: Any) -> Any:
        """x, a batch or batches of it, with plain integers for 8-bit ones that are no gray levels."""
        if isinstance(x, list) and x and isinstance(x[0], (np.ndarray, torch.Tensor, tuple, dict)):
            return [self.batch(each) for each in x]
        if isinstance(x, tuple) and x:
            return (self._with_integers(x[0]), *x[1:])
        if isinstance(x, dict):
            return {**x, "x": self._with_integers(x["x"])} if "x" in x else x
        is_array = isinstance(x, (np.ndarray, torch.Tensor))
        is_bytes = is_array and str(x.dtype).endswith("uint8")
        return as_tensor(x).int() if is_bytes and not self._bytes_are_gray else x

    def batch(self, item: Any) -> Any:
        """A batch that a loader yields, without a y that is neither labels nor an input of the pair."""
        item = self._with_integers(item)
        if self.data.num_classes is not None:
            return item
        if isinstance(item, tuple) and len(item) > 1 and not _are_labels(item[1]):
            return item[:1]
        if isinstance(item, dict) and "y" in item and not _are_labels(item["y"]):
            if not self._is_input("y"):
                return {name: value for name, value in item.items() if name != "y"}
        return item

    @functools.cached_property
    def _bytes_are_gray(self) -> bool:
        """Whether 8-bit integers are gray levels; of a loader, each batch asks."""
        return self.data.has_gray_levels()

    @property
    def is_stream(self) -> bool:
        """Whether x comes in batches, or in parts of a sparse matrix."""
        in_memory = self.is_frame or isinstance(self.rows, Data)
        return self.data.sparse is not None or not in_memory

    def splits(self) -> Iterator[Split]:
        """The data as the pair takes them: one split, or one for each batch of a loader."""
        if self.is_frame:
            if self.data.table is None:
                raise UserError("this run was trained on arrays: pass an array, not a frame")
            start = 0
            with rows_as_lines(self.x):
                for part in self._frame_parts():
                    try:
                        y = self.data.table.encode_labels(part)
                        x = self.data.table.encode(part, self.data.original_dtype)
                        c = self._covariates_of(part)
                    except RowError as e:  # its row is one of the part
                        raise RowError(e.before, start + e.row, e.after) from None
                    start += len(x)
                    yield self._converted(x, **{"y": y, "c": c, **self.others})
            return
        if isinstance(self.rows, Data):
            for split in self._parts(self.rows):
                yield self._converted(**{**split.arrays(), **self.others})
            return
        if self.others:
            raise UserError(f"batches hold all inputs: {', '.join(self.others)} cannot go by name")
        batches = LoaderBatches(
            self.rows, "cpu", dtype=self.data.original_dtype, missing=True, takes=self._takes
        )
        for number, batch in enumerate(batches.epoch(0)):
            batch.pop("count", None)
            try:
                split = self._converted(**batch, number=number)
            except UserError as e:
                raise UserError(f"batch {number + 1}: {e}") from e
            yield split

    def _covariates_of(self, frame: Any) -> torch.Tensor | None:
        """The covariates in a frame, if the pair takes them and the caller passes none."""
        table = self.data.table
        if table is None or "c" in self.others or "c" not in self._observed_names():
            return None
        return table.encode_covariates(frame)

    def _frame_parts(self) -> Iterator[Any]:
        """The frame; of AnnData that are to stay sparse, some rows at a time."""
        if self.data.sparse is None or self.others or not is_anndata(self.x):
            yield self.x
            return
        yield from (self.x[rows] for rows in row_slices(len(self.x), SPARSE_ROWS))

    def _parts(self, data: Data) -> Iterator[Split]:
        """The rows, dense; those of a sparse matrix some at a time."""
        if data.sparse is None or self.others:
            yield data.observed_split("train")
            return
        for rows in row_slices(len(data.train), SPARSE_ROWS):
            yield data.observed_split("train", rows)

    def _takes(self, name: str, is_named: bool) -> bool:
        """Whether an entry of a batch is an input of the pair, or labels."""
        return name == "y" or name in self._observed_names() or (is_named and self._is_input(name))

    def _is_input(self, name: str) -> bool:
        """Whether a named entry of a batch is an argument of the pair."""
        return accepts_entry(self.model, self.guide, name)

    def _observed_names(self) -> set[str]:
        observes = interface_of(self.model, ModelInterface).observes
        names = {"x", *self.data.observed_names(observes)}
        return names | {n for n in self.others if n != "y" or accepts_argument(self.model, "y")}

    def _converted(
        self, x: torch.Tensor, y: Any = None, c: Any = None, number: int = 0, **others: Any
    ) -> Split:
        data = self.data
        if x.shape[1:] != self._row_shape:
            raise UserError(self._wrong_shape(x))
        if not (self.allow_missing or ignores_missing(self.model)):
            _check_complete(x, self._columns(x))
        values = data.standardize_values(x)
        is_binary = bool(((values == 0) | (values == 1) | values.isnan()).all())
        if data.binarize != "none" and not is_binary:
            values = draw_binary(values, data.binarize_seed + 2 + 3 * number)  # beyond the splits'
        if y is not None and (data.num_classes is not None or _are_labels(y)):
            y = as_labels(y)
        c = None if c is None else data.standardize_covariates(c)
        split = conditioned(Split(values, y, c, others), data.dense_condition)
        if _has_library_size(self.model) and bool((split.x.flatten(1).sum(1) == 0).any()):
            raise UserError(
                "x has rows without counts, and so without a library size: leave such rows out"
            )
        return split

    @property
    def _row_shape(self) -> torch.Size:
        """The shape of a data point before the condition, also of one in a sparse matrix."""
        sparse = self.data.sparse
        return torch.Size(
            self.data.train.x.shape[1:] if sparse is None else sparse.matrix.shape[1:]
        )

    def _wrong_shape(self, x: torch.Tensor) -> str:
        """The message for x of another shape than the data of the run, which say what they are."""
        data, shape = self.data, self._row_shape
        message = (
            f"x has shape {list(x.shape)}, but the data of this run have [N, "
            f"{', '.join(map(str, shape))}]"
        )
        if data.table is not None:
            names = [str(column.name) for column in data.table.columns]
            rest = ["..."] if len(names) > SHOWN_COLUMNS else []
            return f"{message}, of the columns {', '.join(names[:SHOWN_COLUMNS] + rest)}"
        if len(shape) == 3 and x.dim() == 4 and x.shape[1] == shape[0]:
            return f"{message}: images are resized by a training with image_size= (--image-size)"
        return message

    def _columns(self, x: torch.Tensor) -> list[ColumnType] | None:
        """The frame's column that each column of `x [N, D]` is of; None without a frame."""
        table = self.data.table
        columns = [] if table is None else [c for c in table.columns for _ in range(c.size)]
        return columns if self.is_frame and x.shape[1:] == (len(columns),) else None

    @contextmanager
    def naming_values(self) -> Iterator[None]:
        """Within, an error about a value outside the support names its column and row in the frame."""
        try:
            yield
        except SupportError as error:
            with rows_as_lines(self.x):
                raise self._with_place(error) from None

    def _with_place(self, error: SupportError) -> UserError:
        """The error with the column of its value, and the first row that has the value there."""
        start, wrong = 0, torch.tensor(error.value).float()
        for inputs in self.inputs():
            x = inputs["x"]
            columns = self._columns(x)
            if columns is None or len(error.place) != 1:
                break
            (number,) = error.place
            rows = (x[:, number].float() == wrong).nonzero()
            if len(rows):
                row, column = int(rows[0]), columns[number]
                value = float(self.data.unstandardize(x[row : row + 1])[0, number])
                message = f"column {column.name!r} ({column.kind}) has the value {value:.6g} in "
                ending = f", outside the support of its likelihood{error.remedy}"
                return RowError(message, start + row, ending)
            start += len(x)
        return error

    def inputs(self) -> Iterator[Inputs]:
        """The inputs of the pair, `{"x": [B, ...], ...}`, of each split."""
        return (inputs for inputs, _ in self.labeled_inputs())

    def labeled_inputs(self) -> Iterator[tuple[Inputs, torch.Tensor | None]]:
        """The inputs of the pair and the labels `[B]`, of each split."""
        names = self._observed_names()
        for split in self.splits():
            arrays = split.arrays()
            yield {name: value for name, value in arrays.items() if name in names}, split.y

    def apply(
        self,
        function: Callable[[Inputs, int | None], Tensors],
        seed: int | None = 0,
        dim: int = 0,
        checks: bool = False,
    ) -> Tensors:
        """`function(inputs, seed)` of each batch of inputs, concatenated along `dim`.

        Batch n has the seed `seed + n`, counted from 0: no two have the same draws.

        Args:
            function, seed, dim: as above.
            checks: whether the function itself checks that x lies in the support of the likelihood.

        Raises:
            UserError: values outside the support of the likelihood, such as logarithms of counts.
        """
        parts, support = [], None
        with self.naming_values():
            for number, inputs in enumerate(self.inputs()):
                if not checks:
                    support = support or Support(self.model, self.guide, inputs)
                    support.check(inputs)
                parts.append(function(inputs, None if seed is None else seed + number))
        return {name: torch.cat([p[name] for p in parts], dim) for name in parts[0]}

    def frame(self, columns: Mapping[Any, Any]) -> Any:
        """A frame of `{name: values [N]}` like x: of its library, with its rows' names."""
        table = self.data.table
        assert table is not None  # a frame was encoded
        own = type(self.x).__module__.split(".")[0]
        library = own if is_frame(self.x) else None
        index = None if is_anndata(self.x) else table.index
        return frame_like(library, columns, self.row_names(), index)

    def row_names(self) -> Any:
        """What names the rows of the frame: its index column, else its own index; None without one."""
        table = self.data.table
        if table is None or is_anndata(self.x):
            return row_names(self.x, None)
        if table.index is not None and table.index not in columns_of(self.x):
            advise(
                f"the new data have no column {table.index!r}, which named the rows in training: their "
                "rows are numbered"
            )
        return row_names(self.x, table.index)

    def completed(self, draw: torch.Tensor) -> dict[Any, Any]:
        """The columns of the frame, with a draw `[N, D]` for the missing values."""
        table = self.data.table
        assert table is not None
        if is_anndata(self.x):
            return table.decode(draw)
        columns, values = table.decode(draw), columns_of(self.x)
        for name, drawn in columns.items():
            array, missing = plain_values(values[name], name)
            columns[name] = np.where(missing, drawn, array).astype(drawn.dtype)
        return columns


class _Batches:
    """The batches of a loader of new data, with integers for 8-bit ones that are no gray levels."""

    def __init__(self, loader: DataLoader, new: NewData) -> None:
        self.loader, self.new = loader, new

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for item in self.loader:  # torch collates pairs (x, y) to lists
            yield self.new.batch(tuple(item) if isinstance(item, list) else item)


def _are_labels(y: Any) -> bool:
    """Whether an entry of a batch is whole numbers `[B]`."""
    try:
        as_labels(y)
    except UserError:
        return False
    return True


def _has_library_size(model: Any) -> bool:
    """Whether a model's likelihood takes the total count of a row as known."""
    p_x = conditional_of(model, "x")
    return isinstance(p_x, Conditional) and isinstance(p_x.family, LibrarySize)


def _check_complete(x: torch.Tensor, columns: list[ColumnType] | None) -> None:
    """Raise if values of `x [N, ...]` are missing.

    Args:
        columns: those of a frame that the columns of x are of.
    """
    missing = x.isnan().flatten(1)
    if bool(missing.any()):
        rows = missing.any(1).nonzero()
        row, number = missing.nonzero()[0].tolist()
        place, declared = "", " (an .npz or .npy file of them needs --missing true)"
        if columns is not None:
            place, declared = f", column {columns[number].name!r}", ""
        raise RowError(
            f"x has {int(missing.sum())} missing values, in {len(rows)} rows (first: ",
            row,
            f"{place}), and this run was trained on complete data: fill them in (pyro-vae impute and "
            f"run.impute draw them), or train again on data with missing values{declared}",
        )


def read_new(run: Any, path: Path) -> tuple[Any, dict[str, Any]]:
    """`(x, others)` of a file or an image folder, as `NewData` takes them; x is `(x, y)` with labels.

    Raises:
        UserError: a name of a data set; no such file, or one that cannot be read.
    """
    table = None if run.data is None else run.data.table
    of_table = {}
    if table is not None:
        of_table = {
            "text": table.text_columns,
            "numbers": table.number_columns,
            "used": table.used_columns,
        }
    class_names = None if run.data is None or table is not None else run.data.class_names
    image_size = (run.config or {}).get("image_size")
    x, others = read_source(path, image_size, class_names=class_names, **of_table)
    y = others.pop("y", None)
    if path.is_dir() and run.data is not None and run.data.train.x.shape[1:2] == (3,):
        x = x.expand(-1, 3, -1, -1)  # all are gray, and the model takes color
    return (x if y is None else (x, y)), others


def as_test_split(new: NewData) -> Data:
    """The data of the run, with the new data as the test split."""
    splits = list(new.splits())
    arrays = [split.arrays() for split in splits]
    joined = {name: torch.cat([a[name] for a in arrays]) for name in arrays[0]}
    y = joined.pop("y", None)
    test = Split(joined.pop("x"), y, joined.pop("c", None), joined)
    condition = new.data.condition
    scaling = None if new.data.scaling is None else new.data.observed_scaling
    known = new.data.map_splits(
        lambda split: conditioned(split, condition), condition=None, scaling=scaling
    )
    return replace(known, test=test)
