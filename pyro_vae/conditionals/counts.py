"""Distributions of counts, their log-probabilities computed in float64.

A log-probability of counts is a small difference of large terms: at a count of 10^6, `lgamma` is
10^7, of which float32 resolves 1. The result has the dtype of the parameters again.
"""

import math

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch.nn.functional import logsigmoid


class Levels(constraints.Constraint):
    """The multiples of `1 / trials` in [0, 1]."""

    is_discrete = True

    def __init__(self, trials):
        self.trials = trials

    def check(self, value):
        count = value * self.trials
        return (value >= 0) & (value <= 1) & ((count - count.round()).abs() < 1e-3)

    def __repr__(self):
        return f"multiples of 1/{int(torch.as_tensor(self.trials).max())} in [0, 1]"


class BinomialProportion(dist.Binomial):
    """Binomial counts divided by the number of trials: a distribution on {0, 1/n, ..., 1}.

    Args:
        trials: n, an int.
        logits: `[...]`.
    """

    arg_constraints = dist.Binomial.arg_constraints

    def __init__(self, trials, logits, validate_args=None):
        self.trials = trials
        total_count = logits.new_tensor(float(trials))
        super().__init__(total_count, logits=logits, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self):
        return Levels(self.total_count)

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        n, logits = self.trials, self.logits.double()
        k = (value * n).round().double()
        every = torch.arange(n + 1, dtype=k.dtype, device=k.device)
        choose = math.lgamma(n + 1) - torch.lgamma(every + 1) - torch.lgamma(n - every + 1)
        # the other terms have one sign: nothing cancels, whatever the logit
        log_prob = choose[k.long().clamp(0, n)]
        log_prob = log_prob + k * logsigmoid(logits) + (n - k) * logsigmoid(-logits)
        return log_prob.to(torch.promote_types(value.dtype, self.logits.dtype))

    def sample(self, sample_shape=()):
        return super().sample(sample_shape) / self.total_count

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(BinomialProportion, _instance)
        new.trials = self.trials
        return super().expand(batch_shape, new)

    @property
    def mean(self):
        return self.probs

    @property
    def variance(self):
        return self.probs * (1 - self.probs) / self.total_count


class Poisson(dist.Poisson):
    """A Poisson distribution by the logarithm of its rate."""

    def __init__(self, log_rate, validate_args=None):
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(Poisson, _instance)
        new.log_rate = self.log_rate.expand(torch.Size(batch_shape))
        return super().expand(batch_shape, new)

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        x, log_rate = value.double(), self.log_rate.double()
        log_prob = x * log_rate - log_rate.exp() - torch.lgamma(x + 1)
        return log_prob.to(torch.promote_types(value.dtype, self.rate.dtype))


class NegativeBinomial(dist.NegativeBinomial):
    r"""A negative binomial distribution by its mean m and inverse dispersion r.

    .. math:: \log p(x) = \log\frac{\Gamma(x + r)}{x!\,\Gamma(r)}
              + r \log\frac{r}{r + m} + x \log\frac{m}{r + m}

    Args:
        log_mean, log_r: logarithms of m and r.
    """

    def __init__(self, log_mean, log_r, validate_args=None):
        self.log_mean, self.log_r = torch.broadcast_tensors(log_mean, log_r)
        super().__init__(
            self.log_r.exp(), logits=self.log_mean - self.log_r, validate_args=validate_args
        )

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(NegativeBinomial, _instance)
        batch_shape = torch.Size(batch_shape)
        new.log_mean, new.log_r = self.log_mean.expand(batch_shape), self.log_r.expand(batch_shape)
        return super().expand(batch_shape, new)

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        x, log_r = value.double(), self.log_r.double()
        r, logits = log_r.exp(), self.log_mean.double() - log_r
        choose = torch.lgamma(x + r) - torch.lgamma(x + 1) - torch.lgamma(r)
        log_prob = choose + r * logsigmoid(-logits) + x * logsigmoid(logits)
        return log_prob.to(torch.promote_types(value.dtype, self.log_r.dtype))
