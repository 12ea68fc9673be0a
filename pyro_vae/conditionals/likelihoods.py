r"""Likelihoods: the families of observed data, `p(x | latents)`.

The values decide which one fits: binary, gray levels, counts or real numbers. `fit` and
`check_pair` refuse data outside a likelihood's support with a one-line error.
"""

import dataclasses
import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch

from .. import distributions
from ..errors import UserError, check_int_at_least, check_positive, unknown_name_error
from .families import LOG_SCALE_BOUND, Family, bounded_log_scale, raw_log_scale

STANDARDIZE = "pv.data.standardize(data)"  # as error messages name it
LOG_RATE_BOUND = 15.0  # rates of counts lie in [exp(-15), exp(15)] = [3.1e-7, 3.3e6]
LARGEST_MEAN = 1e6  # of counts: nearer to the bound, a network hardly moves the rate


def bounded_log_rate(raw: torch.Tensor) -> torch.Tensor:
    """`15 tanh(raw / 15)`: the identity near zero, never beyond ±15."""
    return LOG_RATE_BOUND * torch.tanh(raw / LOG_RATE_BOUND)


def raw_log_rate(log_rate: torch.Tensor) -> torch.Tensor:
    """The inverse of `bounded_log_rate`, which initializes a network output at a given rate."""
    limit = 0.999 * LOG_RATE_BOUND
    return LOG_RATE_BOUND * torch.atanh(log_rate.clamp(-limit, limit) / LOG_RATE_BOUND)


@dataclass(frozen=True)
class Bernoulli(Family):
    """Independent binary values; refuses values other than 0 and 1.

    Example:
        >>> import torch, pyro_vae as pv
        >>> p = pv.conditionals.Conditional((2,), {"z": (3,)}, pv.conditionals.Bernoulli())
        >>> p(z=torch.zeros(4, 3)).log_prob(torch.ones(4, 2)).shape
        torch.Size([4])
    """

    unit_interval = True

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"logits": shape}

    def __call__(self, shape: tuple[int, ...], logits: torch.Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=logits).to_event(len(shape))


@dataclass(frozen=True)
class GrayBernoulli(Bernoulli):
    """Bernoulli score of gray values, for comparison with code that uses it.

    The score is not a log-likelihood, and `evaluate.log_likelihood` refuses it.

    Example:
        >>> import torch, pyro_vae as pv
        >>> p = pv.conditionals.Conditional((2,), {"z": (3,)}, pv.conditionals.GrayBernoulli())
        >>> p(z=torch.zeros(4, 3)).log_prob(torch.full((4, 2), 0.3)).shape
        torch.Size([4])
    """

    proper = False

    def __call__(self, shape: tuple[int, ...], logits: torch.Tensor) -> dist.TorchDistribution:
        return distributions.GrayBernoulli(logits=logits).to_event(len(shape))


@dataclass(frozen=True)
class ContinuousBernoulli(Family):
    """A density on [0, 1], for gray values.

    References:
        Loaiza-Ganem and Cunningham 2019, arXiv 1907.06845.

    Example:
        >>> import torch, pyro_vae as pv
        >>> family = pv.conditionals.ContinuousBernoulli()
        >>> p = pv.conditionals.Conditional((2,), {"z": (3,)}, family)
        >>> p(z=torch.zeros(4, 3)).log_prob(torch.full((4, 2), 0.3)).shape
        torch.Size([4])
    """

    unit_interval = True

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"logits": shape}

    def __call__(self, shape: tuple[int, ...], logits: torch.Tensor) -> dist.TorchDistribution:
        return distributions.ContinuousBernoulli(logits).to_event(len(shape))


@dataclass(frozen=True)
class Binomial(Family):
    """Gray levels 0, 1/trials, ..., 1 as binomial proportions.

    Args:
        trials: the number of levels minus one; 16 for scikit-learn's digits.

    Example:
        >>> import torch, pyro_vae as pv
        >>> p = pv.conditionals.Conditional((2,), {"z": (3,)}, pv.conditionals.Binomial(trials=4))
        >>> p(z=torch.zeros(4, 3)).log_prob(torch.full((4, 2), 0.25)).shape
        torch.Size([4])
    """

    unit_interval = True

    trials: int = 16

    def __post_init__(self) -> None:
        check_int_at_least(1, trials=self.trials)

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"logits": shape}

    def __call__(self, shape: tuple[int, ...], logits: torch.Tensor) -> dist.TorchDistribution:
        return distributions.BinomialProportion(self.trials, logits).to_event(len(shape))


