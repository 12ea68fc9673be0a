"""The arrays of a training run, and their splits."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..data import Data, Split
from ..data.dataset import AnyCondition
from .rows import DenseRows, Rows
from .units import Units

VALIDATION = 5, 2000  # the fewest and the most rows held out


class HideValues:
    """A condition that hides values of x, as NaN: in a quarter of the rows, a random part of them.

    An encoder that is trained so knows the posterior of z given any part of a row. Without it, rows
    with values missing where the training rows have none get a posterior that nothing has trained.

    Args:
        seed: of what is hidden.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def __call__(self, x: torch.Tensor, y: torch.Tensor | None) -> tuple[torch.Tensor, None]:
        """`(x, None)`, x anew with other values hidden at every call."""
        if x.device not in self.generators:
            self.generators[x.device] = torch.Generator(x.device).manual_seed(self.seed)
        options: dict[str, Any] = {"generator": self.generators[x.device], "device": x.device}
        fraction = 4 * torch.rand(len(x), 1, **options) - 3  # of the values; below zero: none
        hidden = torch.rand(x.shape, **options) < fraction
        return torch.where(hidden, math.nan, x), None


@dataclass(frozen=True, eq=False)
class Training:
    """The arrays of a training run.

    Args:
        rows: the table.
        y: `[N]` class numbers, -1 for a row without a label.
        c: `[N, C]` covariates, as the model sees them.
        weight: `[N]`; rows of weight zero are left out.
        held_out: numbers of the rows held out for validation. Default: none.
        code: `[N, L]`, at which the start of a clusterer puts z.
        hidden: what training hides of the rows. Default: nothing.
    """

    rows: Rows
    y: torch.Tensor | None = None
    c: torch.Tensor | None = None
    weight: np.ndarray | None = None
    held_out: np.ndarray | None = None
    code: np.ndarray | None = None
    hidden: HideValues | None = None

    @property
    def number(self) -> np.ndarray:
        """The numbers of the rows that have a weight."""
        number = np.arange(len(self.rows))
        return number if self.weight is None else number[self.weight > 0]

    @property
    def labelled_fraction(self) -> float:
        """The weight of the rows with a label, by the weight of all rows to train on."""
        assert self.y is not None
        kept = self.kept
        labeled = (self.y.numpy() >= 0)[kept]
        weight = np.ones(len(kept)) if self.weight is None else self.weight[kept]
        return float(np.average(labeled, weights=weight))

    @property
    def kept(self) -> np.ndarray:
        """The numbers of the rows to train on."""
        return self.number if self.held_out is None else np.setdiff1d(self.number, self.held_out)

    @property
    def observed(self) -> list[str]:
        """The names of the arrays that the pair takes."""
        arrays = {"c": self.c, "code": self.code, "weight": self.weight}
        return ["x", *(name for name, value in arrays.items() if value is not None)]

    def hold_out(
        self, fraction: float, seed: int, candidates: np.ndarray | None = None
    ) -> "Training":
        """The same arrays, some rows held out for validation: at least 5, or none.

        Args:
            fraction: of the rows.
            seed: of the choice.
            candidates: numbers of the rows to choose from. Default: all.
        """
        number = self.number
        candidates = number if candidates is None else np.intersect1d(candidates, number)
        count = min(int(fraction * len(number)), VALIDATION[1], len(candidates))
        count = count if count >= VALIDATION[0] else 0
        held_out = np.random.RandomState(seed).permutation(candidates)[:count]
        return replace(self, held_out=np.sort(held_out))

    def data(self, units: Units) -> Data:
        """The training and validation splits, in the units of a model."""
        train, valid = self._split(self.kept, units), None
        if self.held_out is not None and len(self.held_out):
            valid = self._split(self.held_out, units)
        condition: AnyCondition | None = self.hidden
        if self.rows.is_sparse:
            condition = DenseRows(self.rows, units, self.c)
        missing = self.hidden is not None or any(
            bool(part.x.isnan().any()) for part in (train, valid) if part is not None
        )
        return Data(train, valid, name="X", condition=condition, missing=missing)

    def _split(self, index: np.ndarray, units: Units) -> Split:
        """Rows by number; of a sparse table, the numbers themselves, see `DenseRows`."""
        dtype, is_sparse = self.rows.dtype, self.rows.is_sparse
        x = torch.from_numpy(index)[:, None] if is_sparse else units.to_model(self.rows[index])
        arrays = {"weight": self.weight, "code": self.code}
        others = {
            name: torch.from_numpy(value[index]).to(dtype)
            for name, value in arrays.items()
            if value is not None
        }
        y, c = (None if value is None else value[index] for value in (self.y, self.c))
        return Split(x.to(dtype), y, None if is_sparse else c, others)
