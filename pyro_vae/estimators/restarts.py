"""The whole runs of a clusterer, as restarts of this library."""

from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn

from ..data import Data, Split
from ..methods.configured import threads_for
from ..methods.restarts import MAX_CLUSTERED
from ..methods.run import Run
from .training import Training
from .weighting import Weighted

if TYPE_CHECKING:
    from .clusterer import GMVAEClusterer

STEP_SECONDS = 7e-3  # of a small step with full covariances, in float64


class ClustererRuns:
    """Whole runs of a clusterer on one table, as `methods.restarts.fit_restarts` trains them.

    A worker process receives it pickled.

    Args:
        estimator: whose parameters and units the runs have.
        training: the table; the rows held out are those of every run.
        seed: of the first run.
        count: number of runs.
    """

    def __init__(
        self, estimator: "GMVAEClusterer", training: Training, seed: int, count: int
    ) -> None:
        self.estimator, self.training, self.seed, self.count = estimator, training, seed, count

    @property
    def config(self) -> dict[str, Any]:
        """The settings that restarts read."""
        estimator = self.estimator
        batch_size, steps = estimator._steps(len(self.training.kept))
        return {
            "method": type(estimator).__name__,
            "seed": self.seed,
            "restarts": self.count,
            "batch_size": batch_size,
            "epochs": estimator._epochs(steps),
            "initialize.epochs": estimator._start_epochs(self.training),
            "step_seconds": STEP_SECONDS,
        }

    @cached_property
    def data(self) -> Data:
        """Rows held out, which choose the run, and training rows, by which runs are compared.

        Training rows with weights are repeated and left out in proportion to them.
        """
        data = self.training.data(self.estimator._units)
        weight = data.train.others.get("weight")
        few = slice(MAX_CLUSTERED) if weight is None else rows_by_weight(weight, MAX_CLUSTERED)
        data = replace(data, train=data.train[few])
        return data.map_splits(lambda split: Split(split.x))

    @cached_property
    def valid_weight(self) -> torch.Tensor | None:
        """`[N]` weights of the rows held out; None without."""
        training = self.training
        if training.weight is None or training.held_out is None:
            return None
        return torch.from_numpy(training.weight[training.held_out])

    @property
    def model(self) -> nn.Module:
        """A model with random weights."""
        return self._build()[0]

    def with_seed(self, seed: int, max_time: float | None = None) -> "ClustererRuns":
        """One run with another seed; it has no time limit."""
        return ClustererRuns(self.estimator, self.training, seed, 1)

    def threads(self) -> AbstractContextManager[None]:
        """Within, one thread for small batches."""
        batch_size = self.estimator._steps(len(self.training.kept))[0]
        return threads_for(batch_size * self.training.rows.table.shape[1])

    def _build(self) -> tuple[nn.Module, nn.Module]:
        return self.estimator._build_pair(self.training.rows, self.seed)

    def new_pair(self) -> tuple[nn.Module, nn.Module]:
        """Model and guide as they are trained: with rows' weights, if they have any."""
        model, guide = self._build()
        if self.training.weight is None:
            return model, guide
        return Weighted(model), Weighted(guide)

    def fit(
        self,
        out: Path | str | None = None,
        resume: bool = False,
        device: str | None = None,
        progress: bool = True,
        *,
        callbacks: Any = (),
    ) -> Run:
        """One whole run; see `methods.Method.fit`."""
        pair, config = self._build(), self.config
        with self.threads():
            self.estimator._start_mixture(self.training, self.seed, pair, device, progress)
            run: Run = self.estimator._train(
                self.training, self.seed, pair, device=device, out=out, progress=progress,
                callbacks=callbacks,
            )  # fmt: skip
        result = {**vars(run), "data": self.data, "config": config}
        return Run(**{**result, "model": pair[0], "guide": pair[1]})


def rows_by_weight(weight: torch.Tensor, size: int) -> torch.Tensor:
    """The numbers of `size` rows, or of as many as there are, each as often as its weight has it.

    Row n is repeated `m w_n / sum(w)` times, up to rounding, for m rows: a systematic sample.

    Args:
        weight: `[N]`, not all zero.
        size: the most rows.

    Example:
        >>> import torch
        >>> from pyro_vae.estimators.restarts import rows_by_weight
        >>> rows_by_weight(torch.tensor([2.0, 1.0, 0.0, 1.0]), 8)
        tensor([0, 0, 1, 3])
    """
    count = min(size, len(weight))
    cumulative = weight.double().cumsum(0)
    positions = (torch.arange(count) + 0.5) / count * cumulative[-1]
    return torch.searchsorted(cumulative, positions)
