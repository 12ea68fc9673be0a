"""The whole runs of a clusterer, as restarts of this library."""

from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        """Rows held out, which choose the run, and training rows, by which runs are compared."""
        data = self.training.data(self.estimator._units)
        few = replace(data, train=data.train[:MAX_CLUSTERED])
        return few.map_splits(lambda split: Split(split.x))

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
