"""Encoders of counts and of tables with missing values, and where a decoder starts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn

from ..conditionals import MLP, Conditional, Network
from ..conditionals.networks import Affine
from .units import Units


@dataclass(frozen=True, eq=False)
class TableMLP(Network):
    """An `MLP` that sees counts as standardized logarithms, and which values of x are missing.

    Args:
        hidden: widths of the hidden layers.
        log_moments: `(mean [D], standard deviation [D])` of log(1 + x). Default: x has no counts.
        is_count: bool `[D]`, the columns that are counts.
        missing: whether NaN in x is a missing value. The network then sees zero in its place, and
            a further input per column that is 1 where the value is missing.
    """

    hidden: tuple[int, ...]
    log_moments: tuple[np.ndarray, np.ndarray] | None = None
    is_count: np.ndarray | None = None
    missing: bool = False

    def build(
        self,
        inputs: Mapping[str, tuple[int, ...]],
        outputs: Mapping[str, tuple[int, ...]],
        shape: Sequence[int] = (),
    ) -> tuple[nn.Module | None, nn.Module]:
        """The trunk and the head; see `Network.build`."""
        if self.missing:
            inputs = {**inputs, "missing": inputs["x"]}
        if self.hidden:
            trunk, head = MLP(self.hidden).build(inputs, outputs, shape)
            return _TableTrunk(self, trunk), head
        total = sum(math.prod(s) for s in outputs.values())
        return _TableTrunk(self, None), Affine(inputs, total)


class _TableTrunk(nn.Module):
    """The inputs of a `TableMLP`, and its trunk, if it has hidden layers."""

    mean: torch.Tensor | None
    sd: torch.Tensor | None
    is_count: torch.Tensor | None

    def __init__(self, network: TableMLP, trunk: nn.Module | None) -> None:
        super().__init__()
        self.trunk, self.missing = trunk, network.missing
        mean, sd = network.log_moments or (None, None)
        for name, value in {"mean": mean, "sd": sd, "is_count": network.is_count}.items():
            self.register_buffer(name, None if value is None else torch.from_numpy(value))

    def forward(self, x: torch.Tensor, **parents: torch.Tensor) -> dict[str, torch.Tensor]:
        missing = x.isnan()
        if self.mean is not None and self.sd is not None and self.is_count is not None:
            logs = (x.clamp_min(0).log1p() - self.mean) / self.sd
            x = torch.where(self.is_count, logs, x)
        if self.missing:
            x = torch.where(missing, 0.0, x)
            parents = {**parents, "missing": missing.to(x)}
        inputs = {"x": x, **parents}
        features: dict[str, torch.Tensor] = inputs if self.trunk is None else self.trunk(**inputs)
        return features


def encoder_network(hidden: tuple[int, ...], units: Units, missing: bool) -> Network:
    """The network of a guide for a table in these units.

    Args:
        hidden: widths of the hidden layers.
        units: of the table.
        missing: whether the table has missing values.
    """
    if units.log_moments is None and not missing:
        return MLP(hidden)
    return TableMLP(hidden, units.log_moments, units.is_count, missing)


@torch.no_grad()
def start_at_column_means(p_x: nn.Module | None, units: Units) -> None:
    """Set the decoder's bias so that its mean starts at the mean of the columns."""
    if units.count_start is not None:
        units.count_start.apply(p_x)
    bias = units.start_bias()
    if bias is not None and isinstance(p_x, Conditional) and isinstance(p_x.head, Affine):
        p_x.head.bias.copy_(bias)
