"""A run applied to a file of new data: its codes, or the file with its missing values drawn."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data import DATASETS
from ..data.dataset import SPLITS
from ..data.files import read_source
from ..data.image_files import file_names
from ..data.splitting import rows_of_splits
from ..data.tables import columns_of, is_anndata, unused_names, write_csv
from ..errors import UserError, file_to_write
from .advice import advise
from .answers import code_columns, encodings, impute, own_splits
from .new_data import NewData, read_new


def write_codes(run: Any, source: Path | None, path: Path, split: str | None = None) -> Path:
    """Encode data with a `Run`, and write the codes as a CSV file.

    The first column names the rows: by the table's index, by the files of an image folder, else by
    their numbers. Of splits of the run's data the first columns are the split, the name or number of
    the row (in the file; of a data set in the split), and the label.

    Args:
        run: the run.
        source: a file or an image folder. Default: that of the run's data; of a data set by name its
            splits.
        path: of the CSV file.
        split: train, valid or test, of the run's data in place of a file.

    Raises:
        UserError: no data; a source beside a split.
    """
    if path.suffix.lower() not in ("", ".csv"):
        raise UserError(f"the codes are a CSV file: {path.name} needs the ending .csv")
    if split is not None and source is not None:
        raise UserError("--split names a part of the run's own data: leave out --data or --split")
    check_is_no_input(run, source, path)
    has_data = run.data is not None and run.data.absent is None
    if split is not None or (source is None and has_data and _data_file(run) is None):
        path = file_to_write(path)
        write_csv(path, _own_columns(run, split))
        return path
    new = _read_as_new(run, source)
    path = file_to_write(path)
    columns = code_columns(encodings(new), new.class_names)
    name, rows = _named_rows(run, new, source)
    size = len(next(iter(columns.values())))
    front = unused_names({name: range(size) if rows is None else rows}, columns)
    write_csv(path, {**front, **columns})
    return path


def _own_columns(run: Any, split: str | None) -> dict[str, Any]:
    """The columns of the codes of the run's own data, of one split or of all."""
    columns = code_columns(run.encode(split=split), run.class_names)
    names = own_splits(run.guide, run.data) if split is None else (split,)
    parts = {name: run.data.splits()[name] for name in names}
    label, rows = _rows_by_split(run)
    index = {label: [row for name in parts for row in rows[name]]}
    split_of_rows = [name for name, part in parts.items() for _ in range(len(part))]
    front = {**unused_names({"split": split_of_rows}, index), **index}
    if all(part.y is not None for part in parts.values()):
        classes = run.data.class_names or range(run.data.num_classes)
        labels = [int(y) for part in parts.values() for y in part.y]
        classes_of_rows = [classes[y] if y >= 0 else "" for y in labels]
        front |= unused_names({"label": classes_of_rows}, index)
    return {**unused_names(front, columns), **columns}


def _rows_by_split(run: Any) -> tuple[str, dict[str, Sequence[Any]]]:
    """What names the rows of each split: as in the file, else their numbers in the split."""
    splits = run.data.splits()
    sizes = [len(splits.get(name) or ()) for name in SPLITS]
    if _data_file(run) is not None:
        label, names = _named_rows(run, _read_as_new(run, None), None)
        names = range(sum(sizes)) if names is None else list(names)
        if len(names) == sum(sizes):
            found = rows_of_splits(sizes, run.data.split_seed)
            named = [[names[int(row)] for row in rows] for rows in found]
            return label, dict(zip(SPLITS, named, strict=True))
    return "row", {name: range(len(split)) for name, split in splits.items()}


def _named_rows(run: Any, new: NewData, source: Path | None) -> tuple[str, Any]:
    """The first column of the codes: its name, and its values; None for the numbers of the rows."""
    folder = _data_file(run) if source is None else source
    if folder is not None and folder.is_dir():
        return "file", file_names(folder)
    if not new.is_frame or run.data.table is None:
        return "row", None
    index = run.data.table.index
    names = new.row_names()
    return "row" if names is None or index is None else index, names


