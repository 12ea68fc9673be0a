"""One epoch of training steps, which can be stopped between two of them."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from ..programs.modules import find_modules
from . import distributed
from .inputs import Inputs
from .interrupt import StopRequest
from .settings import Schedule
from .state import Progress
from .steps.stepper import Stepper

STOP_STEPS = 50  # on GPUs, processes agree to stop after so many steps: it is a synchronization

Batch = dict[str, torch.Tensor]


class EpochTrainer:
    """What takes a pair through the steps of one epoch.

    Args:
        model, guide: the pair, on `device`.
        inputs: the `Inputs` of the pair.
        objective: what is maximized.
        stepper: what takes one step.
        schedule: of the learning rate.
        epochs: number of epochs of the whole run.
        device: where the pair is.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        inputs: Inputs,
        objective: Any,
        stepper: Stepper,
        schedule: Schedule,
        epochs: int,
        device: torch.device,
    ) -> None:
        self.model, self.guide, self.inputs, self.objective = model, guide, inputs, objective
        self.stepper, self.schedule, self.epochs, self.device = stepper, schedule, epochs, device
        self.last: tuple[Batch, int, int] | None = None  # batch, epoch and step of the latest step
        self._stops: Any = 0.0  # how many processes were asked to stop

    @property
    def last_batch(self) -> Batch:
        """The batch of the latest step; there has been one."""
        assert self.last is not None
        return self.last[0]

    def run(self, at: Progress, stop: StopRequest, diverged: Callable[[Batch], Any]) -> bool:
        """Train the rest of the epoch; returns False if it was stopped within.

        Args:
            at: how far the run is; it is updated.
            stop: asked after every step.
            diverged: called with the batch whose loss is not finite; it raises.
        """
        started, steps = time.monotonic(), len(self.inputs)
        for m in find_modules(
            self.model, self.guide
        ):  # one that is frozen whole stays in eval mode
            trained = [p.requires_grad for p in m.parameters()]
            m.train(any(trained) or not trained)
        self.objective.epoch = at.epoch
        for batch, count in self.inputs.epoch(at.epoch, start=at.batch):
            done = (at.epoch + at.batch / steps) / self.epochs
            self.stepper.optimizer.set_rate_factor(self.schedule(done))
            loss, count, stops = self.stepper(batch, count, stop.is_set())
            self.last = batch, at.epoch + 1, at.batch + 1
            if self.device.type == "cpu" and not math.isfinite(loss.item()):
                diverged(batch)
            self._stops = self._stops + stops
            at.total = at.total + loss.double() * count
            at.seen = at.seen + count
            at.batch += 1
            # before the next batch is drawn: it would take from the stream that is saved
            if at.batch < steps and self._stopped(at, stop):
                at.seconds += time.monotonic() - started
                return False
        if self.device.type == "cuda":  # once per epoch; else the time would be that of queueing
            torch.cuda.synchronize(self.device)
        at.seconds += time.monotonic() - started
        return True

    def _stopped(self, at: Progress, stop: StopRequest) -> bool:
        """Whether to stop after this step: of several processes, all do if one was asked to."""
        if distributed.size() == 1:
            return stop.is_set()
        due = self.device.type == "cpu" or at.batch % STOP_STEPS == 0
        return due and float(self._stops) > 0
