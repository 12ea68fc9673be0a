"""A likelihood per column, for tables with numeric, count, categorical and boolean columns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch.distributions import Independent

from .. import distributions
from ..errors import UserError, unknown_name_error
from .families import Family
from .likelihoods import LIKELIHOODS, NormalLikelihood


@dataclass(frozen=True)
class OneHotLikelihood(Family):
    """Likelihood of one categorical variable; x has one-hot vectors `[..., K]`.

    Raises:
        UserError: the variable is not a vector.

    Example:
        >>> import torch, pyro_vae as pv
        >>> family = pv.conditionals.OneHotLikelihood()
        >>> p = pv.conditionals.Conditional((3,), {"z": (2,)}, family)
        >>> p(z=torch.zeros(4, 2)).log_prob(torch.eye(3)[[0, 1, 2, 0]]).shape
        torch.Size([4])
    """

    unit_interval = True

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        if len(shape) != 1:
            raise UserError(f"one-hot vectors have the shape (K,), not {list(shape)}")
        return {"logits": shape}

    def __call__(self, shape: tuple[int, ...], logits: torch.Tensor) -> dist.TorchDistribution:
        return distributions.OneHotData(logits=logits)


#: Likelihoods by name; those of columns that are not in `LIKELIHOODS`, or have a scale per column.
COLUMN_LIKELIHOODS: dict[str, Family] = {
    **LIKELIHOODS,
    "normal": NormalLikelihood(scale=0.5, learned=True, per_value=True),
    "one-hot": OneHotLikelihood(),
}


@dataclass(frozen=True)
class Columns(Family):
    """A likelihood for each block of columns of a table x `[N, D]`; blocks are independent given z.

    The mean of a block is in the units of its columns: probabilities of categories and of booleans,
    expected counts.

    Args:
        blocks: `(likelihood, number of columns)` for consecutive columns. A likelihood is a family,
            or a name: `"normal"` (with a learned scale per column), `"student-t"`,
            `"negative-binomial"`, `"bernoulli"`, ..., or `"one-hot"` for the columns of one
            categorical variable.
        ignores_missing: whether NaN is a missing value; a categorical variable is missing as a
            whole. See `IgnoreMissing`.

    Raises:
        UserError: no block, an unknown likelihood, or sizes that do not add up to the columns of x.

    Example:
        >>> import torch, pyro_vae as pv
        >>> blocks = (("normal", 2), ("negative-binomial", 1), ("one-hot", 3))
        >>> model = pv.models.VAE((6,), latent_dim=2, likelihood=pv.conditionals.Columns(blocks))
        >>> model(size=4).shape
        torch.Size([4, 6])
    """

    blocks: tuple[tuple[Family | str, int], ...]
    ignores_missing: bool = False

    def __post_init__(self) -> None:
        wrong = UserError(
            "blocks must be pairs (likelihood, number of columns), such as (('normal', 3), "
            f"('one-hot', 4)), not {self.blocks!r}"
        )
        try:
            blocks = tuple((family, int(size)) for family, size in self.blocks)
        except (TypeError, ValueError):
            raise wrong from None
        if not blocks or any(size < 1 for _, size in blocks):
            raise wrong
        object.__setattr__(self, "blocks", blocks)
        families = [family for family, _ in self.families()]
        object.__setattr__(self, "proper", all(family.proper for family in families))

    def families(self) -> Iterator[tuple[Family, int]]:
        """`(family, number of columns)` of each block."""
        for family, size in self.blocks:
            if isinstance(family, Family):
                yield family, size
            elif family in COLUMN_LIKELIHOODS:
                yield COLUMN_LIKELIHOODS[family], size
            else:
                raise unknown_name_error("likelihood of a column", family, COLUMN_LIKELIHOODS)

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        total = sum(size for _, size in self.blocks)
        if shape != (total,):
            raise UserError(f"the likelihoods have {total} columns; x has shape {list(shape)}")
        return {
            f"{name}_{i}": parameter
            for i, (family, size) in enumerate(self.families())
            for name, parameter in family.parameter_shapes((size,)).items()
        }

    def unconditional_parameters(self, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return {
            f"{name}_{i}": value
            for i, (family, size) in enumerate(self.families())
            for name, value in family.unconditional_parameters((size,)).items()
        }

    def __call__(self, shape: tuple[int, ...], **parameters: Any) -> dist.TorchDistribution:
        blocks = []
        for i, (family, size) in enumerate(self.families()):
            names = (*family.parameter_shapes((size,)), *family.unconditional_parameters((size,)))
            fn: Any = family((size,), **{name: parameters[f"{name}_{i}"] for name in names})
            if self.ignores_missing:
                one_hot = isinstance(fn, distributions.OneHotData)
                base = fn.base_dist if isinstance(fn, Independent) else fn
                fn = distributions.IgnoreMissing(base)
                fn = fn if one_hot else fn.to_event(1)
            blocks.append(fn)
        return distributions.Columns(blocks)
