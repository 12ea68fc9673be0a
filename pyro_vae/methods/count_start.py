"""Where a decoder of counts starts: at the mean and the dispersion of the columns."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from ..conditionals import Columns, Conditional, Family
from ..conditionals.encoders import count_columns
from ..conditionals.families import raw_log_scale
from ..conditionals.likelihoods import raw_log_rate
from ..conditionals.missing import without_missing
from ..conditionals.networks import Affine
from ..data import Data
from ..data.arrays import column_moments
from ..programs.interfaces import conditional_of

LEAST_MEAN = 1e-3
COLUMNS = 512  # of a sparse matrix that are dense at once
# bounds of log r, the logarithm of the inverse dispersion; at the second the counts are nearly Poisson
LOG_R_BOUNDS = (-3.0, 6.0)


@dataclass(frozen=True)
class CountStart:
    """The logarithms of the mean and of the inverse dispersion of columns.

    From a mean of 1 the step to incomes is long: the decoder would take thousands of steps to it.

    Args:
        log_mean, log_r: `[D]`; numbers of columns that are no counts are not used.
    """

    log_mean: tuple[float, ...]
    log_r: tuple[float, ...]

    @classmethod
    def of(cls, data: Data, family: Family) -> "CountStart | None":
        """That of the training split; None for other data than a table with counts."""
        if len(data.x_shape) != 1 or not any(count_columns(family, data.x_shape[0])):
            return None
        mean, sd = _moments(data)
        mean, variance = mean.clamp_min(LEAST_MEAN), sd**2
        r = mean**2 / (variance - mean).clamp_min(1e-12)  # the variance is mean + mean^2 / r
        log_r = r.log().clamp(*LOG_R_BOUNDS)
        return cls(tuple(mean.log().tolist()), tuple(log_r.tolist()))

    @torch.no_grad()
    def apply(self, model: Any) -> None:
        """Start p(x | ...) of a model there, in the columns that it takes as counts."""
        p_x = conditional_of(model, "x")
        if not isinstance(p_x, Conditional) or not isinstance(p_x.head, Affine):
            return
        if p_x.shape != (len(self.log_mean),):
            return
        start = 0
        for name, shape in p_x.family.parameter_shapes(p_x.shape).items():
            parameter, columns = _column_slice(p_x, name)
            outputs = slice(start, start := start + math.prod(shape))
            if parameter in ("log_mean", "log_rate"):
                p_x.head.start_bias(outputs, raw_log_rate(torch.tensor(self.log_mean[columns])))
        for name, value in p_x.unconditional_parameters.items():
            parameter, columns = _column_slice(p_x, name)
            if parameter == "log_r":
                value.copy_(raw_log_scale(torch.tensor(self.log_r[columns])))


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


def _column_slice(p_x: Conditional, name: str) -> tuple[str, slice]:
    """The name of a parameter within its block, and the columns of the block."""
    family = without_missing(p_x.family)
    if not isinstance(family, Columns):
        return name, slice(0, p_x.shape[0])
    parameter, _, number = name.rpartition("_")
    sizes = [size for _, size in family.families()]
    start = sum(sizes[: int(number)])
    return parameter, slice(start, start + sizes[int(number)])
