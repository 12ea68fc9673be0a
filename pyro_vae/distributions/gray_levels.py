"""Distributions of gray levels, the values 0, 1/n, ..., 1."""

import math
from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch.nn.functional import logsigmoid


class GrayLevels(constraints.Constraint):
    """The constraint to the multiples of `1 / trials` in [0, 1], up to rounding.

    Args:
        trials: the number of levels minus one, an int or a tensor that holds one.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.distributions.GrayLevels(4).check(torch.tensor([0.25, 0.3]))
        tensor([ True, False])
    """

    is_discrete = True

    def __init__(self, trials: int | torch.Tensor) -> None:
        self.trials = trials

    def check(self, value: torch.Tensor) -> torch.Tensor:
        """Whether each value satisfies the constraint."""
        count = value * self.trials
        return (value >= 0) & (value <= 1) & ((count - count.round()).abs() < 1e-3)

    def __repr__(self) -> str:
        return f"multiples of 1/{int(torch.as_tensor(self.trials).max())} in [0, 1]"


class BinomialProportion(dist.Binomial):
    """Binomial counts divided by the number of trials n: a distribution on {0, 1/n, ..., 1}.

    The log-probability is computed in float64: it is a small difference of large terms.

    Args:
        trials: n.
        logits: `[...]`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> fn = pv.distributions.BinomialProportion(2, torch.zeros(3))
        >>> fn.log_prob(torch.tensor([0.0, 0.5, 1.0])).exp()
        tensor([0.2500, 0.5000, 0.2500])
    """

    arg_constraints = dist.Binomial.arg_constraints

    def __init__(
        self, trials: int, logits: torch.Tensor, validate_args: bool | None = None
    ) -> None:
        self.trials = trials
        total_count = logits.new_tensor(float(trials))
        super().__init__(total_count, logits=logits, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return GrayLevels(self.total_count)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """`[...]`: the log-probability of `value [...]`, in nats."""
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

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws `[...]` in {0, 1/n, ..., 1}."""
        return super().sample(sample_shape) / self.total_count

    def expand(
        self, batch_shape: Sequence[int], _instance: "BinomialProportion | None" = None
    ) -> "BinomialProportion":
        """The same distribution with its batch shape expanded."""
        new = self._get_checked_instance(BinomialProportion, _instance)
        new.trials = self.trials
        return super().expand(batch_shape, new)

    @property
    def mean(self) -> torch.Tensor:
        return self.probs

    @property
    def mode(self) -> torch.Tensor:
        return super().mode / self.total_count

    @property
    def variance(self) -> torch.Tensor:
        return self.probs * (1 - self.probs) / self.total_count

    def enumerate_support(self, expand: bool = True) -> torch.Tensor:
        """`[n + 1, ...]`: 0, 1/n, ..., 1."""
        return super().enumerate_support(expand) / self.trials

    def entropy(self) -> torch.Tensor:
        """`[...]`: in nats, a sum over the levels."""
        log_prob = self.log_prob(self.enumerate_support())
        return -(log_prob.exp() * log_prob).sum(0)


class DiscretizedLogistic(dist.TorchDistribution):
    r"""The logistic distribution on {0, 1/(L-1), ..., 1}: each level has the mass of its bin.

    The bin edges are half a level h away: :math:`a = (x - h - \mu)/s`, :math:`b = (x + h - \mu)/s`.
    The lowest and the highest bin are open.

    .. math:: p(x) = \sigma(b) - \sigma(a) = \sigma(b)\,\sigma(-a)\,(1 - e^{-(b - a)})

    The product is used, not the difference, so that no digit is lost in the tails; :math:`b - a` is
    a level's width over s, for every x.

    Args:
        loc: `[...]`.
        scale: `[...]`, positive.
        levels: L.

    References:
        Kingma et al. 2016, arXiv 1606.04934.

    Example:
        >>> import torch, pyro_vae as pv
        >>> loc, scale = torch.tensor(0.5), torch.tensor(0.2)
        >>> fn = pv.distributions.DiscretizedLogistic(loc, scale, levels=3)
        >>> fn.log_prob(torch.tensor([0.0, 0.5, 1.0])).exp()
        tensor([0.2227, 0.5546, 0.2227])
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(
        self,
        loc: torch.Tensor,
        scale: torch.Tensor,
        levels: int = 256,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return GrayLevels(self.levels - 1)

    def expand(
        self, batch_shape: Sequence[int], _instance: "DiscretizedLogistic | None" = None
    ) -> "DiscretizedLogistic":
        """The same distribution with its batch shape expanded."""
        batch_shape = torch.Size(batch_shape)
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return DiscretizedLogistic(loc, scale, self.levels, validate_args=False)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """`[...]`: the log-probability of `value [...]`, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        width = 1 / (self.levels - 1)
        above = logsigmoid((value + width / 2 - self.loc) / self.scale)  # log sigma(b)
        below = logsigmoid((self.loc - value + width / 2) / self.scale)  # log sigma(-a)
        inner = above + below + (-torch.expm1(-width / self.scale)).log()
        log_prob = torch.where(value < width / 2, above, inner)
        return torch.where(value > 1 - width / 2, below, log_prob)

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws `[...]` in {0, 1/(L-1), ..., 1}."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            tiny = torch.finfo(self.loc.dtype).tiny
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(min=tiny)
            draw = self.loc + self.scale * (u.log() - torch.log1p(-u))
            top = self.levels - 1
            return (draw * top).round().clamp(0, top) / top

    def _moment(self, weight: Callable[[int], int], dtype: torch.dtype) -> torch.Tensor:
        """Sum over k = 1..L-1 of `weight(k) P(level >= k)`, without a tensor `[..., L]`."""
        top, loc, scale = self.levels - 1, self.loc.to(dtype), self.scale.to(dtype)
        total = torch.zeros_like(loc)
        for k in range(1, self.levels):
            total = total + weight(k) * ((loc - (k - 0.5) / top) / scale).sigmoid()
        return total

    @property
    def mean(self) -> torch.Tensor:
        return self._moment(lambda k: 1, self.loc.dtype) / (self.levels - 1)

    @property
    def variance(self) -> torch.Tensor:
        # in float64, as squares are subtracted; E k^2 = sum_k (2k - 1) P(level >= k)
        square, mean = (self._moment(w, torch.float64) for w in (lambda k: 2 * k - 1, lambda k: 1))
        return ((square - mean**2) / (self.levels - 1) ** 2).clamp(min=0).to(self.loc.dtype)


class CategoricalLevels(dist.TorchDistribution):
    """Any distribution on {0, 1/(L-1), ..., 1}: one free probability per level.

    Args:
        logits: `[..., L]`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> fn = pv.distributions.CategoricalLevels(torch.tensor([0.1, 0.2, 0.7]).log())
        >>> fn.log_prob(torch.tensor([0.0, 0.5, 1.0])).exp(), fn.mean
        (tensor([0.1000, 0.2000, 0.7000]), tensor(0.8000))
    """

    arg_constraints = {"logits": constraints.real_vector}

    def __init__(self, logits: torch.Tensor, validate_args: bool | None = None) -> None:
        self.logits, self.levels = logits, logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        return GrayLevels(self.levels - 1)

    def expand(
        self, batch_shape: Sequence[int], _instance: "CategoricalLevels | None" = None
    ) -> "CategoricalLevels":
        """The same distribution with its batch shape expanded."""
        logits = self.logits.expand(torch.Size(batch_shape) + self.logits.shape[-1:])
        return CategoricalLevels(logits, validate_args=False)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """`[...]`: the log-probability of `value [...]`, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        level = (value * (self.levels - 1)).round().long().expand(shape).unsqueeze(-1)
        log_p = self.logits.log_softmax(-1)  # less the largest logit first, which loses no digit
        return log_p.expand(shape + log_p.shape[-1:]).gather(-1, level).squeeze(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws `[...]` in {0, 1/(L-1), ..., 1}."""
        with torch.no_grad():
            level = dist.Categorical(logits=self.logits).sample(torch.Size(sample_shape))
            return level.to(self.logits.dtype) / (self.levels - 1)

    @property
    def _grid(self) -> torch.Tensor:
        return torch.linspace(0, 1, self.levels, dtype=self.logits.dtype, device=self.logits.device)

    @property
    def mean(self) -> torch.Tensor:
        return self.logits.softmax(-1) @ self._grid

    @property
    def variance(self) -> torch.Tensor:
        distance = self._grid - self.mean.unsqueeze(-1)
        return (self.logits.softmax(-1) * distance**2).sum(-1)
