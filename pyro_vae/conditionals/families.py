r"""Families: how the outputs of a network become a distribution.

A family is a small frozen description without tensors of its own. `outputs(shape)` says which
parameters a network must supply for a variable of that shape, `free(shape)` which ones are learned
without a network, `modules(shape)` what else the family is made of (a flow's layers), and
`family(shape, **all of them)` is the Pyro distribution, with `event_shape == shape` and any batch
shape.

Every scale head is bounded, :math:`\log\sigma = 7\tanh(r/7)`: no network output `r` can make a scale
zero or infinite, and near 0 the map is the identity.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.distributions import constraints

from .._torch_internals import categorical_of
from ..errors import UserError, check_int_at_least, check_positive

LOG_SCALE_BOUND = 7.0  # scales lie in [exp(-7), exp(7)] = [9.1e-4, 1.1e3]


def bounded_log_scale(raw):
    """`7 tanh(raw / 7)`: the identity near zero, never beyond +-7."""
    return LOG_SCALE_BOUND * torch.tanh(raw / LOG_SCALE_BOUND)


def raw_log_scale(log_scale):
    """The inverse of `bounded_log_scale`, for initializing a head at a given scale."""
    log_scale = torch.as_tensor(log_scale)
    limit = 0.999 * LOG_SCALE_BOUND
    return LOG_SCALE_BOUND * torch.atanh(log_scale.clamp(-limit, limit) / LOG_SCALE_BOUND)


class Family:
    """Base class of families. Subclasses are frozen dataclasses, whose fields are their options.

    A family is called as `family(shape, **outputs, **free, **modules)`, with what the network
    supplies, the learned constants and the modules. It returns the Pyro distribution.

    Attributes:
        proper: False if `log_prob` is not a log-probability. Default: True.
        levels: number of grey levels, of a family that has them. Default: None.
    """

    proper: bool = True
    levels: int | None = None
    __call__: Callable[..., dist.TorchDistribution]

    def outputs(self, shape):
        """`{parameter: shape}` that a network supplies."""
        raise NotImplementedError

    def free(self, shape):
        """`{parameter: initial value}` that are learned without a network."""
        return {}

    def modules(self, shape):
        """`{name: nn.Module}` of the family's own."""
        return {}

    def raw(self, loc, covariance):
        """Network outputs that give the mean `[..., D]` and the covariance `[..., D, D]`."""
        raise UserError(
            f"{type(self).__name__} cannot start at a given mean and covariance: use Normal() or "
            "MultivariateNormal()"
        )


def check_family(family):
    """The family; raises unless it is one."""
    if not isinstance(family, Family):
        raise UserError(f"a family is an object such as Normal(), not {family!r}")
    return family


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
        if len(shape) != 1:
            raise UserError(
                f"a multivariate normal is a distribution of vectors, not of shape {list(shape)}"
            )
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


@dataclass(frozen=True)
class LowRankNormal(Family):
    r"""Normal with covariance :math:`\mathrm{diag}(\sigma^2) + F F^\top`, F `[D, rank]`.

    F starts at random, not at zero, where it would have no gradient.
    """

    rank: int = 2

    def __post_init__(self):
        check_int_at_least(1, rank=self.rank)

    def outputs(self, shape):
        if len(shape) != 1:
            raise UserError(
                f"a low-rank normal is a distribution of vectors, not of shape {list(shape)}"
            )
        return {"loc": shape, "log_scale": shape, "factor": (*shape, self.rank)}

    def free(self, shape):
        return {"start": 0.1 * torch.randn(*shape, self.rank)}

    def __call__(self, shape, loc, log_scale, factor, start):
        variance = (2 * bounded_log_scale(log_scale)).exp()
        return dist.LowRankMultivariateNormal(loc, factor + start, variance)


class LinearOneHotCategorical(dist.OneHotCategorical):
    r""":math:`\log p(y) = \sum_k y_k \log p_k`: equal to the mass at one-hot `y`, linear between.

    Linear, so that a relaxed `y` has a gradient and, for an enumerated `y`, no argmax is taken.
    Sampling looks at no value (`torch`'s `one_hot` checks them), so that it can be recorded.
    """

    support = constraints.simplex

    def sample(self, sample_shape=()):
        index = categorical_of(self).sample(torch.Size(sample_shape)).unsqueeze(-1)
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

    def __post_init__(self):
        check_positive(temperature=self.temperature)

    def outputs(self, shape):
        return {"logits": shape}

    def __call__(self, shape, logits):
        temperature = logits.new_tensor(self.temperature)
        return GumbelSoftmax(temperature, logits=logits, validate_args=False)
