"""Distributions of counts, with log-probabilities that are computed in float64.

A log-probability of counts is a small difference of large terms: at a count of 10^6, `lgamma` is
10^7, of which float32 resolves 1. The result has the dtype of the parameters again.
"""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
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


class ZeroInflatedNegativeBinomial(dist.TorchDistribution):
    r"""Zero with probability g, else a draw of a `NegativeBinomial` (mean m, inverse dispersion r).

    Its mean is :math:`(1 - g) m`.

    Args:
        gate_logits: `[...]`, the logit of g.
        log_mean: `[...]`, the logarithm of m.
        log_r: `[...]`, the logarithm of r.

    Example:
        >>> import torch, pyro_vae as pv
        >>> half, zero = torch.tensor(0.0), torch.tensor(0.0)
        >>> fn = pv.distributions.ZeroInflatedNegativeBinomial(half, torch.tensor(3.0).log(), zero)
        >>> fn.log_prob(torch.tensor(0.0)).exp(), fn.mean
        (tensor(0.6250), tensor(1.5000))
    """

    arg_constraints = {
        "gate_logits": constraints.real,
        "log_mean": constraints.real,
        "log_r": constraints.real,
    }
    support = constraints.nonnegative_integer

    def __init__(
        self,
        gate_logits: torch.Tensor,
        log_mean: torch.Tensor,
        log_r: torch.Tensor,
        validate_args: bool | None = None,
    ) -> None:
        parameters = torch.broadcast_tensors(gate_logits, log_mean, log_r)
        self.gate_logits, self.log_mean, self.log_r = parameters
        super().__init__(self.gate_logits.shape, validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: "ZeroInflatedNegativeBinomial | None" = None
    ) -> "ZeroInflatedNegativeBinomial":
        """The same distribution with its batch shape expanded."""
        shape = torch.Size(batch_shape)
        return ZeroInflatedNegativeBinomial(
            self.gate_logits.expand(shape),
            self.log_mean.expand(shape),
            self.log_r.expand(shape),
            validate_args=False,
        )

    @property
    def counts(self) -> NegativeBinomial:
        """The distribution of values that are not set to zero."""
        return NegativeBinomial(self.log_mean, self.log_r, validate_args=False)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """`[...]`: the log-probability of `value [...]`, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        gate = self.gate_logits.double()
        counted = logsigmoid(-gate) + self.counts.log_prob(value.double())
        log_prob = torch.where(value == 0, torch.logaddexp(logsigmoid(gate), counted), counted)
        return log_prob.to(torch.promote_types(value.dtype, self.log_r.dtype))

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws `[...]` in {0, 1, 2, ...}."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            counts = self.counts.sample(torch.Size(sample_shape))
            is_zero = torch.bernoulli(self.gate_logits.sigmoid().expand(shape))
            return counts * (1 - is_zero)

    @property
    def mean(self) -> torch.Tensor:
        return (-self.gate_logits).sigmoid() * self.counts.mean

    @property
    def variance(self) -> torch.Tensor:
        gate, counts = self.gate_logits.sigmoid(), self.counts
        return (1 - gate) * (counts.variance + gate * counts.mean**2)
