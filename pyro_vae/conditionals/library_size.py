"""Counts whose mean is proportional to the total count of their row, and encoders of such counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyro.distributions as dist
import torch
import torch.nn as nn

from .. import distributions
from ..distributions.library_size import Counts
from ..errors import UserError, check_positive, unknown_name_error
from .families import Family, bounded_log_scale
from .likelihoods import likelihood
from .networks import Network, check_network
from .user_trunk import build_network

COUNTS = ("poisson", "negative-binomial", "zero-inflated-negative-binomial")


@dataclass(frozen=True)
class LibrarySize(Family):
    r"""Counts x `[G]` with the means :math:`\ell\,\mathrm{softmax}(f)_g`, as in scVI.

    :math:`\ell = \sum_g x_g` is the observed library size: the total count of a cell, the length of a
    document. It is an offset of the log-mean, so that z needs not describe it. :math:`\ell` is taken
    as known: densities are those of x with this exposure, and can be compared with those of models
    with the same offset only. They are no conditional probabilities given the total: over all rows of
    one total they sum to less than one. A row without counts has no library size, and is refused. Means and
    samples have the library size `size`: the means are normalized counts, whose total is `size`.

    With zero inflation :math:`\ell\,\mathrm{softmax}(f)_g` is the mean of the negative binomial, as in
    scVI. The extra zeros take their part of the total: with the probabilities :math:`\pi_g` of an extra
    zero, the mean of count g is :math:`(1 - \pi_g)\,\ell\,\mathrm{softmax}(f)_g`.

    A `Guide` of a model with this likelihood sees `log(1 + size x / l)`, see `LogNormalize`.

    Args:
        counts: poisson, negative-binomial or zero-inflated-negative-binomial.
        size: the library size :math:`\ell` of means and samples, such as the median of the data's.

    Raises:
        UserError: another likelihood, a size that is not positive, or x that is no vector.

    References:
        Lopez et al. 2018, scVI, Nature Methods 15, 1053.

    Example:
        >>> import torch, pyro_vae as pv
        >>> family = pv.conditionals.LibrarySize("poisson", size=100.0)
        >>> p = pv.conditionals.Conditional((4,), {"z": (3,)}, family)
        >>> p(z=torch.zeros(2, 3)).mean.sum(-1).round()
        tensor([100., 100.], grad_fn=...)
    """

    counts: str = "negative-binomial"
    size: float = 10_000.0

    def __post_init__(self) -> None:
        if self.counts not in COUNTS:
            raise unknown_name_error("likelihood of counts", self.counts, COUNTS)
        check_positive(size=self.size)

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        if len(shape) != 1:
            raise UserError(f"LibrarySize is of rows of counts [N, G], not of x {list(shape)}")
        return likelihood(self.counts).parameter_shapes(shape)

    def unconditional_parameters(self, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return likelihood(self.counts).unconditional_parameters(shape)

    def __call__(
        self, shape: tuple[int, ...], **parameters: torch.Tensor
    ) -> dist.TorchDistribution:
        counts: Counts
        if self.counts == "poisson":
            counts = distributions.Poisson(parameters["log_rate"].log_softmax(-1))
        else:
            log_mean = parameters["log_mean"].log_softmax(-1)
            log_r = bounded_log_scale(parameters["log_r"])
            if self.counts == "negative-binomial":
                counts = distributions.NegativeBinomial(log_mean, log_r)
            else:
                gate = parameters["gate_logits"]
                counts = distributions.ZeroInflatedNegativeBinomial(gate, log_mean, log_r)
        return distributions.CountsOfRow(counts, self.size)


@dataclass(frozen=True)
class LogNormalize(Network):
    r"""A network that sees the counts x as :math:`\log(1 + s\,x / \sum_g x_g)`.

    Rows that differ by a factor have the same features.

    Args:
        network: what follows. Default: `MLP()`.
        size: s, the library size to which all rows are scaled.

    Example:
        >>> import torch, pyro_vae as pv
        >>> network = pv.conditionals.LogNormalize(pv.conditionals.MLP((8,)), size=100.0)
        >>> q = pv.conditionals.Conditional((2,), {"x": (4,)}, network=network)
        >>> x = torch.tensor([[1.0, 2, 3, 4]])
        >>> torch.allclose(q(x=x).mean, q(x=10 * x).mean)
        True
    """

    network: Network | None = None
    size: float = 10_000.0

    def __post_init__(self) -> None:
        check_network(self.network)
        check_positive(size=self.size)

    def build(
        self,
        inputs: Mapping[str, tuple[int, ...]],
        outputs: Mapping[str, tuple[int, ...]],
        shape: Sequence[int] = (),
    ) -> tuple[nn.Module | None, nn.Module]:
        """The trunk and the head; see `Network.build`."""
        trunk, head = build_network(self.network, inputs, outputs, shape)
        return (_NormalizingTrunk(trunk, self.size) if "x" in inputs else trunk), head


class CountTrunk(nn.Module):
    """Calls the network's trunk with another form of counts x; without one, the head takes the parents."""

    def __init__(self, trunk: nn.Module | None) -> None:
        super().__init__()
        self.trunk = trunk

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """What the network sees of counts, or of pseudo-inputs of a VampPrior, which may be negative."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor, **parents: torch.Tensor) -> dict[str, torch.Tensor]:
        inputs = {"x": self.seen(x), **parents}
        features: dict[str, torch.Tensor] = inputs if self.trunk is None else self.trunk(**inputs)
        return features


class _NormalizingTrunk(CountTrunk):
    """Log-normalizes x."""

    def __init__(self, trunk: nn.Module | None, size: float) -> None:
        super().__init__(trunk)
        self.size = size

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clamp_min(0)
        return (self.size * x / x.sum(-1, keepdim=True).clamp_min(1)).log1p()
