"""The library size of counts as an offset of a model's mean."""

import dataclasses

import numpy as np
import torch

from ..conditionals import LibrarySize
from ..conditionals.library_size import COUNTS
from ..errors import UserError
from .dataset import Data


def with_library_size(data: Data, counts: str | None = None) -> Data:
    """The same counts, with the likelihood `LibrarySize`: an offset for each row's total count.

    Its `size` is the median of the total counts of the training rows.

    Args:
        data: rows of counts `[N, G]`.
        counts: poisson, negative-binomial or zero-inflated-negative-binomial. Default: that of the
            data, else negative-binomial.

    Raises:
        UserError: x is no matrix of counts, has missing values, or a row without counts.

    Example:
        >>> import torch, pyro_vae as pv
        >>> data = pv.data.from_arrays(torch.tensor([[1.0, 2], [0, 5], [3, 4]]), valid=0, test=0)
        >>> pv.data.with_library_size(data).likelihood
        LibrarySize(counts='negative-binomial', size=5.0)
    """
    known = data.likelihood
    if isinstance(known, LibrarySize):
        return data if counts is None else _with(data, counts, known.size)
    if counts is None:
        counts = known if isinstance(known, str) and known in COUNTS else "negative-binomial"
        is_default = known == "bernoulli"  # counts 0 and 1
        if not (known in COUNTS or is_default):
            raise UserError(
                f"{data.name} has the likelihood {known!r}: library_size= is for counts alone"
            )
    totals = {name: _totals(split.x, data) for name, split in data.splits().items()}
    return _with(data, counts, float(np.median(totals["train"].cpu().numpy())))


def _with(data: Data, counts: str, size: float) -> Data:
    return dataclasses.replace(data, likelihood=LibrarySize(counts, size))


def _totals(x: torch.Tensor, data: Data) -> torch.Tensor:
    """The total counts `[N]` of rows, which are checked."""
    is_matrix = x.dim() == 2 and bool(((x >= 0) & (x == x.round())).all())  # NaN is no count
    if not is_matrix:
        raise UserError(
            f"{data.name}: library_size= needs a matrix of counts [N, G], without missing values"
        )
    totals = x.sum(1) if data.sparse is None else data.sparse.totals(x)
    empty = int((totals == 0).sum())
    if empty:
        raise UserError(
            f"{data.name}: {empty} of {len(x)} rows have no counts, and so no library size: leave "
            "such rows out"
        )
    return totals
