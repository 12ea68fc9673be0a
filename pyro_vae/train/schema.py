"""How new data are read for a pair: columns, units and classes as JSON values, without a row of data.

A checkpoint and an export hold it. With it a trained pair encodes, samples and evaluates new data
where the data that it was trained on are not at hand.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch

from .. import conditionals
from ..conditionals import Family
from ..data import Condition, Data, Labels, Quadrants, Split
from ..data.dataset import AbsentRows, difference
from ..data.sparse import SparseRows
from ..data.tables import KINDS, ColumnType, Table
from ..errors import UserError
from ..programs.program import built, plain_value

#: Fields of `Data` that JSON holds as they are.
PLAIN_FIELDS = (
    "name", "num_classes", "binarize", "binarize_seed", "split_seed", "missing",
)  # fmt: skip
FAMILIES = {
    name: kind
    for name, kind in vars(conditionals).items()
    if isinstance(kind, type) and issubclass(kind, Family)
}
CONDITIONS = {"Labels": Labels, "Quadrants": Quadrants}
DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float64, torch.int64)}


def schema_of(data: Data) -> dict[str, Any] | None:
    """What `data_of_schema` needs to read new data as these were.

    None where JSON cannot hold it: a condition that is a user's function, a likelihood of a user's
    class, arrays of other types than floats and 64-bit integers, or columns whose names are neither
    text nor numbers.

    Args:
        data: what a pair is trained on.
    """
    if data.absent is not None:
        return data.absent.schema
    sparse, condition = data.sparse, data.dense_condition
    if not (condition is None or type(condition) in CONDITIONS.values()):
        return None
    schema: dict[str, Any] = {
        **{name: getattr(data, name) for name in PLAIN_FIELDS},
        "arrays": {
            name: [str(value.dtype).removeprefix("torch."), list(value.shape[1:])]
            for name, value in data.train.arrays().items()
        },
        "names": None if data.names is None else list(data.names),
        **_described_names(data),
        "likelihood": plain_value(data.likelihood),
        "condition": plain_value(condition),
        "sparse_columns": None if sparse is None else sparse.matrix.shape[1],
        "sparse_covariates": None
        if sparse is None or sparse.covariates is None
        else list(sparse.covariates.shape[1:]),
        "scaling": _as_lists(data.scaling),
        "c_scaling": _as_lists(data.c_scaling),
        "gray_levels": [name for name in ("x", "c") if data.has_gray_levels(name)],
        "num_labels": data.num_labels,
        "withheld_labels": data.withheld_labels is not None,
        "fingerprint": data.fingerprint(),
    }
    try:
        is_plain = json.loads(json.dumps(schema, allow_nan=False)) == schema
        data_of_schema(schema, "")
    except (TypeError, ValueError, UserError):  # a ValueError too: NaN
        return None
    return schema if is_plain else None


def data_differ(
    fingerprint: Mapping[str, Any], schema: Mapping[str, Any] | None, data: Data
) -> str | None:
    """In what data differ from those that a pair was trained on; None if they are the same.

    Args:
        fingerprint: of those data; an entry of numbers that it has not is not compared.
        schema: of those data, if there is one. Else columns, categories and classes are not compared.
        data: present ones, prepared as those were.
    """
    present = json.loads(json.dumps(data.fingerprint()))
    known = {**({} if schema is None else schema["fingerprint"]), **fingerprint}
    other = difference(known, present)
    if other is not None or schema is None:
        return other
    # not the types of the arrays: those of a checkpoint are the pair's
    own = _described_names(data)
    return next((name for name, value in own.items() if schema[name] != value), None)


def data_of_schema(schema: Mapping[str, Any], reason: str) -> Data:
    """`Data` without rows: it reads new data, and takes samples to the original units.

    Args:
        schema: of `schema_of`.
        reason: why the rows are not here, for the error where they are needed.

    Raises:
        UserError: a damaged schema.
    """
    return _checked_data(schema, 0, AbsentRows(dict(schema), reason))


def example_of_schema(schema: Mapping[str, Any], num_rows: int) -> Data:
    """`Data` whose rows are zeros: what programs are traced on where the rows are not here."""
    return _checked_data(schema, num_rows, None)


def _checked_data(schema: Mapping[str, Any], num_rows: int, absent: AbsentRows | None) -> Data:
    try:
        return _data(dict(schema), num_rows, absent)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError, OverflowError) as e:
        raise UserError(f"the schema of the data is damaged: {type(e).__name__}") from e


def _data(schema: dict[str, Any], num_rows: int, absent: AbsentRows | None) -> Data:
    arrays = {
        name: torch.zeros(num_rows, *shape, dtype=DTYPES[dtype])
        for name, (dtype, shape) in schema["arrays"].items()
    }
    train = Split(arrays.pop("x"), arrays.pop("y", None), arrays.pop("c", None), arrays)
    condition: Any = built(schema["condition"], CONDITIONS)
    if not isinstance(condition, Condition | None):
        raise TypeError("no condition")
    if schema["sparse_columns"] is not None:
        condition = _sparse_rows(schema, num_rows, condition)
    likelihood = schema["likelihood"]
    if not isinstance(likelihood, str):
        likelihood = built(likelihood, FAMILIES)
        if not isinstance(likelihood, Family):
            raise TypeError("no likelihood")
    names, class_names = schema["names"], schema["class_names"]
    return Data(
        train,
        likelihood=likelihood,
        condition=condition,
        names=None if names is None else tuple(names),
        class_names=None if class_names is None else tuple(class_names),
        scaling=_as_tensors(schema["scaling"]),
        c_scaling=_as_tensors(schema["c_scaling"]),
        table=None if schema["table"] is None else _table(**schema["table"]),
        withheld_labels=train.y if schema["withheld_labels"] else None,
        absent=absent,
        **{name: schema[name] for name in PLAIN_FIELDS},
    )


def _sparse_rows(schema: Mapping[str, Any], num_rows: int, condition: Any) -> SparseRows:
    from scipy.sparse import csr_matrix

    shape = schema["sparse_covariates"]
    covariates = None if shape is None else torch.zeros(num_rows, *shape)
    return SparseRows(csr_matrix((num_rows, schema["sparse_columns"])), covariates, condition)


def _as_lists(scaling: tuple[torch.Tensor, torch.Tensor] | None) -> list[Any] | None:
    return None if scaling is None else [value.double().tolist() for value in scaling]


def _as_tensors(scaling: list[Any] | None) -> tuple[torch.Tensor, torch.Tensor] | None:
    if scaling is None:
        return None
    mean, sd = (torch.tensor(value, dtype=torch.float64) for value in scaling)
    return mean, sd


def _described_names(data: Data) -> dict[str, Any]:
    """The columns of the data's table, with their categories, and the names of the classes."""
    return {
        "table": None if data.table is None else _described_table(data.table),
        "class_names": None if data.class_names is None else list(data.class_names),
    }


def _described_table(table: Table) -> dict[str, Any]:
    return {
        "columns": [_described_column(column) for column in table.columns],
        "labels": None if table.labels is None else _described_column(table.labels),
        "index": table.index,
        "library": table.library,
        "layer": table.layer,
        "covariates": [_described_column(column) for column in table.covariates],
    }


def _described_column(column: ColumnType) -> list[Any]:
    return [column.name, column.kind, list(column.categories)]


def _table(
    columns: list[Any], labels: list[Any] | None, covariates: list[Any], **others: Any
) -> Table:
    of_x, of_c = (tuple(_column(*column) for column in each) for each in (columns, covariates))
    of_labels = None if labels is None else _column(*labels)
    return Table(of_x, of_labels, covariates=of_c, **others)


def _column(name: Any, kind: str, categories: list[Any]) -> ColumnType:
    if kind not in KINDS:
        raise ValueError(kind)
    return ColumnType(name, kind, tuple(categories))
