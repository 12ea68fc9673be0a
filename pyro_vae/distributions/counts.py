"""Distributions of counts, with log-probabilities that are computed in float64.

A log-probability of counts is a small difference of large terms: at a count of 10^6, `lgamma` is
10^7, of which float32 resolves 1. The result has the dtype of the parameters again.
"""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch.nn.functional import logsigmoid


class Poisson(dist.Poisson):
    """A Poisson distribution, parameterized by the logarithm of its rate.

    Args:
        log_rate: `[...]`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> fn = pv.distributions.Poisson(torch.tensor(2.0).log())
        >>> fn.log_prob(torch.tensor(0.0))
        tensor(-2.)
    """

    def __init__(self, log_rate: torch.Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: "Poisson | None" = None) -> "Poisson":
        """The same distribution with its batch shape expanded."""
        new = self._get_checked_instance(Poisson, _instance)
        new.log_rate = self.log_rate.expand(torch.Size(batch_shape))
        return super().expand(batch_shape, new)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """`[...]`: the log-probability of `value [...]`, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        x, log_rate = value.double(), self.log_rate.double()
        log_prob = x * log_rate - log_rate.exp() - torch.lgamma(x + 1)
        return log_prob.to(torch.promote_types(value.dtype, self.rate.dtype))


class NegativeBinomial(dist.NegativeBinomial):
    r"""A negative binomial distribution, parameterized by its mean m and inverse dispersion r.

    .. math:: \log p(x) = \log\frac{\Gamma(x + r)}{x!\,\Gamma(r)}
              + r \log\frac{r}{r + m} + x \log\frac{m}{r + m}

    Its variance is :math:`m + m^2 / r`.

    Args:
        log_mean: `[...]`, the logarithm of m.
        log_r: `[...]`, the logarithm of r.

    Example:
        >>> import torch, pyro_vae as pv
        >>> fn = pv.distributions.NegativeBinomial(torch.tensor(3.0).log(), torch.tensor(0.0))
        >>> fn.log_prob(torch.tensor(0.0)).exp(), fn.mean, fn.variance
        (tensor(0.2500), tensor(3.), tensor(12...))
    """

    def __init__(
        self, log_mean: torch.Tensor, log_r: torch.Tensor, validate_args: bool | None = None
    ) -> None:
        self.log_mean, self.log_r = torch.broadcast_tensors(log_mean, log_r)
        super().__init__(
            self.log_r.exp(), logits=self.log_mean - self.log_r, validate_args=validate_args
        )

    def expand(
        self, batch_shape: Sequence[int], _instance: "NegativeBinomial | None" = None
    ) -> "NegativeBinomial":
        """The same distribution with its batch shape expanded."""
        new = self._get_checked_instance(NegativeBinomial, _instance)
        batch_shape = torch.Size(batch_shape)
        new.log_mean, new.log_r = self.log_mean.expand(batch_shape), self.log_r.expand(batch_shape)
        return super().expand(batch_shape, new)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """`[...]`: the log-probability of `value [...]`, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        x, log_r = value.double(), self.log_r.double()
        r, logits = log_r.exp(), self.log_mean.double() - log_r
        choose = torch.lgamma(x + r) - torch.lgamma(x + 1) - torch.lgamma(r)
        log_prob = choose + r * logsigmoid(-logits) + x * logsigmoid(logits)
        return log_prob.to(torch.promote_types(value.dtype, self.log_r.dtype))
