"""The rows of a table, dense or sparse, as the model takes them: a block of dense rows at a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse

from ..data.minibatches import row_slices
from ..data.sparse import MAX_ROW, RowNumbers
from ..errors import UserError
from .units import Units

BLOCK = 2048  # rows that are dense at once, where a whole table is passed over


class Rows:
    """Blocks of rows of a table.

    Args:
        table: `[N, D]`, a numpy array or a scipy CSR matrix, validated by scikit-learn.
    """

    def __init__(self, table: "np.ndarray | sparse.csr_matrix") -> None:
        self.table = table
        self.is_sparse = sparse.issparse(table)

    def __len__(self) -> int:
        return int(self.table.shape[0])

    def __getitem__(self, rows: "slice | np.ndarray") -> np.ndarray:
        """Some rows, dense: `[B, D]`."""
        block: Any = self.table[rows]
        return np.asarray(block.toarray() if self.is_sparse else block)

    def blocks(self, size: int = BLOCK) -> Iterator[np.ndarray]:
        """All rows in order, in dense blocks of `size`."""
        return (self[rows] for rows in row_slices(len(self), size))

    @property
    def dtype(self) -> torch.dtype:
        """The precision of a model of this table: float32 for float32, else float64."""
        return torch.float32 if self.table.dtype == np.float32 else torch.float64


def without_mask(values: Any) -> Any:
    """A numpy masked array with NaN for masked numbers, None for others; another value as it is."""
    if not isinstance(values, np.ma.MaskedArray):
        return values
    if not np.ma.is_masked(values):
        return values.data
    is_number = values.dtype.kind in "biuf"
    dtype = values.dtype if values.dtype.kind == "f" else np.dtype(float if is_number else object)
    result = np.array(values.data, dtype)
    result[np.ma.getmaskarray(values)] = np.nan if is_number else None
    return result


class DenseRows(RowNumbers):
    """The rows of a sparse table, in the units of the model.

    Args:
        rows: the table.
        units: of the model.
        covariates: `[N, C]`, or None.
    """

    def __init__(self, rows: Rows, units: Units, covariates: torch.Tensor | None = None) -> None:
        super().__init__(covariates)
        if rows.dtype == torch.float32 and len(rows) > MAX_ROW:
            raise UserError("more than 2^24 rows need float64: pass X.astype(np.float64)")
        self.rows, self.units = rows, units

    def dense(self, rows: np.ndarray) -> torch.Tensor:
        """Some rows `[B, D]` in the units of the model."""
        return self.units.to_model(self.rows[rows])
