r"""Families: how the outputs of a network become a distribution.

A family is a small frozen description that holds no tensors. `parameter_shapes(shape)` names the
parameters that a network supplies for a variable of that shape. `unconditional_parameters(shape)`
are learned without a network. `modules(shape)` are further modules, such as the layers of a flow.
`family(shape, **all of them)` is the Pyro distribution, with `event_shape == shape` and any batch
shape.

Every scale is bounded, :math:`\log\sigma = 7\tanh(r/7)`: no network output `r` can make a scale
zero or infinite, and near 0 the map is the identity.
"""

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn as nn

from ..distributions import GumbelSoftmax, LinearOneHotCategorical, ModifiedCholeskyNormal
from ..distributions.modified_cholesky import modified_cholesky
from ..errors import UserError, check_int_at_least, check_positive

LOG_SCALE_BOUND = 7.0  # scales lie in [exp(-7), exp(7)] = [9.1e-4, 1.1e3]


def bounded_log_scale(raw: torch.Tensor) -> torch.Tensor:
    """`7 tanh(raw / 7)`: the identity near zero, never beyond ±7."""
    return LOG_SCALE_BOUND * torch.tanh(raw / LOG_SCALE_BOUND)


def raw_log_scale(log_scale: torch.Tensor | float) -> torch.Tensor:
    """The inverse of `bounded_log_scale`, which initializes a network output at a given scale."""
    log_scale = torch.as_tensor(log_scale)
    limit = 0.999 * LOG_SCALE_BOUND
    return LOG_SCALE_BOUND * torch.atanh(log_scale.clamp(-limit, limit) / LOG_SCALE_BOUND)