@dataclass(frozen=True)
class NormalLikelihood(Family):
    """Real values with a normal distribution of one scale for all, fixed or learned.

    Args:
        scale: the fixed scale, or the initial value of a learned one.
        learned: whether the scale is learned.
        per_value: whether each value of x has a separate learned scale.

    Raises:
        UserError: the scale is not positive, a learned scale cannot start there, or `per_value`
            without `learned`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> family = pv.conditionals.NormalLikelihood(scale=0.5, learned=True)
        >>> p = pv.conditionals.Conditional((2,), {"z": (3,)}, family)
        >>> p(z=torch.zeros(1, 3)).stddev
        tensor([[0.5000, 0.5000]], grad_fn=...)
    """

    scale: float = 1.0
    learned: bool = False
    per_value: bool = False

    def __post_init__(self) -> None:
        check_positive(scale=self.scale)
        if self.per_value and not self.learned:
            raise UserError("per_value=True is of learned scales: set learned=True")
        if self.learned and abs(math.log(self.scale)) > LOG_SCALE_BOUND:
            low, high = math.exp(-LOG_SCALE_BOUND), math.exp(LOG_SCALE_BOUND)
            raise UserError(
                f"a learned scale lies in [{low:.1e}, {high:.1e}] and cannot start at "
                f"{self.scale:.3g}: {STANDARDIZE} puts the data on a scale of 1"
            )

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"loc": shape}

    def unconditional_parameters(self, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        if not self.learned:
            return {}
        raw = raw_log_scale(math.log(self.scale))
        return {"log_scale": torch.full(shape, raw.item()) if self.per_value else raw}

    def __call__(
        self,
        shape: tuple[int, ...],
        loc: torch.Tensor,
        log_scale: torch.Tensor | None = None,
    ) -> dist.TorchDistribution:
        if log_scale is None:
            return dist.Normal(loc, loc.new_tensor(self.scale)).to_event(len(shape))
        return dist.Normal(loc, bounded_log_scale(log_scale).exp()).to_event(len(shape))


@dataclass(frozen=True)
class DiscretizedLogistic(Family):
    """Gray levels 0, 1/(levels-1), ..., 1 as bins of a logistic distribution.

    The network supplies the location and, by default, the scale of each pixel of each data point.
    The scale starts at 0.06.

    Args:
        levels: number of gray levels.
        learned_scale: whether the scale is one learned number per pixel instead.

    References:
        Kingma et al. 2016, arXiv 1606.04934.

    Example:
        >>> import torch, pyro_vae as pv
        >>> family = pv.conditionals.DiscretizedLogistic(levels=5)
        >>> p = pv.conditionals.Conditional((2,), {"z": (3,)}, family)
        >>> p(z=torch.zeros(4, 3)).log_prob(torch.full((4, 2), 0.25)).shape
        torch.Size([4])
    """

    unit_interval = True

    levels: int = 256
    learned_scale: bool = False

    def __post_init__(self) -> None:
        check_int_at_least(2, levels=self.levels)

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"loc": shape} if self.learned_scale else {"loc": shape, "log_scale": shape}

    def unconditional_parameters(self, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return {"log_scale": torch.zeros(shape)} if self.learned_scale else {}

    def __call__(
        self, shape: tuple[int, ...], loc: torch.Tensor, log_scale: torch.Tensor
    ) -> dist.TorchDistribution:
        scale = bounded_log_scale(log_scale - 3).exp()
        fn = distributions.DiscretizedLogistic(loc + 0.5, scale, self.levels)
        return fn.to_event(len(shape))


@dataclass(frozen=True)
class Categorical(Family):
    """Gray levels 0, 1/(levels-1), ..., 1 with a free probability for each level of each pixel.

    The network supplies `levels` numbers per pixel. The order of the levels has no role.

    Args:
        levels: number of gray levels.

    Example:
        >>> import torch, pyro_vae as pv
        >>> family = pv.conditionals.Categorical(levels=5)
        >>> p = pv.conditionals.Conditional((2,), {"z": (3,)}, family)
        >>> p(z=torch.zeros(4, 3)).log_prob(torch.full((4, 2), 0.25)).shape
        torch.Size([4])
    """

    unit_interval = True

    levels: int = 256

    def __post_init__(self) -> None:
        check_int_at_least(2, levels=self.levels)

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"logits": (*shape, self.levels)}

    def __call__(self, shape: tuple[int, ...], logits: torch.Tensor) -> dist.TorchDistribution:
        return distributions.CategoricalLevels(logits).to_event(len(shape))


@dataclass(frozen=True)
class Poisson(Family):
    """Counts 0, 1, 2, ...; the rate is `exp` of the network's output, bounded.

    Example:
        >>> import torch, pyro_vae as pv
        >>> p = pv.conditionals.Conditional((2,), {"z": (3,)}, pv.conditionals.Poisson())
        >>> p(z=torch.zeros(4, 3)).log_prob(torch.ones(4, 2)).shape
        torch.Size([4])
    """

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"log_rate": shape}

    def __call__(self, shape: tuple[int, ...], log_rate: torch.Tensor) -> dist.TorchDistribution:
        return distributions.Poisson(bounded_log_rate(log_rate)).to_event(len(shape))


