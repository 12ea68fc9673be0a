r"""Families: how the outputs of a network become a distribution.

A family is a small frozen description without tensors of its own. `outputs(shape)` says which
parameters a network must supply for a variable of that shape, `free(shape)` which ones are learned
without a network, and `family(shape, **parameters)` is the Pyro distribution, with
`event_shape == shape` and any batch shape.

Every scale head is bounded, :math:`\log\sigma = 7\tanh(r/7)`: no network output `r` can make a scale
zero or infinite, and near 0 the map is the identity.
"""

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import constraints

LOG_SCALE_BOUND = 7.0  # scales lie in [exp(-7), exp(7)] = [9.1e-4, 1.1e3]


def bounded_log_scale(raw):
    """`7 tanh(raw / 7)`: the identity near zero, never beyond +-7."""
    return LOG_SCALE_BOUND * torch.tanh(raw / LOG_SCALE_BOUND)


def raw_log_scale(log_scale):
    """The inverse of `bounded_log_scale`, for initialising a head at a given scale."""
    log_scale = torch.as_tensor(log_scale)
    limit = 0.999 * LOG_SCALE_BOUND
    return LOG_SCALE_BOUND * torch.atanh(log_scale.clamp(-limit, limit) / LOG_SCALE_BOUND)


class Family:
    """Base of every family. `proper` is False where `log_prob` is not a log-probability."""

    proper = True

    def outputs(self, shape):
        """`{parameter: shape}` that a network supplies."""
        raise NotImplementedError

    def free(self, shape):
        """`{parameter: initial value}` that are learned without a network."""
        return {}


# ---------------------------------------------------------------------- latents


@dataclass(frozen=True)
class Normal(Family):
    """Diagonal normal; `loc` and `log_scale` are both outputs of the network."""

    def outputs(self, shape):
        return {"loc": shape, "log_scale": shape}

    def __call__(self, shape, loc, log_scale):
        return dist.Normal(loc, bounded_log_scale(log_scale).exp()).to_event(len(shape))

    def raw(self, loc, covariance):
        """Network outputs that give this mean `[..., D]` and the diagonal of `[..., D, D]`."""
        variance = torch.diagonal(covariance, dim1=-2, dim2=-1)
        return torch.cat([loc, raw_log_scale(0.5 * variance.log())], -1)


@dataclass(frozen=True)
class MultivariateNormal(Family):
    r"""Full-covariance normal, by its lower Cholesky factor.

    :math:`L = \mathrm{diag}(\sigma)(I + S)`, S strictly lower triangular: bounded scales on the
    diagonal, free numbers below it.
    """

    def outputs(self, shape):
        (d,) = shape
        return {"loc": shape, "log_scale": shape, "below": (d * (d - 1) // 2,)}

    def __call__(self, shape, loc, log_scale, below):
        d = shape[0]
        scale = bounded_log_scale(log_scale).exp()
        row, col = torch.tril_indices(d, d, -1, device=below.device)
        unit = torch.eye(d, dtype=below.dtype, device=below.device).repeat(
            below.shape[:-1] + (1, 1)
        )
        unit[..., row, col] = below
        return dist.MultivariateNormal(loc, scale_tril=scale.unsqueeze(-1) * unit)

    def raw(self, loc, covariance):
        """Network outputs that give this mean `[..., D]` and covariance `[..., D, D]`."""
        tril = torch.linalg.cholesky(covariance)
        scale = torch.diagonal(tril, dim1=-2, dim2=-1)
        d = loc.shape[-1]
        row, col = torch.tril_indices(d, d, -1)
        below = (tril / scale.unsqueeze(-1))[..., row, col]
        return torch.cat([loc, raw_log_scale(scale.log()), below], -1)


class LinearOneHotCategorical(dist.OneHotCategorical):
    r""":math:`\log p(y) = \sum_k y_k \log p_k`: equal to the mass at one-hot `y`, linear between.

    Linear, so that a relaxed `y` has a gradient and, for an enumerated `y`, no argmax is taken.
    Sampling looks at no value (`torch`'s `one_hot` checks them), so that it can be recorded.
    """

    support = constraints.simplex

    def sample(self, sample_shape=()):
        index = self._categorical.sample(torch.Size(sample_shape)).unsqueeze(-1)
        return (index == torch.arange(self.event_shape[0], device=index.device)).to(self.logits)

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        return (value * self.logits).sum(-1)


class GumbelSoftmax(dist.RelaxedOneHotCategorical):
    r"""Relaxed one-hot sample, scored by the categorical mass (Jang et al. 2017, arXiv 1611.01144).

    The sample is on the simplex; `log_prob` is :math:`\sum_k y_k \log q_k`, not the density of the
    relaxation, so that it pairs with a discrete prior. A biased estimator, and the usual one.
    """

    def log_prob(self, value):
        return (value * self.logits).sum(-1)

    @property
    def logits(self):
        return super().logits - super().logits.logsumexp(-1, keepdim=True)


@dataclass(frozen=True)
class OneHotCategorical(Family):
    """Categorical over `K` classes; its value is a one-hot vector `[..., K]`."""

    def outputs(self, shape):
        return {"logits": shape}

    def __call__(self, shape, logits):
        return LinearOneHotCategorical(logits=logits)


@dataclass(frozen=True)
class RelaxedOneHotCategorical(Family):
    """Gumbel-softmax relaxation at a fixed temperature (arXiv 1611.01144, 1611.00712)."""

    temperature: float = 0.5

    def outputs(self, shape):
        return {"logits": shape}

    def __call__(self, shape, logits):
        temperature = logits.new_tensor(self.temperature)
        return GumbelSoftmax(temperature, logits=logits, validate_args=False)


# ------------------------------------------------------------------ likelihoods


class Proportion(dist.Binomial):
    """Binomial counts divided by the number of trials: a law on {0, 1/n, ..., 1}."""

    arg_constraints = dist.Binomial.arg_constraints

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self):
        return _Levels(self.total_count)

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        n = self.total_count
        count = (value * n).round()
        # log C(n, k) + k * logit - n * softplus(logit): exact, and stable for any logit.
        choose = torch.lgamma(n + 1) - torch.lgamma(count + 1) - torch.lgamma(n - count + 1)
        return choose + count * self.logits - n * torch.nn.functional.softplus(self.logits)

    def sample(self, sample_shape=()):
        return super().sample(sample_shape) / self.total_count

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, self._get_checked_instance(Proportion, _instance))

    @property
    def mean(self):
        return self.probs

    @property
    def variance(self):
        return self.probs * (1 - self.probs) / self.total_count


