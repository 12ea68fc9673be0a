"""The likelihood that fits a table, and the units in which a model sees it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..conditionals import Family, Normal, NormalLikelihood
from ..conditionals import likelihood as likelihood_of
from ..conditionals.likelihoods import Bernoulli, NegativeBinomial, Poisson
from ..errors import UserError

if TYPE_CHECKING:
    from .rows import Rows

MIN_DISPERSION = 0.5  # variance / mean, below which a column is no count
COUNT_COLUMNS = 0.9  # the fraction of columns that must look like counts


@dataclass(frozen=True, eq=False)
class Units:
    """The likelihood of a table, and the affine map from its units to those of the model.

    Columns with a normal likelihood are standardized. A constant column is only centered.

    Args:
        likelihood: of the columns.
        mean, scale: `[D]`: the model sees `(x - mean) / scale`.
        column_means: `[D]`, in the units of the table.
        log_moments: `(mean [D], standard deviation [D])` of log(1 + x), which the encoder of a
            count model sees standardized; None for other likelihoods.
    """

    likelihood: Family
    mean: np.ndarray
    scale: np.ndarray
    column_means: np.ndarray
    log_moments: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(
        cls, rows: "Rows", likelihood: "Family | str", weight: np.ndarray | None = None
    ) -> "Units":
        """The units of a table.

        Args:
            rows: the table.
            likelihood: a name, a family, or "auto": bernoulli for values 0 and 1,
                negative-binomial for counts, else normal.
            weight: `[N]` of the rows. Default: equal.
        """
        mean, sd = _moments(rows, weight)
        if isinstance(likelihood, str) and likelihood == "auto":
            likelihood = _automatic(rows, mean, sd)
        family = likelihood_of(likelihood)
        zeros, ones = np.zeros_like(mean), np.ones_like(sd)
        if isinstance(family, (Normal, NormalLikelihood)):
            constant = sd <= 10 * np.finfo(float).eps * np.abs(mean)  # up to rounding
            return cls(family, mean, np.where(constant, ones, sd), mean)
        log_moments = None
        if isinstance(family, (Poisson, NegativeBinomial)):
            log_mean, log_sd = _moments(rows, weight, np.log1p)
            log_moments = log_mean, np.where(log_sd > 0, log_sd, ones)
        return cls(family, zeros, ones, mean, log_moments)

    def to_model(self, block: np.ndarray) -> torch.Tensor:
        """Rows `[B, D]` of the table, in the units of the model."""
        return torch.from_numpy((block - self.mean) / self.scale)

    def to_table(self, values: torch.Tensor) -> np.ndarray:
        """Values `[B, D]` of the model, in the units of the table."""
        return values.detach().cpu().double().numpy() * self.scale + self.mean

    def start_bias(self) -> torch.Tensor | None:
        """`[D]`: the decoder's bias at which its mean is the mean of the columns.

        None where it is zero, or not known for the likelihood.
        """
        mean = torch.from_numpy(self.column_means)
        if isinstance(self.likelihood, Bernoulli):
            return mean.clamp(1e-3, 1 - 1e-3).logit()
        if isinstance(self.likelihood, (Poisson, NegativeBinomial)):
            return mean.clamp_min(1e-3).log()
        return None


def _moments(
    rows: "Rows", weight: np.ndarray | None, function: "np.ufunc | None" = None
) -> tuple[np.ndarray, np.ndarray]:
    """`(mean [D], standard deviation [D])` of the columns, in two passes by blocks, in float64.

    NaN is a missing value, and does not count.
    """

    def weighted_mean(moment: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        total, count, start = np.zeros(rows.table.shape[1]), np.zeros(rows.table.shape[1]), 0
        for block in rows.blocks():
            values = block.astype(np.float64)
            values = moment(values if function is None else function(values))
            part = np.ones(len(block)) if weight is None else weight[start : start + len(block)]
            observed = ~np.isnan(values)
            total += (np.where(observed, values, 0.0) * part[:, None]).sum(0)
            count += (observed * part[:, None]).sum(0)
            start += len(block)
        if not count.all():
            raise UserError(f"column {int(np.argmin(count))} of X has no observed value: drop it")
        return total / count

    mean = weighted_mean(lambda values: values)
    return mean, np.sqrt(weighted_mean(lambda values: (values - mean) ** 2))


def _automatic(rows: "Rows", mean: np.ndarray, sd: np.ndarray) -> str:
    """The name of a likelihood that fits the table.

    Integers that vary less than a count does (years, codes) are no counts: a column of counts has a
    variance of at least about its mean.
    """
    largest = 0.0
    for block in rows.blocks():
        observed = block[~np.isnan(block)]
        if (observed < 0).any() or (observed != np.round(observed)).any():
            return "normal"
        largest = max(largest, float(observed.max(initial=0)))
    if largest <= 1:
        return "bernoulli"
    varies = sd > 0
    dispersed = sd[varies] ** 2 >= MIN_DISPERSION * mean[varies]
    is_count = dispersed.mean() >= COUNT_COLUMNS if varies.any() else False
    return "negative-binomial" if is_count else "normal"
