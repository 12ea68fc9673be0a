"""Counts of a row whose total count is known: the library size of a cell, the length of a document."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints

from .counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

Counts = Poisson | NegativeBinomial | ZeroInflatedNegativeBinomial


class _RowsOfCounts(constraints.Constraint):
    """Rows `[..., G]` of whole numbers from 0, not all of them 0."""

    is_discrete = True
    event_dim = 1

    def check(self, value: torch.Tensor) -> torch.Tensor:
        """`[...]`: which rows are."""
        return constraints.nonnegative_integer.check(value).all(-1) & (value.sum(-1) > 0)

    def __repr__(self) -> str:
        return "rows of whole numbers from 0, not all of them 0"


rows_of_counts = _RowsOfCounts()


class CountsOfRow(dist.TorchDistribution):
    r"""Independent counts with the means :math:`\ell m_g`, for a library size :math:`\ell`.

    The density of x takes :math:`\ell = \sum_g x_g`, the observed library size, which a row without
    counts does not have. Mean, variance and draws take `size`. With zero inflation :math:`\ell m_g` is
    the mean of a count that is not an extra zero: the mean of the total is less than :math:`\ell`.

    Args:
        counts: the distribution of each count at library size 1, `[..., G]`.
        size: the library size of mean and draws.

    Example:
        >>> import torch, pyro_vae as pv
        >>> thirds = pv.distributions.Poisson(torch.tensor([1 / 3, 2 / 3]).log())
        >>> fn = pv.distributions.CountsOfRow(thirds, size=30.0)
        >>> fn.mean
        tensor([10., 20.])
        >>> rates = torch.tensor([1.0, 2.0])  # of a row with three counts
        >>> x = torch.tensor([2.0, 1.0])
        >>> torch.distributions.Poisson(rates).log_prob(x).sum() - fn.log_prob(x)
        tensor(0.)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = rows_of_counts

    def __init__(self, counts: Counts, size: float, validate_args: bool | None = None) -> None:
        self.counts, self.size = counts, float(size)
        shape = counts.batch_shape
        super().__init__(shape[:-1], shape[-1:], validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: "CountsOfRow | None" = None
    ) -> "CountsOfRow":
        """The same distribution with its batch shape expanded."""
        counts = self.counts.expand(torch.Size(batch_shape) + self.event_shape)
        return CountsOfRow(counts, self.size, validate_args=False)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """`[...]`: the log-probability of `value [..., G]` at the library size that is its sum, in nats.

        The sum is a known exposure, and not conditioned on: over all values of one sum these
        probabilities sum to less than one.
        """
        if self._validate_args:
            self._validate_sample(value)
        log_size = value.sum(-1, keepdim=True).clamp_min(1).log()
        return scaled(self.counts, log_size).log_prob(value).sum(-1)

    def at_size(self) -> Counts:
        """The distribution of each count at the library size `size`."""
        return scaled(self.counts, math.log(self.size))

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws `[..., G]` at the library size `size`."""
        return self.at_size().sample(torch.Size(sample_shape))

    @property
    def mean(self) -> torch.Tensor:
        return self.at_size().mean

    @property
    def variance(self) -> torch.Tensor:
        return self.at_size().variance


def scaled(counts: Counts, log_factor: torch.Tensor | float) -> Counts:
    """The distribution of counts with its mean multiplied by `exp(log_factor)`."""
    if isinstance(counts, Poisson):
        return Poisson(counts.log_rate + log_factor, validate_args=False)
    log_mean = counts.log_mean + log_factor
    if isinstance(counts, NegativeBinomial):
        return NegativeBinomial(log_mean, counts.log_r, validate_args=False)
    return ZeroInflatedNegativeBinomial(
        counts.gate_logits, log_mean, counts.log_r, validate_args=False
    )