class _Levels(constraints.Constraint):
    is_discrete = True

    def __init__(self, trials):
        self.trials = trials

    def check(self, value):
        count = value * self.trials
        return (value >= 0) & (value <= 1) & ((count - count.round()).abs() < 1e-3)

    def __repr__(self):
        return "multiples of 1/trials in [0, 1]"


class GreyBernoulliDistribution(dist.Bernoulli):
    """Binary cross-entropy of grey values: a score, not a probability of anything."""

    proper = False

    def __init__(self, probs=None, logits=None, validate_args=None):
        super().__init__(probs=probs, logits=logits, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(GreyBernoulliDistribution, _instance)
        return super().expand(batch_shape, new)


@dataclass(frozen=True)
class Bernoulli(Family):
    """Independent binary pixels; refuses grey values."""

    def outputs(self, shape):
        return {"logits": shape}

    def __call__(self, shape, logits):
        return dist.Bernoulli(logits=logits).to_event(len(shape))


@dataclass(frozen=True)
class GreyBernoulli(Bernoulli):
    """Grey values in a Bernoulli, for comparison with code that does so.

    Its "log-likelihood" is not one, and is refused by `evaluate.log_likelihood`.
    """

    proper = False

    def __call__(self, shape, logits):
        return GreyBernoulliDistribution(logits=logits).to_event(len(shape))


@dataclass(frozen=True)
class ContinuousBernoulli(Family):
    """A density on [0, 1] (Loaiza-Ganem and Cunningham 2019, arXiv 1907.06845)."""

    def outputs(self, shape):
        return {"logits": shape}

    def __call__(self, shape, logits):
        # Beyond +-15 torch's normaliser loses its last digits in float32.
        return dist.ContinuousBernoulli(logits=logits.clamp(-15, 15)).to_event(len(shape))


@dataclass(frozen=True)
class Binomial(Family):
    """Grey levels 0, 1/trials, ..., 1 as binomial proportions (scikit-learn's digits: 16)."""

    trials: int = 16

    def outputs(self, shape):
        return {"logits": shape}

    def __call__(self, shape, logits):
        trials = logits.new_tensor(float(self.trials))
        return Proportion(trials, logits=logits).to_event(len(shape))


@dataclass(frozen=True)
class NormalLikelihood(Family):
    """Normal pixels with one scale for all: fixed at `scale`, or learned from it."""

    scale: float = 1.0
    learned: bool = False

    def outputs(self, shape):
        return {"loc": shape}

    def free(self, shape):
        return {"log_scale": raw_log_scale(math.log(self.scale))} if self.learned else {}

    def __call__(self, shape, loc, log_scale=None):
        if log_scale is None:
            return dist.Normal(loc, loc.new_tensor(self.scale)).to_event(len(shape))
        return dist.Normal(loc, bounded_log_scale(log_scale).exp()).to_event(len(shape))


LIKELIHOODS = {
    "bernoulli": Bernoulli(),
    "binomial": Binomial(16),
    "continuous-bernoulli": ContinuousBernoulli(),
    "normal": NormalLikelihood(learned=True, scale=0.5),
    "grey-bernoulli": GreyBernoulli(),
}
