"""The likelihood that fits a table, and the units in which a model sees it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..conditionals import Family
from ..conditionals import likelihood as likelihood_of
from ..conditionals.encoders import COUNTS
from ..conditionals.likelihoods import Bernoulli, Binomial, NegativeBinomial, Poisson
from ..conditionals.missing import without_missing
from ..conditionals.support import real_columns
from ..data.arrays import is_constant
from ..data.tables import MAX_COUNT, MIN_DISPERSION
from ..errors import UserError

if TYPE_CHECKING:
    from .rows import Rows

COUNT_COLUMNS = 0.9  # the fraction of columns that must look like counts
BOUNDED_COLUMNS = 0.5  # the fraction of columns that must reach a common upper bound
LEAST_BOUNDED = 5  # columns that must reach it: of fewer, the largest values are equal by chance
MAX_BOUND = 255


@dataclass(frozen=True, eq=False)
class Units:
    """The likelihood of a table, and the affine map from its units to those of the model.

    Columns with a likelihood of real numbers (normal, Student-t) are standardized. A constant column is
    only centered. Integers with a common upper bound m are divided by m, as a binomial likelihood needs
    them.

    Args:
        likelihood: of the columns.
        mean, scale: `[D]`: the model sees `(x - mean) / scale`.
        log_volume: `[D]`: by what a log-density in the units of the model exceeds one in those of
            the table; zero for probabilities of integers.
        column_means: `[D]`, in the units of the table.
        log_moments: `(mean [D], standard deviation [D])` of log(1 + x), which the encoder of a
            count model sees standardized; None for other likelihoods.
    """

    likelihood: Family
    mean: np.ndarray
    scale: np.ndarray
    log_volume: np.ndarray
    column_means: np.ndarray
    log_moments: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(
        cls, rows: "Rows", likelihood: "Family | str", weight: np.ndarray | None = None
    ) -> "Units":
        """The units of a table.

        Args:
            rows: the table.
            likelihood: a name, a family, or "auto": see `automatic_likelihood`.
            weight: `[N]` of the rows. Default: equal.
        """
        mean, sd = moments(rows, weight)
        scale = np.ones_like(sd)
        if isinstance(likelihood, str) and likelihood == "auto":
            likelihood, bound = automatic_likelihood(rows, mean, sd, weight)
            scale = scale * bound
        family = likelihood_of(likelihood)
        real = real_columns(family, len(mean)).numpy()
        log_moments = None
        if isinstance(without_missing(family), COUNTS):
            log_mean, log_sd = moments(rows, weight, np.log1p)
            log_moments = log_mean, np.where(log_sd > 0, log_sd, 1.0)
        scale = np.where(real & (sd > 0), sd, scale)
        log_volume = np.where(real, np.log(scale), 0.0)
        return cls(family, np.where(real, mean, 0.0), scale, log_volume, mean, log_moments)

    def to_model(self, block: np.ndarray) -> torch.Tensor:
        """Rows `[B, D]` of the table, in the units of the model."""
        return torch.from_numpy((block - self.mean) / self.scale)

    def encoder_values(self, block: np.ndarray) -> np.ndarray:
        """Rows `[B, D]` of the table as an encoder sees them: of counts, standardized logarithms."""
        if self.log_moments is None:
            return (block - self.mean) / self.scale
        log_mean, log_sd = self.log_moments
        return (np.log1p(block) - log_mean) / log_sd

    def to_table(self, values: torch.Tensor) -> np.ndarray:
        """Values `[B, D]` of the model, in the units of the table."""
        return values.detach().cpu().double().numpy() * self.scale + self.mean

    def start_bias(self) -> torch.Tensor | None:
        """`[D]`: the decoder's bias at which its mean is the mean of the columns.

        None where it is zero, or not known for the likelihood.
        """
        mean = torch.from_numpy(self.column_means / self.scale)
        family = without_missing(self.likelihood)
        if isinstance(family, (Bernoulli, Binomial)):
            return mean.clamp(1e-3, 1 - 1e-3).logit()
        if isinstance(family, (Poisson, NegativeBinomial)):
            return mean.clamp_min(1e-3).log()
        return None


def moments(
    rows: "Rows", weight: np.ndarray | None, function: "np.ufunc | None" = None
) -> tuple[np.ndarray, np.ndarray]:
    """`(mean [D], standard deviation [D])` of the columns, in three passes by blocks, in float64.

    NaN is a missing value, and does not count. The deviation of a column that is constant up to
    rounding is 0, exactly.

    Args:
        rows: the table.
        weight: `[N]` of the rows. Default: equal.
        function: of the values, whose moments these are. Default: the values themselves.
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
    mean = mean + weighted_mean(lambda values: values - mean)  # without the rounding of a long sum
    sd = np.sqrt(weighted_mean(lambda values: (values - mean) ** 2))
    constant = is_constant(torch.from_numpy(mean), torch.from_numpy(sd), torch.float64)
    return mean, np.where(constant.numpy(), 0.0, sd)


def automatic_likelihood(
    rows: "Rows", mean: np.ndarray, sd: np.ndarray, weight: np.ndarray | None = None
) -> tuple["Family | str", float]:
    """A likelihood that fits a table, and the number that its values are divided by.

    * Values 0 and 1: bernoulli.
    * Integers from 0 to a bound of at most 255 that half of the columns reach, and at least five
      (grades, genotypes, gray levels): binomial.
    * Other non-negative integers: negative-binomial, if they vary as counts do, with a variance of
      at least about the mean, and are below 2**24. Years and codes vary less, and time stamps are
      larger.
    * All else: normal.

    Args:
        rows: the table.
        mean, sd: `[D]`, moments of the columns.
        weight: `[N]` of the rows; those of weight zero are left out. Default: equal.
    """
    largest, start = np.zeros(rows.table.shape[1]), 0
    for block in rows.blocks():
        stop = start + len(block)
        if weight is not None:
            block = block[weight[start:stop] > 0]
        start = stop
        observed = np.where(np.isnan(block), 0.0, block)
        if (observed < 0).any() or (observed != np.round(observed)).any():
            return "normal", 1.0
        largest = np.maximum(largest, observed.max(0, initial=0.0))
    varies, bound = sd > 0, largest.max()
    if bound >= MAX_COUNT:
        return "normal", 1.0
    if bound <= 1 or not varies.any():
        return ("bernoulli" if bound <= 1 else "normal"), 1.0
    reached = largest[varies] == bound
    is_bounded = reached.mean() >= BOUNDED_COLUMNS and reached.sum() >= LEAST_BOUNDED
    if bound <= MAX_BOUND and is_bounded:
        return Binomial(int(bound)), float(bound)
    dispersed = sd[varies] ** 2 >= MIN_DISPERSION * mean[varies]
    return ("negative-binomial" if dispersed.mean() >= COUNT_COLUMNS else "normal"), 1.0
