"""A digest of the values of data, which is the same on another machine."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .sparse import SparseRows

BLOCK_VALUES = 2**22  # numbers that are looked at at once
DIGITS = 9  # of a column's mean: sums in another order differ in the sixteenth
OF_NEGATIVE = 1.6180339887  # the weight of a negative value's size: a change of sign is a change


def column_digest(parts: Iterable[torch.Tensor]) -> str:
    """A digest of the weighted means of columns, which an edited, exchanged or reordered value changes.

    The means are rounded, so that data which another machine standardized in another order of sums
    have the same digest. Each column counts in its own units: a large one hides no other.

    Args:
        parts: for each array its columns' means, as `column_means` returns them.

    Example:
        >>> import torch
        >>> from pyro_vae.data.fingerprint import column_digest, column_means
        >>> x = torch.tensor([[1.0, 1e6], [-1.0, 2e6]])
        >>> column_digest(column_means(x)) == column_digest(column_means(x.double()))
        True
        >>> column_digest(column_means(x)) == column_digest(column_means(x.abs()))
        False
    """
    digest = hashlib.sha256()
    for numbers in parts:
        digest.update(";".join(f"{v:.{DIGITS}g}" for v in numbers.flatten().tolist()).encode())
        digest.update(b"|")
    return digest.hexdigest()[:16]


def column_means(values: torch.Tensor) -> Iterator[torch.Tensor]:
    """The mean size `[D]` of each column, and a mean in which each row has another weight.

    Args:
        values: `[N, ...]`, as float32 rounds them; NaN is a value of its own.
    """
    width, count = values[:1].numel(), max(1, len(values))
    size = max(1, BLOCK_VALUES // max(1, width))
    sizes = torch.zeros(width, dtype=torch.float64, device=values.device)
    present, weighted = torch.zeros_like(sizes), torch.zeros_like(sizes)
    for start in range(0, len(values), size):
        block = values[start : start + size].detach().reshape(-1, width).float().double()
        weights = row_weights(start, len(block), block.device)
        if block.isnan().any():
            present -= weights @ block.isnan().double()
            block = block.nan_to_num()
        present += weights.sum()
        sizes += block.abs().sum(0)
        weighted += weights @ block.abs()
        if (block < 0).any():
            weighted += (OF_NEGATIVE - 1) * (weights @ block.clamp(max=0).abs())
    sizes /= count
    yield sizes
    yield (present + weighted / sizes.where(sizes > 0, 1.0)) / count


def sparse_column_means(rows: "SparseRows", numbers: torch.Tensor) -> Iterator[torch.Tensor]:
    """The mean `[G]` of each column's counts in some rows, in which each row has another weight.

    Args:
        rows: of a sparse table.
        numbers: `[N, 1]`, of the rows.
    """
    matrix = rows.matrix[numbers[:, 0].long().cpu().numpy()]
    weights = row_weights(0, len(numbers), torch.device("cpu")).numpy()
    yield torch.from_numpy(matrix.T @ weights) / max(1, len(numbers))


def row_weights(start: int, count: int, device: torch.device) -> torch.Tensor:
    """`[count]` weights from 1 to 3 of the rows from `start` on, no two of which are the same."""
    rows = torch.arange(start, start + count, device=device, dtype=torch.float64)
    return rows.cos() + 2


def scaling_means(scaling: tuple[torch.Tensor, torch.Tensor] | None) -> Iterator[torch.Tensor]:
    """Means, in standard deviations, and standard deviations of a standardization, to six digits."""
    if scaling is not None:
        mean, sd = (v.detach().double() for v in scaling)
        yield (mean / sd).mul(1e6).round()
        yield sd.float().log().mul(1e6).round()
