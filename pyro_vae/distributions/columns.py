"""Independent blocks of columns, each with its own distribution: a row of a mixed table."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch.distributions import Independent

from .proper import MaybeScore, is_proper


class ColumnBlocks(constraints.Constraint):
    """A constraint for each block of columns of `[..., D]`.

    Args:
        blocks: `(constraint, number of columns)` of each block.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from pyro.distributions import constraints
        >>> blocks = [(constraints.real, 1), (constraints.one_hot, 2)]
        >>> constraint = pv.distributions.ColumnBlocks(blocks)
        >>> constraint.check(torch.tensor([[0.5, 0.0, 1.0], [0.5, 0.5, 0.5]]))
        tensor([[ True,  True,  True],
                [ True, False, False]])
    """

    event_dim = 1

    def __init__(self, blocks: Sequence[tuple[constraints.Constraint, int]]) -> None:
        self.blocks = tuple(blocks)

    def check(self, value: torch.Tensor) -> torch.Tensor:
        """Whether each column `[..., D]` satisfies the constraint of its block."""
        parts = value.split([size for _, size in self.blocks], -1)
        checks = []
        for (constraint, _), part in zip(self.blocks, parts, strict=True):
            ok = constraint.check(part)
            checks.append(ok if ok.dim() == part.dim() else ok.unsqueeze(-1).expand(part.shape))
        return torch.cat(checks, -1)

    def __repr__(self) -> str:
        return ", ".join(f"{size} x {constraint!r}" for constraint, size in self.blocks)


class Columns(MaybeScore, TorchDistribution):
    """The product of independent distributions of consecutive blocks of columns.

    Args:
        blocks: distributions with event shapes `(D_1,), (D_2,), ...` and one batch shape.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch, pyro_vae as pv
        >>> normal = dist.Normal(torch.zeros(4, 2), 1.0).to_event(1)
        >>> category = pv.distributions.OneHotData(logits=torch.zeros(4, 3))
        >>> fn = pv.distributions.Columns([normal, category])
        >>> fn.event_shape, fn.sample().shape
        (torch.Size([5]), torch.Size([4, 5]))
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, blocks: Sequence[Any], validate_args: bool | None = None) -> None:
        shape = torch.broadcast_shapes(*(fn.batch_shape for fn in blocks))
        self.blocks = [fn if fn.batch_shape == shape else fn.expand(shape) for fn in blocks]
        self.sizes = [fn.event_shape[0] for fn in blocks]
        super().__init__(shape, torch.Size([sum(self.sizes)]), validate_args=validate_args)

    @property
    def proper(self) -> bool:  # type: ignore[override]  # it is that of the blocks
        """Whether `log_prob` is a log-probability."""
        return all(is_proper(_single(fn)) for fn in self.blocks)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        supports = [_single(fn).support for fn in self.blocks]
        return ColumnBlocks(list(zip(supports, self.sizes, strict=True)))

    def expand(self, batch_shape: Sequence[int], _instance: "Columns | None" = None) -> "Columns":
        """The same distribution with its batch shape expanded."""
        return Columns([fn.expand(torch.Size(batch_shape)) for fn in self.blocks])

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """`[...]`: the log-probability of `value [..., D]`, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        parts = value.split(self.sizes, -1)
        terms = [fn.log_prob(part) for fn, part in zip(self.blocks, parts, strict=True)]
        return torch.as_tensor(sum(terms))

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws `[..., D]`."""
        return torch.cat([fn.sample(torch.Size(sample_shape)) for fn in self.blocks], -1)

    @property
    def mean(self) -> torch.Tensor:
        return torch.cat([fn.mean for fn in self.blocks], -1)

    @property
    def variance(self) -> torch.Tensor:
        return torch.cat([fn.variance for fn in self.blocks], -1)


def _single(fn: Any) -> Any:
    """The distribution of single columns within independent ones; another one as it is."""
    return fn.base_dist if isinstance(fn, Independent) else fn
