r"""Likelihoods: the families of observed data, `p(x | latents)`.

Which one fits depends on what a value is: binary, a grey level, a count, a real number. `fit` and
`check_pair` refuse data outside a likelihood's support, in one line.
"""

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch.nn.functional import logsigmoid

from ..errors import UserError, check_int_at_least, check_positive
from . import counts
from .continuous_bernoulli import ContinuousBernoulli as ContinuousBernoulliDistribution
from .counts import BinomialProportion, Levels
from .families import LOG_SCALE_BOUND, Family, bounded_log_scale, raw_log_scale

STANDARDIZE = "pv.data.standardize(data)"  # as messages name it
LOG_RATE_BOUND = 15.0  # rates of counts lie in [exp(-15), exp(15)] = [3.1e-7, 3.3e6]


def bounded_log_rate(raw):
    """`15 tanh(raw / 15)`: the identity near zero, never beyond +-15."""
    return LOG_RATE_BOUND * torch.tanh(raw / LOG_RATE_BOUND)


class GreyBernoulliDistribution(dist.Bernoulli):
    """Binary cross-entropy of grey values: a score, not a probability of anything."""

    proper = False

    def __init__(self, probs=None, logits=None, validate_args=None):
        super().__init__(probs=probs, logits=logits, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        new = self._get_checked_instance(GreyBernoulliDistribution, _instance)
        return super().expand(batch_shape, new)


class DiscretizedLogisticLevels(dist.TorchDistribution):
    r"""The logistic distribution on {0, 1/(L-1), ..., 1}, a level having the mass of its bin.

    With bin edges half a level away, :math:`a = (x - h - \mu)/s`, :math:`b = (x + h - \mu)/s`, the
    lowest and the highest bin open:

    .. math:: p(x) = \sigma(b) - \sigma(a) = \sigma(b)\,\sigma(-a)\,(1 - e^{-(b - a)})

    The product, not the difference, so that no digit is lost in the tails; :math:`b - a` is a
    level's width over s, whatever x.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc, scale, levels=256, validate_args=None):
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self):
        return Levels(self.levels - 1)

    def expand(self, batch_shape, _instance=None):
        batch_shape = torch.Size(batch_shape)
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return DiscretizedLogisticLevels(loc, scale, self.levels, validate_args=False)

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        width = 1 / (self.levels - 1)
        above = logsigmoid((value + width / 2 - self.loc) / self.scale)  # log sigma(b)
        below = logsigmoid((self.loc - value + width / 2) / self.scale)  # log sigma(-a)
        inner = above + below + (-torch.expm1(-width / self.scale)).log()
        log_prob = torch.where(value < width / 2, above, inner)
        return torch.where(value > 1 - width / 2, below, log_prob)

    def sample(self, sample_shape=()):
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            tiny = torch.finfo(self.loc.dtype).tiny
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(min=tiny)
            draw = self.loc + self.scale * (u.log() - torch.log1p(-u))
            top = self.levels - 1
            return (draw * top).round().clamp(0, top) / top

    def _moment(self, weight):
        """Sum over k = 1..L-1 of `weight(k) P(level >= k)`, an edge at a time: no [..., L] tensor."""
        top = self.levels - 1
        total = torch.zeros_like(self.loc)
        for k in range(1, self.levels):
            total = total + weight(k) * ((self.loc - (k - 0.5) / top) / self.scale).sigmoid()
        return total

    @property
    def mean(self):
        return self._moment(lambda k: 1) / (self.levels - 1)

    @property
    def variance(self):  # E k^2 = sum_k (2k - 1) P(level >= k)
        square = self._moment(lambda k: 2 * k - 1) / (self.levels - 1) ** 2
        return (square - self.mean**2).clamp(min=0)


class CategoricalLevels(dist.TorchDistribution):
    """Any distribution on {0, 1/(L-1), ..., 1}: a probability for each level, by `logits [..., L]`."""

    arg_constraints = {"logits": constraints.real_vector}

    def __init__(self, logits, validate_args=None):
        self.logits, self.levels = logits, logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self):
        return Levels(self.levels - 1)

    def expand(self, batch_shape, _instance=None):
        logits = self.logits.expand(torch.Size(batch_shape) + self.logits.shape[-1:])
        return CategoricalLevels(logits, validate_args=False)

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        level = (value * (self.levels - 1)).round().long().expand(shape).unsqueeze(-1)
        log_p = self.logits.log_softmax(-1)  # less the largest logit first, which loses no digit
        return log_p.expand(shape + log_p.shape[-1:]).gather(-1, level).squeeze(-1)

    def sample(self, sample_shape=()):
        with torch.no_grad():
            level = dist.Categorical(logits=self.logits).sample(torch.Size(sample_shape))
            return level.to(self.logits.dtype) / (self.levels - 1)

    def _moment(self, power):
        grid = torch.linspace(0, 1, self.levels, dtype=self.logits.dtype, device=self.logits.device)
        return self.logits.softmax(-1) @ grid**power

    @property
    def mean(self):
        return self._moment(1)

    @property
    def variance(self):
        return (self._moment(2) - self.mean**2).clamp(min=0)


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
        return ContinuousBernoulliDistribution(logits).to_event(len(shape))


@dataclass(frozen=True)
class Binomial(Family):
    """Grey levels 0, 1/trials, ..., 1 as binomial proportions (scikit-learn's digits: 16)."""

    trials: int = 16

    def __post_init__(self):
        check_int_at_least(1, trials=self.trials)

    def outputs(self, shape):
        return {"logits": shape}

    def __call__(self, shape, logits):
        return BinomialProportion(self.trials, logits).to_event(len(shape))


@dataclass(frozen=True)
class NormalLikelihood(Family):
    """Normal pixels with one scale for all: fixed at `scale`, or learned from it."""

    scale: float = 1.0
    learned: bool = False

    def __post_init__(self):
        check_positive(scale=self.scale)
        if self.learned and abs(math.log(self.scale)) > LOG_SCALE_BOUND:
            low, high = math.exp(-LOG_SCALE_BOUND), math.exp(LOG_SCALE_BOUND)
            raise UserError(
                f"a learned scale lies in [{low:.1e}, {high:.1e}] and cannot start at "
                f"{self.scale:.3g}: {STANDARDIZE} puts the data on a scale of 1"
            )

    def outputs(self, shape):
        return {"loc": shape}

    def free(self, shape):
        return {"log_scale": raw_log_scale(math.log(self.scale))} if self.learned else {}

    def __call__(self, shape, loc, log_scale=None):
        if log_scale is None:
            return dist.Normal(loc, loc.new_tensor(self.scale)).to_event(len(shape))
        return dist.Normal(loc, bounded_log_scale(log_scale).exp()).to_event(len(shape))


@dataclass(frozen=True)
class DiscretizedLogistic(Family):
    """Grey levels 0, 1/(levels-1), ..., 1 as bins of a logistic distribution (arXiv 1606.04934).

    The location is the network's. So is the scale, of each data point and pixel; with
    `learned_scale=True` it is a learned number for each pixel instead. It starts at 0.06.
    """

    levels: int = 256
    learned_scale: bool = False

    def __post_init__(self):
        check_int_at_least(2, levels=self.levels)

    def outputs(self, shape):
        return {"loc": shape} if self.learned_scale else {"loc": shape, "log_scale": shape}

    def free(self, shape):
        return {"log_scale": torch.zeros(shape)} if self.learned_scale else {}

    def __call__(self, shape, loc, log_scale):
        scale = bounded_log_scale(log_scale - 3).exp()
        return DiscretizedLogisticLevels(loc + 0.5, scale, self.levels).to_event(len(shape))


@dataclass(frozen=True)
class Categorical(Family):
    """Grey levels 0, 1/(levels-1), ..., 1, each pixel with a free probability for each level.

    It makes `levels` outputs a pixel, and knows nothing of the levels' order.
    """

    levels: int = 256

    def __post_init__(self):
        check_int_at_least(2, levels=self.levels)

    def outputs(self, shape):
        return {"logits": (*shape, self.levels)}

    def __call__(self, shape, logits):
        return CategoricalLevels(logits).to_event(len(shape))


@dataclass(frozen=True)
class Poisson(Family):
    """Counts 0, 1, 2, ...; the rate is `exp` of the network's output, bounded."""

    def outputs(self, shape):
        return {"log_rate": shape}

    def __call__(self, shape, log_rate):
        return counts.Poisson(bounded_log_rate(log_rate)).to_event(len(shape))


@dataclass(frozen=True)
class NegativeBinomial(Family):
    r"""Over-dispersed counts: mean m from the network, :math:`\mathrm{Var} = m + m^2 / r`.

    The inverse dispersion r is learned, one for each feature; Poisson is its limit of large r.
    """

    def outputs(self, shape):
        return {"log_mean": shape}

    def free(self, shape):
        return {"log_r": torch.zeros(shape)}

    def __call__(self, shape, log_mean, log_r):
        fn = counts.NegativeBinomial(bounded_log_rate(log_mean), bounded_log_scale(log_r))
        return fn.to_event(len(shape))


LIKELIHOODS = {
    "bernoulli": Bernoulli(),
    "binomial": Binomial(16),
    "continuous-bernoulli": ContinuousBernoulli(),
    "normal": NormalLikelihood(learned=True, scale=0.5),
    "discretized-logistic": DiscretizedLogistic(),
    "categorical": Categorical(),
    "poisson": Poisson(),
    "negative-binomial": NegativeBinomial(),
    "grey-bernoulli": GreyBernoulli(),
}
