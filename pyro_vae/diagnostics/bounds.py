"""Which of several noisy lower bounds on log p(x) to report."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import torch

LEVEL = 1e-3  # probability that one of equally good bounds replaces the most precise one


class MeanBound(NamedTuple):
    """The mean of a lower bound over data points, in nats.

    Args:
        mean: of the bound.
        error: its standard error.
        heavy_tailed: whether the error cannot be trusted: k-hat is above 0.7.
    """

    mean: float
    error: float
    heavy_tailed: bool = False


def mean_bound(value: torch.Tensor, error: torch.Tensor, heavy_tailed: bool = False) -> MeanBound:
    """The mean of bounds `[N]` with independent standard errors `[N]`."""
    mean_error = float(error.double().square().sum().sqrt()) / len(error)
    return MeanBound(float(value.double().mean()), mean_error, heavy_tailed)


def choose_bound(bounds: Sequence[MeanBound]) -> int:
    """The number of the bound to report: the most precise, unless another is larger beyond the noise.

    The largest of several noisy estimates would be too large: where all bounds are equally good, it is
    the one whose noise is largest. A bound therefore replaces the most precise one only where it is
    larger by more than noise is in a thousandth of all cases (of two bounds: 3.1 standard errors of
    their difference). So what is reported is a lower bound in expectation, up to a thousandth of its
    standard error, and its error is the one that it states.

    Args:
        bounds: in the order of preference, where none is better.
    """
    known = [b if math.isfinite(b.error + b.mean) else b._replace(error=math.inf) for b in bounds]
    precise = min(known, key=lambda b: (b.heavy_tailed, b.error))
    quantile = NormalDist().inv_cdf(1 - LEVEL / max(1, len(bounds) - 1))

    def gain(number: int) -> float:
        """How far a bound is larger, beyond the noise."""
        bound = known[number]
        if bound is precise:
            return 0.0
        lead = bound.mean - precise.mean - quantile * math.hypot(bound.error, precise.error)
        return -math.inf if math.isnan(lead) else lead

    return max(range(len(bounds)), key=gain)
