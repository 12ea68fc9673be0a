"""What `fit` accepts as data, as `Data` or as batches."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..errors import UserError
from .arrays import as_labels, as_tensor
from .dataset import Data
from .frames import from_anndata, from_frame
from .sparse import is_sparse
from .splitting import from_arrays
from .tables import is_anndata, is_frame


def from_dataset(dataset: Any, **options: Any) -> Data:
    """`Data` from a map-style torch `Dataset` of `x`, `(x, y)` or dicts.

    Example:
        >>> import torch, pyro_vae as pv
        >>> dataset = torch.utils.data.TensorDataset(torch.zeros(8, 3), torch.arange(8))
        >>> pv.data.from_dataset(dataset, valid=0, test=2)
        Data('data': 6 train, 2 test; x [3], 8 classes)

    Args:
        dataset: of one data point per item.
        options: as in `from_arrays`.
    """
    items = [dataset[i] for i in range(len(dataset))]
    if not items:
        raise UserError(f"this {type(dataset).__name__} is empty")
    first = items[0]
    if isinstance(first, dict):
        return from_arrays({k: _column([i.get(k) for i in items], k) for k in first}, **options)
    if isinstance(first, (tuple, list)):
        x = _column([i[0] for i in items], "x")
        y = _column([i[1] for i in items], "labels y") if len(first) > 1 else None
        return from_arrays(x, y, **options)
    return from_arrays(_column(items, "x"), **options)


def _column(items: Sequence[Any], name: str) -> torch.Tensor:
    """`[N, ...]` of N items, of one shape."""
    if isinstance(items[0], (str, bytes)):
        as_labels(items, name)  # raises what to do about text
    if isinstance(items[0], Real):
        return as_tensor(items, name)
    return as_tensor([as_tensor(item, name) for item in items], name)


def as_data(
    data: Any, first: str = "x", missing: bool = False, dtype: torch.dtype | None = None
) -> Any:
    """`Data`, or batches, from what `fit` accepts: arrays, `(x, y)`, `{name: array}`, a `Dataset`.

    Bare arrays and datasets are all training data: nothing is held out behind the caller's back.
    Arrays are tensors, numpy arrays, lists of numbers, or scipy sparse matrices of counts. A
    DataFrame or AnnData object is a table: see `from_frame`. Batches are a `DataLoader`, or any
    iterable with a length.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.data.as_data(torch.zeros(8, 3))
        Data('data': 8 train; x [3])

    Args:
        data: see above.
        first: the name of the program's first argument, which takes the data of a dict without "x".
        missing: whether NaN in x is a missing value, in arrays; `Data` knows.
        dtype: as in `from_arrays`.
    """
    options: dict[str, Any] = {"valid": 0, "test": 0, "missing": missing, "dtype": dtype}
    if isinstance(data, Data) and data.absent is not None:
        raise data.absent.error(data.name)
    if isinstance(data, (Data, DataLoader)):
        return data
    if isinstance(data, IterableDataset):
        raise UserError(
            "an IterableDataset gives one data point at a time: DataLoader(it, batch_size=...)"
        )
    if isinstance(data, Dataset) and hasattr(data, "__len__"):
        return from_dataset(data, **options)
    if is_anndata(data):
        return from_anndata(data, valid=0, test=0)
    if is_frame(data):
        return from_frame(data, valid=0, test=0)
    if isinstance(data, dict):
        return from_arrays(named_first(data, first), **options)
    is_array = isinstance(data, (torch.Tensor, np.ndarray)) or hasattr(data, "to_numpy")
    if is_array or is_sparse(data):
        return from_arrays(data, **options)
    if isinstance(data, str):
        raise UserError(f"data cannot be a name: pass pv.data.load({data!r}), or arrays")
    if isinstance(data, tuple):
        if len(data) != 2:
            raise UserError(
                f"a tuple of {len(data)}: pass (x, y), or arrays by the names that the program takes, "
                "{'x': x, ...}"
            )
        return from_arrays(*data, **options)
    if isinstance(data, list) and (not data or _is_row(data[0])):
        return from_arrays(data, **options)
    batched = hasattr(data, "__iter__") and hasattr(data, "__len__")
    if batched and not isinstance(data, (bytes, set, frozenset)):
        return data  # batches, their number stated
    raise UserError(
        f"cannot train on {type(data).__name__}: pass pv.data.load(...), a tensor, (x, y), "
        "{'x': x, ...}, a torch Dataset, or an iterable of batches with a length"
    )


def named_first(arrays: Mapping[str, Any], first: str) -> Mapping[str, Any]:
    """The dict, with the array of the program's first argument under "x"."""
    if "x" in arrays or first not in arrays:
        return arrays
    return {"x": arrays[first], **{k: v for k, v in arrays.items() if k != first}}


def _is_row(item: Any) -> bool:
    """Whether an item of a list is a number, or (nested) lists of them: a row, and no batch."""
    if isinstance(item, (list, tuple)):
        return bool(item) and _is_row(item[0])
    return isinstance(item, (Real, np.bool_, str))
