"""The likelihood that fits a table, and the units in which a model sees it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..conditionals import Family
from ..conditionals import likelihood as likelihood_of
from ..conditionals.count_start import CountStart
from ..conditionals.encoders import count_columns
from ..conditionals.likelihoods import LARGEST_MEAN, Bernoulli, Binomial
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
        is_count: bool `[D]`, the columns that the likelihood takes as counts.
        log_moments: `(mean [D], standard deviation [D])` of log(1 + x), which an encoder sees
            standardized in place of counts; None if there are none.
        count_start: where the decoder starts; None without counts.
    """

    likelihood: Family
    mean: np.ndarray
    scale: np.ndarray
    log_volume: np.ndarray
    column_means: np.ndarray
    is_count: np.ndarray
    log_moments: tuple[np.ndarray, np.ndarray] | None = None
    count_start: CountStart | None = None

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
        is_count, log_moments = np.array(count_columns(family, len(mean))), None
        count_start = CountStart.of(family, *map(torch.from_numpy, (mean, sd)))
        if is_count.any():
            log_mean, log_sd = moments(rows, weight, _log_counts(is_count))
            log_moments = log_mean, np.where(log_sd > 0, log_sd, 1.0)
        scale = np.where(real & (sd > 0), sd, scale)
        log_volume = np.where(real, np.log(scale), 0.0)
        center = np.where(real, mean, 0.0)
        return cls(family, center, scale, log_volume, mean, is_count, log_moments, count_start)

    def to_model(self, block: np.ndarray) -> torch.Tensor:
        """Rows `[B, D]` of the table, in the units of the model."""
        return torch.from_numpy((block - self.mean) / self.scale)

    def encoder_values(self, block: np.ndarray) -> np.ndarray:
        """Rows `[B, D]` of the table as an encoder sees them: of counts, standardized logarithms."""
        values = (block - self.mean) / self.scale
        if self.log_moments is None:
            return values
        log_mean, log_sd = self.log_moments
        logs = _log_counts(self.is_count)(block)
        return np.where(self.is_count, (logs - log_mean) / log_sd, values)

    def to_table(self, values: torch.Tensor) -> np.ndarray:
        """Values `[B, D]` of the model, in the units of the table."""
        return values.detach().cpu().double().numpy() * self.scale + self.mean

    def start_bias(self) -> torch.Tensor | None:
        """`[D]`: the decoder's bias at which its mean is the mean of the columns.

        None where it is zero, or not known for the likelihood; of counts see `count_start`.
        """
        mean = torch.from_numpy(self.column_means / self.scale)
        if isinstance(without_missing(self.likelihood), (Bernoulli, Binomial)):
            return mean.clamp(1e-3, 1 - 1e-3).logit()
        return None


def _log_counts(is_count: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """log(1 + x) of counts; of a negative number, which the likelihood refuses later, that of 0."""
    return lambda x: np.log1p(np.where(is_count, np.maximum(x, 0.0), 0.0))


def moments(
    rows: "Rows",
    weight: np.ndarray | None,
    function: Callable[[np.ndarray], np.ndarray] | None = None,
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
      at least about the mean, and are below 2**24, with means up to a million. Years and codes vary
      less, and time stamps are larger.
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
    if bound >= MAX_COUNT or mean.max() > LARGEST_MEAN:
        return "normal", 1.0
    if bound <= 1 or not varies.any():
        return ("bernoulli" if bound <= 1 else "normal"), 1.0
    reached = largest[varies] == bound
    is_bounded = reached.mean() >= BOUNDED_COLUMNS and reached.sum() >= LEAST_BOUNDED
    if bound <= MAX_BOUND and is_bounded:
        return Binomial(int(bound)), float(bound)
    dispersed = sd[varies] ** 2 >= MIN_DISPERSION * mean[varies]
    return ("negative-binomial" if dispersed.mean() >= COUNT_COLUMNS else "normal"), 1.0
