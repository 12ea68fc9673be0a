"""Encoders of counts, and where a decoder starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn

from ..conditionals import MLP, Conditional, Network
from ..conditionals.networks import Affine
from .units import Units


@dataclass(frozen=True, eq=False)
class LogCountsMLP(Network):
    """An `MLP` that sees counts x as log(1 + x), standardized.

    Args:
        hidden: widths of the hidden layers, at least one.
        mean, sd: `[D]`, of log(1 + x).
    """

    hidden: tuple[int, ...]
    mean: np.ndarray
    sd: np.ndarray

    def build(
        self,
        inputs: Mapping[str, tuple[int, ...]],
        outputs: Mapping[str, tuple[int, ...]],
        shape: Sequence[int] = (),
    ) -> tuple[nn.Module | None, nn.Module]:
        """The trunk and the head; see `Network.build`."""
        trunk, head = MLP(self.hidden).build(inputs, outputs, shape)
        return (trunk if trunk is None or "x" not in inputs else _LogCounts(trunk, self)), head


class _LogCounts(nn.Module):
    """A trunk whose parent x is replaced by its standardized logarithm."""

    mean: torch.Tensor
    sd: torch.Tensor

    def __init__(self, trunk: nn.Module, network: LogCountsMLP) -> None:
        super().__init__()
        self.trunk = trunk
        self.register_buffer("mean", torch.from_numpy(network.mean))
        self.register_buffer("sd", torch.from_numpy(network.sd))

    def forward(self, x: torch.Tensor, **parents: torch.Tensor) -> dict[str, torch.Tensor]:
        features: dict[str, torch.Tensor] = self.trunk(
            x=((x.log1p() - self.mean) / self.sd).to(x.dtype), **parents
        )
        return features


def encoder_network(hidden: tuple[int, ...], units: Units) -> Network:
    """The network of a guide for a table in these units."""
    if units.log_moments is None:
        return MLP(hidden)
    return LogCountsMLP(hidden, *units.log_moments)


@torch.no_grad()
def start_at_column_means(p_x: Conditional, units: Units) -> None:
    """Set the decoder's bias so that its mean starts at the mean of the columns."""
    bias = units.start_bias()
    if bias is not None and isinstance(p_x.head, Affine):
        p_x.head.bias.copy_(bias)
