"""Tables that stay sparse: x holds row numbers, and a batch of rows becomes dense when it is used."""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import UserError
from .arrays import as_floats

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

MAX_ROW = 2**24  # row numbers are floats, of which float32 holds so many
SPARSE_ROWS = 1024  # that are dense at once, where a whole matrix is passed over


class RowNumbers:
    """A condition of `Data` whose x is `[N, 1]`, row numbers of a sparse table.

    Only the rows that are asked for become dense: those of a batch, or of a split.

    Args:
        covariates: `[N, ...]`, in the order of its rows. Default: none.
    """

    def __init__(self, covariates: torch.Tensor | None = None) -> None:
        self.covariates = covariates

    def dense(self, rows: np.ndarray) -> np.ndarray | torch.Tensor:
        """Some rows `[B, D]`, as the model sees them."""
        raise NotImplementedError

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(x [B, D], c [B, ...])` of row numbers `[B, 1]`."""
        rows = x[:, 0].long()
        values = torch.as_tensor(self.dense(rows.cpu().numpy())).to(x)
        covariates = self.covariates
        return values, None if covariates is None else covariates.to(x.device)[rows.to(x.device)]


class SparseRows(RowNumbers):
    """The rows of a sparse matrix of counts.

    Args:
        matrix: `[N, G]`, a scipy matrix of non-negative integers.
        covariates: `[N, ...]`, in the order of its rows. Default: none.
        condition: of `(x, y)`, applied to the dense rows x `[B, G]` and their labels; its c replaces
            the covariates. Default: none.

    Raises:
        UserError: values that are no counts, or too many rows.
    """

    def __init__(
        self,
        matrix: Any,
        covariates: torch.Tensor | None = None,
        condition: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(covariates)
        self.condition = condition
        self.matrix: csr_matrix = matrix.tocsr()
        values = self.matrix.data
        if not is_counts(matrix):
            raise UserError(
                "a sparse matrix stays sparse if it holds counts, and this one holds other numbers: "
                "pass x.toarray()"
            )
        as_floats(values.astype(np.int64), "x")  # integers that are too large
        if self.matrix.shape[0] > MAX_ROW:
            raise UserError(f"a sparse matrix has at most {MAX_ROW:,} rows here: use a loader")

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(x [B, ...], c [B, ...])` of row numbers `[B, 1]`, after the condition."""
        values, c = super().__call__(x, y)
        return (values, c) if self.condition is None else self.condition(values, y)

    def with_condition(self, condition: Callable[..., Any] | None) -> "SparseRows":
        """The same rows, with another condition of the dense ones."""
        rows = copy.copy(self)
        rows.condition = condition
        return rows

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """Some rows `[B, G]` as an array."""
        return np.asarray(self.matrix[rows].toarray())

    def totals(self, x: torch.Tensor) -> torch.Tensor:
        """The total counts `[B]` of the rows with the numbers x `[B, 1]`."""
        sums = np.asarray(self.matrix.sum(1), dtype=np.float64).ravel()
        return torch.from_numpy(sums[x[:, 0].long().cpu().numpy()]).to(x)

    def __repr__(self) -> str:
        condition = "" if self.condition is None else f", {self.condition!r}"
        return f"SparseRows({list(self.matrix.shape)}{condition})"


def is_sparse(value: object) -> bool:
    """Whether a value is a sparse matrix of scipy."""
    return hasattr(value, "tocsr") and hasattr(value, "nnz")


def is_counts(matrix: Any) -> bool:
    """Whether a sparse matrix holds non-negative integers alone, which NaN is not."""
    values = matrix.tocsr().data
    if values.dtype.kind not in "biuf":
        return False
    return bool((values >= 0).all() and (values == np.round(values)).all())


def likelihood_of_counts(matrix: Any) -> str:
    """The name of a likelihood that fits a sparse matrix of counts."""
    return "negative-binomial" if matrix.tocsr().data.max(initial=0) > 1 else "bernoulli"


def row_numbers(matrix: Any) -> torch.Tensor:
    """`[N, 1]`: the x of the rows of a matrix."""
    return torch.arange(matrix.shape[0], dtype=torch.get_default_dtype()).unsqueeze(1)
