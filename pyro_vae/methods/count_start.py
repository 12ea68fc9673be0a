"""Where a method's decoder of counts starts: at the moments of the training data."""

import torch

from ..conditionals import Family
from ..conditionals.count_start import CountStart
from ..data import Data
from ..data.arrays import column_moments

COLUMNS = 512  # of a sparse matrix that are dense at once


def count_start(data: Data, family: Family) -> CountStart | None:
    """That of the training split; None for other data than a table with counts."""
    return CountStart.of(family, *_moments(data)) if len(data.x_shape) == 1 else None


def _moments(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and standard deviation `[D]` of the columns; those of a sparse matrix some at a time."""
    if data.sparse is None:
        return column_moments(data.train.x)
    rows = data.sparse.matrix[data.train.x[:, 0].long().cpu().numpy()].tocsc()
    blocks = [
        column_moments(torch.from_numpy(rows[:, start : start + COLUMNS].toarray()).double())
        for start in range(0, rows.shape[1], COLUMNS)
    ]
    means, deviations = zip(*blocks, strict=True)
    return torch.cat(means), torch.cat(deviations)