def write_imputed(
    run: Any, source: Path | None, path: Path, num_samples: int, steps: int, seed: int
) -> Path:
    """Fill in the missing values of a file by draws from a `Run`'s model, and write all of it.

    A table becomes a CSV file of all its columns, those included that the model does not have; with
    several draws, all rows of draw 1, then of draw 2, with columns `row` and `draw` in front (`_row`,
    `_draw` beside columns of these names). Arrays become an .npy file, `[N, ...]` or, with several
    draws, `[num_samples, N, ...]`.

    Args:
        run, source: as in `write_codes`.
        path: of the file; without its ending, .csv or .npy, it gets it.
        num_samples, steps, seed: as in `Run.impute`.

    Raises:
        UserError: the run's data are no file, or no value is missing.
    """
    new = _read_as_new(run, source)
    if not any(
        bool(split["x"].isnan().any()) for split in replace(new, allow_missing=True).inputs()
    ):
        raise UserError(
            "no value of these data is missing: a missing value is an empty cell of a table, or NaN"
        )
    ending = ".csv" if new.is_frame else ".npy"
    path = path if path.suffix == ending else path.with_name(path.name + ending)
    check_is_no_input(run, source, path)
    path = file_to_write(path)
    drawn = impute(new, num_samples, steps, seed)
    if not new.is_frame:
        np.save(path, (drawn[0] if num_samples == 1 else drawn).numpy())
        return path
    whole = {} if is_anndata(new.x) else columns_of(new.x)
    tables = [{**whole, **columns_of(t)} for t in (drawn if num_samples > 1 else [drawn])]
    columns = {name: [v for t in tables for v in t[name]] for name in tables[0]}
    if num_samples > 1:
        size = len(next(iter(tables[0].values())))
        numbers = {
            "row": [*range(size)] * num_samples,
            "draw": [draw + 1 for draw in range(num_samples) for _ in range(size)],
        }
        columns = {**unused_names(numbers, columns), **columns}
    write_csv(path, columns)
    return path


def read_covariates(run: Any, path: Path) -> Any:
    """The covariates in a file, for `Run.sheet`: an array, or a table that has their columns.

    Raises:
        UserError: no such file, or one that cannot be read.
    """
    table = None if run.data is None else run.data.table
    of_table = {}
    if table is not None:
        names = frozenset(column.name for column in table.covariates)
        of_table = {"text": table.text_columns, "numbers": table.number_columns, "used": names}
    value, others = read_source(path, **of_table)
    return others.get("c", value)


def check_is_no_input(run: Any, source: Path | None, *paths: Path) -> None:
    """Raise if one of the files to write is what is read, or what the run was trained on."""
    trained_on = _data_file(run)
    inputs = {Path(p).resolve() for p in (source, trained_on) if p is not None}
    for path in paths:
        if path.resolve() in inputs:
            raise UserError(f"{path} holds the data, which would be overwritten: name another file")


def _data_file(run: Any) -> Path | None:
    """The file that a run was trained on."""
    source = {} if run.data is None else run.data.source or {}
    named = (run.config or {}).get("data") or source.get("data")
    return None if named is None or named in DATASETS else Path(named)


def _read_as_new(run: Any, source: Path | None) -> NewData:
    """The data of a file; default: of the file that the run was trained on."""
    if run.data is None:
        raise UserError("this run has no data: in Python, pv.load(folder, data=...)")
    is_own = source is None
    source = _data_file(run) if source is None else source
    if source is None:
        raise UserError("this run was not trained on a file: --data FILE names the one to take")
    if is_own and run.data.absent is not None and source.exists():
        advise(f"{source} has changed since the training: its rows are taken as new data")
    if is_own and not source.exists():
        raise UserError(
            f"{source}, which the run was trained on, does not exist: name a file, --data FILE"
        )
    x, others = read_new(run, source)
    return NewData(run.model, run.guide, run.data, x, others, class_names=run.class_names)
