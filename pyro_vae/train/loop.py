"""The training loop: what takes a run from one epoch to the next."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pyro
import torch

from ..errors import UserError
from ..evaluate.scale_bounds import warn_at_scale_bounds
from ..programs.modules import find_modules
from . import distributed, state
from .callbacks import Callback, Callbacks
from .display import ProgressBar
from .divergence import describe_divergence
from .epoch import EpochTrainer
from .inputs import Inputs
from .interrupt import CALLBACK, INTERRUPTED, StopRequest, stop_request
from .optimizer import OptimizerFactory
from .precision import matmul_precision
from .result import Run
from .saving import Saving
from .settings import SCHEDULES, Schedule
from .steps.recorded import RecordedStep
from .steps.stepper import Stepper
from .validation import Validation
from .weights import KeptWeights, Weights, broadcast_weights, restore

CHECKPOINT_SECONDS = 10


@dataclass(frozen=True)
class UserFunctions:
    """The functions that a user passes to `fit`.

    Args:
        optimizer: makes the optimizer. Default: AdamW.
        schedule: of the learning rate.
        callbacks: called during the run.
    """

    optimizer: OptimizerFactory | None = None
    schedule: Schedule = SCHEDULES["constant"]
    callbacks: list[Callback] = field(default_factory=list)


class Loop:
    """A run: its pair, its progress, and the parts that step, validate and save.

    Args:
        model, guide: the pair, on `device`.
        inputs: the `Inputs` of the pair.
        objective: what is maximized.
        settings: those of `fit` that a resumed run must share.
        functions: the optimizer, the schedule and the callbacks.
        compile: as in `fit`.
        saving: the run's folder, or none.
        progress: whether to show a progress bar.
        device: where the pair is.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        inputs: Inputs,
        objective: Any,
        settings: dict[str, Any],
        functions: UserFunctions,
        compile: bool | str,
        saving: Saving,
        progress: bool,
        device: torch.device,
    ) -> None:
        self.model, self.guide, self.inputs, self.objective = model, guide, inputs, objective
        self.settings, self.compile, self.saving, self.device = settings, compile, saving, device
        self.functions, self.callbacks = functions, Callbacks(functions.callbacks, device)
        self.progress = progress and distributed.rank() == 0
        self.epochs, self.seed = settings["epochs"], settings["seed"]
        self.validation = Validation(model, guide, inputs, self.seed, settings["patience"])
        self.at = state.Progress()
        self.history: list[dict[str, Any]] = []
        self.good: Weights | None = None  # the latest weights that were checked
        self.result = Run(model, guide, self.history, out=saving.folder_path)

    def recorded(self) -> dict[str, Any]:
        """The settings as `config.json` records them."""
        return {
            **self.settings,
            "objective": self.objective.describe(),
            "observed": list(self.inputs.observed),
        }

    def make_stepper(self, first: dict[str, torch.Tensor], broadcast: bool = True) -> None:
        """Make the optimizer and what takes a step.

        Args:
            first: a batch as the objective takes it.
            broadcast: whether every process takes the weights of rank 0.
        """
        pair, factory = (self.model, self.guide), self.functions.optimizer
        steps = self.epochs * len(self.inputs)
        self.stepper = Stepper(
            pair, self.objective, self.settings, self.compile, steps, first, self.device, factory
        )
        self.settings["optimizer"] = None if factory is None else self.stepper.optimizer.describe()
        self.trainer = EpochTrainer(
            *pair, self.inputs, self.objective, self.stepper,
            self.functions.schedule, self.epochs, self.device,
        )  # fmt: skip
        if broadcast:
            broadcast_weights(*pair, self.stepper.free)

    # ---------------------------------------------------------------- train

    def train(self) -> Run:
        """Train until done, out of patience, or asked to stop; returns the run."""
        bar = ProgressBar(self.epochs, self.at.epoch, self.progress)
        if isinstance(self.stepper.training.step, RecordedStep):
            self.stepper.training.step.on_status = bar.show_status
        limit, alone = self.settings["max_time"], distributed.size() == 1
        try:
            with (
                bar,
                stop_request(limit, alone) as stop,
                pyro.validation_enabled(False),
                _without_warnings_of_pyro(),
            ):
                self.callbacks.start(self._current())
                self.result.stop_reason = self._train_epochs(stop, bar)
                self.save(final=True)
            self.result.interrupted = self.result.stop_reason == INTERRUPTED
            self._finish()
        finally:
            self.objective.epoch = math.inf  # outside of training, warm-up is over
            self.stepper.clear_gradients()
            for m in find_modules(self.model, self.guide):
                m.eval()
            self.callbacks.end(self._current())
        self.saving.raise_if_unsaved()
        stop.end_process()
        return self.result

    def _current(self) -> Run:
        """The run as it is now."""
        self.result.history, best = self.history, self.at.best_epoch
        self.result.best_epoch = self.at.epoch if best is None else best
        return self.result

    def _finish(self) -> None:
        """Keep the last weights; restore those of the best epoch, unless the run is interrupted."""
        assert self.good is not None
        kept = KeptWeights(self.good, self.validation.best, self.stepper.free)
        self.result.weights = kept
        if self.result.interrupted:
            kept.used = "last"
            return
        self.result.use("best")
        if distributed.rank() == 0 and self.trainer.last is not None:
            warn_at_scale_bounds(
                self.model, self.guide, self.inputs.for_pair(self.trainer.last_batch)
            )

    def _train_epochs(self, stop: StopRequest, bar: ProgressBar) -> str:
        """Train epoch by epoch; returns why it ended: see `Run.stop_reason`."""
        saved = time.monotonic()
        while self.at.epoch < self.epochs:
            if self._validates(self.at.epoch) and self.validation.out_of_patience(self.at):
                return "patience"
            with matmul_precision(self.settings["precision"]):
                complete = self.trainer.run(self.at, stop, self._loss_not_finite)
            if not complete:
                return self._stop_reason(stop)
            self._end_epoch()
            bar.show_epoch(self.history[-1])
            asked = self._call_callbacks()
            due = time.monotonic() - saved > CHECKPOINT_SECONDS
            due, stopped = distributed.any_process(due, stop.is_set())
            if due:
                self.save()
                saved = time.monotonic()
            if self.at.epoch < self.epochs and (stopped or asked):
                return self._stop_reason(stop) if stopped else CALLBACK
        return "epochs"

    def _call_callbacks(self) -> bool:
        try:
            return self.callbacks.epoch(self._current(), self.history[-1])
        except Exception:
            self.save(final=True)  # the error is not the training's: no step is lost
            raise

    @staticmethod
    def _stop_reason(stop: StopRequest) -> str:
        """Why the processes stop: Ctrl-C in any of them comes before a time limit."""
        reasons = [r for r in distributed.gathered(stop.reason) if r is not None]
        return INTERRUPTED if INTERRUPTED in reasons else reasons[0]

    def _end_epoch(self) -> None:
        """Validate, and record the epoch's numbers."""
        at = self.at
        at.seen = int(at.seen)
        loss = float(at.total) / at.seen
        if not math.isfinite(loss):  # on a GPU it is checked here, so that no step synchronizes
            self._loss_not_finite(self.trainer.last_batch)
        row = {"epoch": at.epoch + 1, "loss": loss, "seconds": round(at.seconds, 3)}
        row["lr"] = self.stepper.optimizer.lr
        row["steps"] = len(self.inputs)
        row["data_per_second"] = round(at.seen / max(at.seconds, 1e-9))
        # running statistics differ between processes, and other machines may round otherwise
        broadcast_weights(self.model, self.guide, self.stepper.free)
        if self._validates(at.epoch + 1):
            row["elbo"] = self.validation.elbo()
            if not math.isfinite(row["elbo"]):
                batch = self.validation.worst_batch or next(self.inputs.valid())
                self._fail("the validation ELBO is not finite", batch)
            self.validation.keep_if_best(row["elbo"], at, self.stepper.free)
        self.history.append(row)
        at.next_epoch()
        self.saving.write_metrics(self.history)

    def _validates(self, epoch: int) -> bool:
        """Whether the validation split is evaluated after an epoch."""
        due = epoch % self.settings["validate_every"] == 0 or epoch == self.epochs
        return self.validation.enabled and due

    # ---------------------------------------------------------------- save and restore

    def save(self, final: bool = False) -> None:
        """Check the weights, keep a copy of them, and write the checkpoint."""
        if self.trainer.last is not None:
            # no later step has checked what the latest one left; validation, after an epoch, has
            validated = self._validates(self.at.epoch) and self.at.batch == 0
            finite = self.stepper.is_finite(None if validated else self.trainer.last_batch)
            if not all(distributed.gathered(finite)):
                self._fail("the loss is not finite", self.trainer.last_batch, after=True)
        broadcast_weights(self.model, self.guide, self.stepper.free)
        captured = state.capture(self)
        self.good = captured["weights"]
        self.saving.write_checkpoint(captured, final)

    def _restore(self, weights: Weights) -> None:
        restore(self.model, self.guide, self.stepper.free, weights, "the best epoch")

    def _loss_not_finite(self, batch: dict[str, torch.Tensor]) -> NoReturn:
        self._fail("the loss is not finite", batch)

    def _fail(self, what: str, batch: dict[str, torch.Tensor], after: bool = False) -> NoReturn:
        """Put the last good weights into the modules; raise with the site, the epoch and the step."""
        assert self.trainer.last is not None
        _, epoch, step = self.trainer.last
        where, why = describe_divergence(self.model, self.guide, self.inputs, batch)
        if self.good is not None:
            self._restore(self.validation.best or self.good)
        saved = (
            f"; the last good checkpoint is {self.saving.path}" if self.saving.has_progress else ""
        )
        when = f"{'after ' if after else ''}epoch {epoch}, step {step}"
        raise UserError(f"{what} {where}, {when}{saved}; {why}")


@contextmanager
def _without_warnings_of_pyro() -> Iterator[None]:
    """Pyro warns of a loss that is not finite; here it is an error that names the site."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Encountered (NaN|[+-]inf)", UserWarning)
        yield