@dataclass(frozen=True)
class NegativeBinomial(Family):
    r"""Over-dispersed counts with mean m from the network and variance :math:`m + m^2 / r`.

    The inverse dispersion r is learned, one per feature. The limit of large r is Poisson.

    Example:
        >>> import torch, pyro_vae as pv
        >>> p = pv.conditionals.Conditional((2,), {"z": (3,)}, pv.conditionals.NegativeBinomial())
        >>> p(z=torch.zeros(4, 3)).log_prob(torch.ones(4, 2)).shape
        torch.Size([4])
    """

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"log_mean": shape}

    def unconditional_parameters(self, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return {"log_r": torch.zeros(shape)}

    def __call__(
        self, shape: tuple[int, ...], log_mean: torch.Tensor, log_r: torch.Tensor
    ) -> dist.TorchDistribution:
        fn = distributions.NegativeBinomial(bounded_log_rate(log_mean), bounded_log_scale(log_r))
        return fn.to_event(len(shape))


@dataclass(frozen=True)
class ZeroInflatedNegativeBinomial(Family):
    """Counts that are zero with a probability from the network, else negative binomial.

    The network supplies the probability and the mean of each value. The inverse dispersion is
    learned, one per feature.

    References:
        Lopez et al. 2018, scVI, Nature Methods 15, 1053.

    Example:
        >>> import torch, pyro_vae as pv
        >>> family = pv.conditionals.ZeroInflatedNegativeBinomial()
        >>> p = pv.conditionals.Conditional((2,), {"z": (3,)}, family)
        >>> p(z=torch.zeros(4, 3)).log_prob(torch.ones(4, 2)).shape
        torch.Size([4])
    """

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"gate_logits": shape, "log_mean": shape}

    def unconditional_parameters(self, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return {"log_r": torch.zeros(shape)}

    def __call__(
        self,
        shape: tuple[int, ...],
        gate_logits: torch.Tensor,
        log_mean: torch.Tensor,
        log_r: torch.Tensor,
    ) -> dist.TorchDistribution:
        fn = distributions.ZeroInflatedNegativeBinomial(
            gate_logits, bounded_log_rate(log_mean), bounded_log_scale(log_r)
        )
        return fn.to_event(len(shape))


@dataclass(frozen=True)
class StudentT(Family):
    """Real values with outliers: a Student-t distribution with a learned scale per value of x.

    Args:
        df: degrees of freedom, more than 1. The normal distribution is the limit of large df.
        scale: the initial value of the scales.

    Raises:
        UserError: `df` is not above 1, where the mean does not exist, or a scale cannot start there.

    Example:
        >>> import torch, pyro_vae as pv
        >>> p = pv.conditionals.Conditional((2,), {"z": (3,)}, pv.conditionals.StudentT(df=3.0))
        >>> p(z=torch.zeros(4, 3)).log_prob(torch.ones(4, 2)).shape
        torch.Size([4])
    """

    df: float = 4.0
    scale: float = 0.5

    def __post_init__(self) -> None:
        check_positive(df=self.df)
        if self.df <= 1:
            raise UserError(f"df must be more than 1, so that x has a mean, got {self.df}")
        NormalLikelihood(self.scale, learned=True)  # checks the scale

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"loc": shape}

    def unconditional_parameters(self, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return {"log_scale": torch.full(shape, raw_log_scale(math.log(self.scale)).item())}

    def __call__(
        self, shape: tuple[int, ...], loc: torch.Tensor, log_scale: torch.Tensor
    ) -> dist.TorchDistribution:
        df = loc.new_tensor(float(self.df))
        return dist.StudentT(df, loc, bounded_log_scale(log_scale).exp()).to_event(len(shape))


LIKELIHOODS: dict[str, Family] = {
    "bernoulli": Bernoulli(),
    "binomial": Binomial(16),
    "continuous-bernoulli": ContinuousBernoulli(),
    "normal": NormalLikelihood(learned=True, scale=0.5),
    "discretized-logistic": DiscretizedLogistic(),
    "categorical": Categorical(),
    "poisson": Poisson(),
    "negative-binomial": NegativeBinomial(),
    "zero-inflated-negative-binomial": ZeroInflatedNegativeBinomial(),
    "student-t": StudentT(),
    "gray-bernoulli": GrayBernoulli(),
}


def likelihood(name: str | Family, levels: int | None = None) -> Family:
    """A likelihood by its name, or the family itself.

    Args:
        name: a key of `LIKELIHOODS`, such as `"bernoulli"` or `"poisson"`, or a family.
        levels: number of gray levels, for the likelihoods that have them. Default: 256.

    Raises:
        UserError: the name is unknown, or `levels` does not apply.

    Example:
        >>> import pyro_vae as pv
        >>> pv.conditionals.likelihood("categorical", levels=16)
        Categorical(levels=16)
    """
    if isinstance(name, Family):
        return name
    if not isinstance(name, str):
        raise UserError(f"a likelihood is a name or a Family, not {type(name).__name__}")
    if name not in LIKELIHOODS:
        raise unknown_name_error("likelihood", name, LIKELIHOODS)
    family = LIKELIHOODS[name]
    if levels is None:
        return family
    if not isinstance(family, (DiscretizedLogistic, Categorical)):
        raise UserError(f"the likelihood {name!r} has no levels to set")
    check_int_at_least(2, levels=levels)
    return dataclasses.replace(family, levels=levels)
