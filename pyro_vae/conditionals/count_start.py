"""Where a decoder of counts starts: at the mean and the dispersion of the columns."""

import math
import warnings
from dataclasses import dataclass

import torch

from .columns import Columns
from .conditional import Conditional
from .encoders import count_columns
from .families import Family, raw_log_scale
from .likelihoods import LARGEST_MEAN, LOG_RATE_BOUND, likelihood, raw_log_rate
from .missing import without_missing
from .networks import Affine

LEAST_MEAN = 1e-3
# bounds of log r, the logarithm of the inverse dispersion; at the second the counts are nearly Poisson
LOG_R_BOUNDS = (-3.0, 6.0)


@dataclass(frozen=True)
class CountStart:
    """The logarithms of the mean and of the inverse dispersion of columns.

    From a mean of 1 the step to incomes is long: the decoder would take thousands of steps to it.

    Args:
        log_mean, log_r: `[D]`; numbers of columns that are no counts are not used.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from pyro_vae.conditionals.count_start import CountStart
        >>> start = CountStart.of("poisson", torch.tensor([4e4]), torch.tensor([200.0]))
        >>> poisson, no_layer = pv.conditionals.Poisson(), pv.conditionals.MLP(())
        >>> p_x = pv.conditionals.Conditional((1,), {"z": (2,)}, poisson, no_layer)
        >>> _ = torch.nn.init.zeros_(p_x.head.maps["z"].weight)
        >>> start.apply(p_x)
        >>> round(float(p_x(z=torch.zeros(2)).mean))
        40000
    """

    log_mean: tuple[float, ...]
    log_r: tuple[float, ...]

    @classmethod
    def of(cls, family: Family | str, mean: torch.Tensor, sd: torch.Tensor) -> "CountStart | None":
        """That of a likelihood of columns; None if none of them are counts.

        Args:
            mean, sd: `[D]`, moments of the columns, in float64.
        """
        is_count = torch.tensor(count_columns(likelihood(family), len(mean)), dtype=torch.bool)
        if not is_count.any():
            return None
        above = is_count & (mean.cpu() > LARGEST_MEAN)
        if above.any():
            warnings.warn(
                f"counts have column means up to {mean.cpu()[above].max():.3g}, and means of a likelihood "
                f"of counts are bounded at {math.exp(LOG_RATE_BOUND):.1e}, and hardly move above "
                f"{LARGEST_MEAN:.0e}: divide the counts, or model them as real numbers",
                stacklevel=2,
            )
        mean = mean.clamp_min(LEAST_MEAN)
        r = mean**2 / (sd**2 - mean).clamp_min(1e-12)  # the variance is mean + mean^2 / r
        log_r = r.log().clamp(*LOG_R_BOUNDS)
        return cls(tuple(mean.log().tolist()), tuple(log_r.tolist()))

    @torch.no_grad()
    def apply(self, p_x: object) -> None:
        """Start a decoder there, in the columns that it takes as counts."""
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


def _column_slice(p_x: Conditional, name: str) -> tuple[str, slice]:
    """The name of a parameter within its block, and the columns of the block."""
    family = without_missing(p_x.family)
    if not isinstance(family, Columns):
        return name, slice(0, p_x.shape[0])
    parameter, _, number = name.rpartition("_")
    sizes = [size for _, size in family.families()]
    start = sum(sizes[: int(number)])
    return parameter, slice(start, start + sizes[int(number)])
