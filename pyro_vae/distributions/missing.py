"""The likelihood of the observed entries of x; NaN marks the missing ones."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch.distributions import transform_to

from ..errors import UserError
from .one_hot import OneHotData
from .proper import MaybeScore, is_proper


class ValueOrNaN(constraints.Constraint):
    """A constraint that NaN satisfies too.

    Args:
        base: the constraint of a value that is not NaN.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from pyro.distributions import constraints
        >>> constraint = pv.distributions.ValueOrNaN(constraints.boolean)
        >>> constraint.check(torch.tensor([1.0, 0.5, float("nan")]))
        tensor([ True, False,  True])
    """

    def __init__(self, base: constraints.Constraint) -> None:
        self.base = base
        self.is_discrete, self.event_dim = base.is_discrete, base.event_dim

    def check(self, value: torch.Tensor) -> torch.Tensor:
        """Whether each value satisfies the constraint."""
        missing = value.isnan()
        return (missing.all(-1) if self.event_dim else missing) | self.base.check(value)

    def __repr__(self) -> str:
        return f"{self.base!r} or NaN"


class IgnoreMissing(MaybeScore, TorchDistribution):
    r"""A distribution whose log-probability is 0 where a value is NaN.

    Values are single numbers, or one-hot vectors, which are missing as a whole. The sum over the
    independent entries of a data point is then :math:`\log p(x_{obs} \mid z)`, the exact likelihood
    of its observed entries. Samples have no missing values.

    Args:
        base_dist: a distribution with event shape `()`, or of one-hot vectors.

    Raises:
        UserError: the entries of an event of `base_dist` depend on each other.

    References:
        Mattei and Frellsen 2019, MIWAE, arXiv 1812.02633; Nazabal et al. 2020, arXiv 1807.03653.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch, pyro_vae as pv
        >>> fn = pv.distributions.IgnoreMissing(dist.Bernoulli(torch.tensor([0.25, 0.25])))
        >>> fn.log_prob(torch.tensor([1.0, float("nan")])).exp()
        tensor([0.2500, 1.0000])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, base_dist: Any, validate_args: bool | None = None) -> None:
        self.is_one_hot = isinstance(base_dist, OneHotData)
        if base_dist.event_shape and not self.is_one_hot:
            raise UserError(
                f"{type(base_dist).__name__} has entries that depend on each other: missing values "
                "need a likelihood with independent entries, such as normal or bernoulli"
            )
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @constraints.dependent_property()
    def support(self) -> constraints.Constraint:
        return ValueOrNaN(self.base_dist.support)

    @property
    def proper(self) -> bool:  # type: ignore[override]  # it is the one of the base
        """Whether `log_prob` is a log-probability."""
        return is_proper(self.base_dist)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # torch declares a class attribute
        return self.base_dist.has_rsample

    def expand(
        self, batch_shape: Sequence[int], _instance: "IgnoreMissing | None" = None
    ) -> "IgnoreMissing":
        """The same distribution with its batch shape expanded."""
        return IgnoreMissing(self.base_dist.expand(torch.Size(batch_shape)))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """`[...]`: the log-probability of `value [...]`, in nats; 0 where it is NaN."""
        missing = value.isnan()
        log_prob = self.base_dist.log_prob(torch.where(missing, self._inside(value), value))
        return torch.where(missing.any(-1) if self.is_one_hot else missing, 0.0, log_prob)

    def _inside(self, value: torch.Tensor) -> torch.Tensor:
        """A value inside the support: no gradient of the log-probability that is not used is NaN."""
        if self.is_one_hot:
            return (torch.arange(value.shape[-1], device=value.device) == 0).to(value.dtype)
        support, zero = self.base_dist.support, value.new_zeros(())
        if support.is_discrete or support is constraints.real:
            return zero
        try:
            return transform_to(support)(zero)
        except NotImplementedError:
            return zero + 0.5

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws `[...]` without missing values."""
        return self.base_dist.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws `[...]` without missing values, with gradients."""
        return self.base_dist.rsample(torch.Size(sample_shape))

    @property
    def mean(self) -> torch.Tensor:
        return self.base_dist.mean

    @property
    def variance(self) -> torch.Tensor:
        return self.base_dist.variance