class Family:
    """Base of every family; a subclass defines `parameter_shapes` and `__call__`.

    Attributes:
        proper: whether `log_prob` of the family's distributions is a log-probability.
        unit_interval: whether its distributions are on (a subset of) [0, 1], as those of pixels.
        levels: number of gray levels, of a family that has them. Default: None.
        ignores_missing: whether NaN is a missing value, of which `log_prob` counts nothing.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch, pyro_vae as pv
        >>> class Laplace(pv.conditionals.Family):
        ...     def parameter_shapes(self, shape):
        ...         return {"loc": shape, "log_scale": shape}
        ...     def __call__(self, shape, loc, log_scale):
        ...         return dist.Laplace(loc, log_scale.exp()).to_event(len(shape))
        >>> q = pv.conditionals.Conditional((2,), {"x": (5,)}, Laplace())
        >>> q(x=torch.zeros(4, 5)).sample().shape
        torch.Size([4, 2])
    """

    proper: bool = True
    unit_interval: bool = False
    levels: int | None = None
    ignores_missing: bool = False

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """`{parameter: shape}` that a network supplies for a variable of event shape `shape`."""
        raise NotImplementedError

    def unconditional_parameters(self, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        """`{parameter: initial value}` that are learned without a network."""
        return {}

    def modules(self, shape: tuple[int, ...]) -> dict[str, nn.Module]:
        """`{name: module}` that the distribution needs in addition."""
        return {}

    def __call__(
        self, shape: tuple[int, ...], *args: Any, **parameters: Any
    ) -> dist.TorchDistribution:
        """The distribution of event shape `shape` with these parameters and modules."""
        raise NotImplementedError

    def raw_parameters(self, loc: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
        """Network outputs that give the mean `[..., D]` and the covariance `[..., D, D]`.

        With them go the `raw_unconditional_parameters` of that covariance.
        """
        raise UserError(
            f"{type(self).__name__} cannot start at a given mean and covariance: use Normal() or "
            "MultivariateNormal()"
        )

    def raw_unconditional_parameters(self, covariance: torch.Tensor) -> dict[str, torch.Tensor]:
        """What `unconditional_parameters` must be for a covariance `[..., D, D]`."""
        return {}


def check_family(family: object) -> Family:
    """The family; raises unless it is one."""
    if not isinstance(family, Family):
        raise UserError(f"a family is an object such as Normal(), not {family!r}")
    return family


def _length(shape: tuple[int, ...], name: str) -> int:
    """The length of a vector; raises if the shape is another."""
    if len(shape) != 1:
        raise UserError(f"{name} is a distribution of vectors, not of shape {list(shape)}")
    return shape[0]


@dataclass(frozen=True)
class Normal(Family):
    """Normal distribution with diagonal covariance; the network supplies `loc` and `log_scale`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> q = pv.conditionals.Conditional((2,), {"x": (5,)}, pv.conditionals.Normal())
        >>> q(x=torch.zeros(4, 5)).variance.shape
        torch.Size([4, 2])
    """

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"loc": shape, "log_scale": shape}

    def __call__(
        self, shape: tuple[int, ...], loc: torch.Tensor, log_scale: torch.Tensor
    ) -> dist.TorchDistribution:
        return dist.Normal(loc, bounded_log_scale(log_scale).exp()).to_event(len(shape))

    def raw_parameters(self, loc: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
        """Network outputs that give this mean `[..., D]` and the diagonal of `[..., D, D]`."""
        variance = torch.diagonal(covariance, dim1=-2, dim2=-1)
        return torch.cat([loc, raw_log_scale(0.5 * variance.log())], -1)


class _FullCovariance(Family):
    """A normal distribution by its mean, logarithms of conditional scales, and the entries of S."""

    def __call__(
        self,
        shape: tuple[int, ...],
        loc: torch.Tensor,
        log_scale: torch.Tensor,
        below: torch.Tensor,
    ) -> dist.TorchDistribution:
        return ModifiedCholeskyNormal(loc, bounded_log_scale(log_scale).exp(), below)


@dataclass(frozen=True)
class MultivariateNormal(_FullCovariance):
    r"""Normal distribution with full covariance, by the modified Cholesky decomposition of its precision.

    :math:`(I + S)\,\mathrm{diag}(\sigma)^{-1}(z - \mu)` is standard normal, with S strictly lower
    triangular: the network supplies the entries of S, which are not bounded, and the logarithms of
    bounded scales. See `pv.distributions.ModifiedCholeskyNormal`.

    Raises:
        UserError: the variable is not a vector.

    Example:
        >>> import torch, pyro_vae as pv
        >>> q = pv.conditionals.Conditional((2,), {"x": (5,)}, pv.conditionals.MultivariateNormal())
        >>> q(x=torch.zeros(4, 5)).covariance_matrix.shape
        torch.Size([4, 2, 2])
    """

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        d = _length(shape, "a multivariate normal")
        return {"loc": shape, "log_scale": shape, "below": (d * (d - 1) // 2,)}

    def raw_parameters(self, loc: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
        """Network outputs that give this mean `[..., D]` and covariance `[..., D, D]`."""
        scale, below = modified_cholesky(covariance)
        return torch.cat([loc, raw_log_scale(scale.log()), below], -1)


@dataclass(frozen=True)
class ConstantCorrelationNormal(_FullCovariance):
    r"""Normal distribution with full covariance, of which only the scales depend on the parents.

    The covariance is :math:`\mathrm{diag}(\sigma)\, R\, \mathrm{diag}(\sigma)`: the network supplies
    the mean and the (conditional) scales as for `MultivariateNormal`; S, and with it R, is learned, one
    for each output head. As a component of the GMVAE it has correlations for each y, at less cost than
    `MultivariateNormal`, which has them for each y and w.

    Raises:
        UserError: the variable is not a vector.

    References:
        Bollerslev 1990, Modelling the coherence in short-run nominal exchange rates (Review of
        Economics and Statistics 72).

    Example:
        >>> import torch, pyro_vae as pv
        >>> family = pv.conditionals.ConstantCorrelationNormal()
        >>> q = pv.conditionals.Conditional((2,), {"x": (5,)}, family)
        >>> q(x=torch.zeros(4, 5)).covariance_matrix.shape
        torch.Size([4, 2, 2])
    """

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        _length(shape, "a multivariate normal")
        return {"loc": shape, "log_scale": shape}

    def unconditional_parameters(self, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        d = _length(shape, "a multivariate normal")
        return {"below": torch.zeros(d * (d - 1) // 2)}

    def raw_parameters(self, loc: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
        """Network outputs that give this mean `[..., D]` and the scales of `[..., D, D]`."""
        scale, _ = modified_cholesky(covariance)
        return torch.cat([loc, raw_log_scale(scale.log())], -1)

    def raw_unconditional_parameters(self, covariance: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameters that give the correlations of `[..., D, D]`."""
        return {"below": modified_cholesky(covariance)[1]}


@dataclass(frozen=True)
class LowRankNormal(Family):
    r"""Normal distribution with covariance :math:`\mathrm{diag}(\sigma^2) + F F^\top`.

    F `[D, rank]` starts at random: at zero it would have no gradient.

    Args:
        rank: number of columns of F.

    Raises:
        UserError: the variable is not a vector.

    Example:
        >>> import torch, pyro_vae as pv
        >>> family = pv.conditionals.LowRankNormal(rank=1)
        >>> q = pv.conditionals.Conditional((3,), {"x": (5,)}, family)
        >>> q(x=torch.zeros(4, 5)).covariance_matrix.shape
        torch.Size([4, 3, 3])
    """

    rank: int = 2

    def __post_init__(self) -> None:
        check_int_at_least(1, rank=self.rank)

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        _length(shape, "a low-rank normal")
        return {"loc": shape, "log_scale": shape, "factor": (*shape, self.rank)}

    def unconditional_parameters(self, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return {"initial_factor": 0.1 * torch.randn(*shape, self.rank)}

    def __call__(
        self,
        shape: tuple[int, ...],
        loc: torch.Tensor,
        log_scale: torch.Tensor,
        factor: torch.Tensor,
        initial_factor: torch.Tensor,
    ) -> dist.TorchDistribution:
        variance = (2 * bounded_log_scale(log_scale)).exp()
        return dist.LowRankMultivariateNormal(loc, factor + initial_factor, variance)


@dataclass(frozen=True)
class OneHotCategorical(Family):
    """Categorical distribution over K classes; its values are one-hot vectors `[..., K]`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> q = pv.conditionals.Conditional((3,), {"x": (5,)}, pv.conditionals.OneHotCategorical())
        >>> q(x=torch.zeros(4, 5)).sample().sum(-1)
        tensor([1., 1., 1., 1.])
    """

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"logits": shape}

    def __call__(self, shape: tuple[int, ...], logits: torch.Tensor) -> LinearOneHotCategorical:
        return LinearOneHotCategorical(logits=logits)


@dataclass(frozen=True)
class RelaxedOneHotCategorical(Family):
    """Gumbel-softmax relaxation of a categorical distribution, at a fixed temperature.

    Args:
        temperature: positive; samples are closer to one-hot at lower temperatures.

    References:
        Jang et al. 2017, arXiv 1611.01144; arXiv 1611.00712.

    Example:
        >>> import torch, pyro_vae as pv
        >>> family = pv.conditionals.RelaxedOneHotCategorical(temperature=0.5)
        >>> q = pv.conditionals.Conditional((3,), {"x": (5,)}, family)
        >>> q(x=torch.zeros(4, 5)).rsample().shape
        torch.Size([4, 3])
    """

    temperature: float = 0.5

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature)

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"logits": shape}

    def __call__(self, shape: tuple[int, ...], logits: torch.Tensor) -> GumbelSoftmax:
        temperature = logits.new_tensor(self.temperature)
        return GumbelSoftmax(temperature, logits=logits, validate_args=False)
