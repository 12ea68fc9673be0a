"""The arrays of a training run, and their splits."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..data import Data, Split
from .rows import DenseRows, Rows
from .units import Units

VALIDATION = 5, 2000  # the fewest and the most rows held out


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
    """

    rows: Rows
    y: torch.Tensor | None = None
    c: torch.Tensor | None = None
    weight: np.ndarray | None = None
    held_out: np.ndarray | None = None
    code: np.ndarray | None = None

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
        condition = DenseRows(self.rows, units, self.c) if self.rows.is_sparse else None
        missing = any(bool(part.x.isnan().any()) for part in (train, valid) if part is not None)
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
