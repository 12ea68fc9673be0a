"""What `fit` returns."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ..errors import UserError, unknown_name_error
from .weights import KeptWeights

WEIGHTS = ("best", "last")


@dataclass
class Run:
    """What `fit` returns: the trained pair and the history of its training.

    Args:
        model, guide: the pair; the modules that were passed in.
        history: one dict per epoch: `epoch`, `loss` (training, nats per data point), `elbo`
            (validation, beta = 1), `steps`, `lr`, `seconds`, `data_per_second`. Loss and ELBO of
            standardized data are of the standardized values; `evaluate` has the original units.
        best_epoch: the epoch that validation chose, whose weights the modules hold after `fit`;
            without validation, the last one. `epoch` is the one whose weights they hold now.
        out: the run folder.
        interrupted: whether Ctrl-C ended it. The modules then hold the last weights.
        stop_reason: why it ended: `epochs` (all are trained), `patience`, `max_time`, `callback` or
            `interrupted`. None for a run that has not ended, or whose folder does not say.
        weights: those of the best epoch and of the last step; see `use`.
        initialization: what the initialization records; see `MixtureInitialization`. None: nothing.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((3,), 2, network=pv.conditionals.MLP((8,)))
        >>> run = pv.fit(model, pv.guides.Guide(model), torch.ones(20, 3), 2, progress=False)
        >>> run.stop_reason, run.best_epoch, len(run.history)
        ('epochs', 2, 2)
    """

    model: Any
    guide: Any
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None
    out: Path | None = None
    interrupted: bool = False
    stop_reason: str | None = None
    weights: KeptWeights | None = field(default=None, repr=False, compare=False)
    initialization: dict[str, Any] | None = None

    @property
    def epoch(self) -> int | None:
        """The epoch whose weights the modules hold: the best one, or the last; see `use`."""
        is_last = self.interrupted if self.weights is None else self.weights.used == "last"
        return len(self.history) if is_last else self.best_epoch

    def use(self, weights: str) -> Self:
        """Put the best or the last weights into the modules; returns the run.

        Example:
            >>> import torch, pyro_vae as pv
            >>> data = pv.data.from_arrays(torch.randn(50, 3), valid=10, test=0)
            >>> model = pv.models.VAE((3,), 2, likelihood="normal")
            >>> run = pv.fit(model, pv.guides.Guide(model), data, epochs=3, lr=0.1, progress=False)
            >>> run = run.use("last")  # of epoch 3
            >>> run = run.use("best")  # of epoch `run.best_epoch`, as after `fit`

        Args:
            weights: `best`, of the epoch that validation chose; without validation, the last ones.
                `last`, of the last training step.

        Raises:
            UserError: another name, or a run that has not ended.
        """
        if weights not in WEIGHTS:
            raise unknown_name_error("choice of weights", weights, WEIGHTS)
        if self.weights is None:
            raise UserError("this run keeps no weights: it has not ended")
        self.weights.restore(self.model, self.guide, weights)
        return self
