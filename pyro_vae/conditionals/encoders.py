"""What the network of an encoder sees of counts: logarithms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn as nn

from ..errors import UserError
from .columns import Columns
from .families import Family
from .library_size import CountTrunk, LibrarySize, LogNormalize
from .likelihoods import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from .missing import without_missing
from .networks import MLP, Network, NetworkLike, ResidualMLP
from .user_trunk import build_network

COUNTS = (Poisson, NegativeBinomial, ZeroInflatedNegativeBinomial)


@dataclass(frozen=True)
class LogCounts(Network):
    """A network that sees the counts in x as log(1 + x): incomes and years as well as small numbers.

    Args:
        network: what follows.
        is_count: `[D]`, the columns that are counts.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from pyro_vae.conditionals.encoders import LogCounts
        >>> network = LogCounts(pv.conditionals.MLP(()), (True, False))
        >>> q = pv.conditionals.Conditional((1,), {"x": (2,)}, network=network)
        >>> plain = pv.conditionals.Conditional((1,), {"x": (2,)}, network=pv.conditionals.MLP(()))
        >>> _ = plain.load_state_dict(q.state_dict(), strict=False)
        >>> x = torch.tensor([[9.0, 2.0]])
        >>> torch.allclose(q(x=x).mean, plain(x=torch.stack([x[:, 0].log1p(), x[:, 1]], 1)).mean)
        True
    """

    network: Network | None
    is_count: tuple[bool, ...]

    def build(
        self,
        inputs: Mapping[str, tuple[int, ...]],
        outputs: Mapping[str, tuple[int, ...]],
        shape: Sequence[int] = (),
    ) -> tuple[nn.Module | None, nn.Module]:
        """The trunk and the head; see `Network.build`."""
        trunk, head = build_network(self.network, inputs, outputs, shape)
        return _LogTrunk(trunk, self.is_count), head


class _LogTrunk(CountTrunk):
    """Takes the logarithms of the columns that are counts."""

    def __init__(self, trunk: nn.Module | None, is_count: Sequence[bool]) -> None:
        super().__init__(trunk)
        self.register_buffer("is_count", torch.tensor(is_count), persistent=False)

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(self.get_buffer("is_count"), x.clamp_min(0).log1p(), x)


def encoder_network(
    family: Family | None,
    inputs: Mapping[str, tuple[int, ...]],
    network: NetworkLike | None,
    is_scaled: bool = False,
) -> NetworkLike | None:
    """The network of an encoder of data with this likelihood, for parents of these shapes.

    It is the same network, which sees counts as logarithms: log-normalized ones if the likelihood is a
    `LibrarySize`. Of other counts a network of the user's own sees them as they are.

    Args:
        family: of the likelihood of x.
        inputs: `{parent: event shape}`.
        network: that the user has chosen.
        is_scaled: whether x is scaled before the network sees it, and is no longer counts.
    """
    if isinstance(family, LibrarySize) and "x" in inputs and not isinstance(network, LogNormalize):
        # the field's type names networks alone, because the command line is generated from it
        return LogNormalize(cast(Network | None, network), family.size)
    if is_scaled or not isinstance(network, MLP | ResidualMLP | None):
        return network
    if len(inputs.get("x", ())) != 1:
        return network
    is_count = count_columns(family, inputs["x"][0])
    return LogCounts(network, is_count) if any(is_count) else network


def count_columns(family: Family | None, num_columns: int) -> tuple[bool, ...]:
    """`[D]`: which columns a likelihood takes as counts."""
    base = without_missing(family)
    if isinstance(base, Columns):
        total = sum(size for _, size in base.families())
        if total != num_columns:
            raise UserError(
                f"the blocks of the likelihood have {total} columns, and x has {num_columns}"
            )
        return tuple(c for block, size in base.families() for c in count_columns(block, size))
    return (isinstance(base, COUNTS),) * num_columns
