"""Likelihoods of data with missing values."""

from dataclasses import dataclass, replace
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn as nn
from torch.distributions import Independent

from .. import distributions
from ..errors import UserError
from .columns import Columns
from .families import Family
from .library_size import LibrarySize
from .likelihoods import likelihood


@dataclass(frozen=True)
class IgnoreMissing(Family):
    r"""The likelihood of the observed entries of x: NaN marks a missing value.

    For a likelihood with independent entries it is exactly :math:`p(x_{obs} \mid z)`. Objectives,
    bounds and log-likelihoods are then those of the observed entries. They are the right ones if
    which values are missing does not depend on the missing values ("missing at random").

    A `Guide` of a model with this likelihood fills x before its networks see it: a missing value is
    zero after `input_scaling`, which is the mean of standardized columns.

    Args:
        likelihood: a likelihood or its name.

    References:
        Mattei and Frellsen 2019, MIWAE, arXiv 1812.02633; Nazabal et al. 2020, arXiv 1807.03653.

    Example:
        >>> import torch, pyro_vae as pv
        >>> family = pv.conditionals.IgnoreMissing("bernoulli")
        >>> p = pv.conditionals.Conditional((2,), {"z": (3,)}, family)
        >>> p(z=torch.zeros(1, 3)).log_prob(torch.full((1, 2), float("nan")))
        tensor([0.], grad_fn=...)
    """

    likelihood: Family | str

    def __post_init__(self) -> None:
        base = likelihood(self.likelihood)
        if isinstance(base, LibrarySize):
            raise UserError(
                "a row with missing counts has no library size: fill them, or leave out the offset "
                f"with the likelihood {base.counts!r}"
            )
        for name, value in (
            ("likelihood", base),
            ("proper", base.proper),
            ("unit_interval", base.unit_interval),
            ("levels", base.levels),
            ("ignores_missing", True),
        ):
            object.__setattr__(self, name, value)

    @property
    def base(self) -> Family:
        """The likelihood of data without missing values."""
        return likelihood(self.likelihood)

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return self.base.parameter_shapes(shape)

    def unconditional_parameters(self, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return self.base.unconditional_parameters(shape)

    def modules(self, shape: tuple[int, ...]) -> dict[str, nn.Module]:
        return self.base.modules(shape)

    def __call__(self, shape: tuple[int, ...], **parameters: Any) -> dist.TorchDistribution:
        fn: Any = self.base(shape, **parameters)
        while isinstance(fn, Independent):
            fn = fn.base_dist
        return distributions.IgnoreMissing(fn).to_event(len(shape))


def ignore_missing(family: Family | str) -> Family:
    """The likelihood of the observed entries; a family that ignores missing values as it is."""
    family = likelihood(family)
    if isinstance(family, Columns):
        return replace(family, ignores_missing=True)
    return family if family.ignores_missing else IgnoreMissing(family)


def without_missing(family: Family | None) -> Family | None:
    """The likelihood of complete data behind an `IgnoreMissing`; another family as it is."""
    return family.base if isinstance(family, IgnoreMissing) else family
