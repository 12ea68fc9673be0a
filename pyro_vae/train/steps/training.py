"""One training step: loss, gradients, clipping and the optimizer, in parts or in one program."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.nn.utils import clip_grad_norm_

from ...programs.contexts import fork_rng, values_kept
from .recorded import Batch, PlainStep, RecordedStep, Recording

Program = Callable[[Batch], torch.Tensor]  # trains one step on a batch, and returns its loss


class TrainingStep:
    """`training_step(batch)` trains one step and returns the mean loss per data point, a scalar tensor.

    Several processes exchange their gradients between `fill_gradients` and `update`. On a CPU, a step
    whose loss is not finite changes no weight. On a GPU that would need a host-device
    synchronization.

    Args:
        step: computes loss and gradients.
        optimizer: of the parameters that are trained.
        clip_norm: largest norm of the gradient. Default: no clipping.
    """

    def __init__(
        self,
        step: PlainStep | RecordedStep,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None = None,
    ) -> None:
        self.step, self.optimizer, self.clip_norm = step, optimizer, clip_norm

    def __call__(self, batch: Batch) -> torch.Tensor:
        loss = self.fill_gradients(batch)
        self.update(loss)
        return loss

    @property
    def parameters(self) -> list[torch.Tensor]:
        """The parameters of the optimizer."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def fill_gradients(self, batch: Batch) -> torch.Tensor:
        """Set the gradients of the mean loss, and return the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        return self.step(batch)

    def update(self, loss: torch.Tensor) -> None:
        """Clip the gradients, and take a step of the optimizer."""
        if loss.device.type == "cpu" and not math.isfinite(loss.item()):
            return
        if self.clip_norm is not None:
            clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()


class WholeStep(TrainingStep):
    """A training step in one program: a `CompiledStep` or a `GraphedStep`.

    Every recording has a separate program. A batch without a program is trained in parts, as
    `TrainingStep` does it.

    Args:
        step: records loss and gradients.
        optimizer: AdamW of the parameters that are trained.
        clip_norm: largest norm of the gradient. Default: no clipping.
    """

    step: RecordedStep

    def __init__(
        self, step: RecordedStep, optimizer: torch.optim.Optimizer, clip_norm: float | None = None
    ) -> None:
        super().__init__(step, optimizer, clip_norm)
        self.programs: dict[Recording, Program | None] = {}

    def __call__(self, batch: Batch) -> torch.Tensor:
        recording = self.step.recording(batch)
        if recording is None:
            return super().__call__(batch)
        if recording not in self.programs:
            self.programs[recording] = self.build(recording, batch)
        program = self.programs[recording]
        if program is None:
            return super().__call__(batch)
        self.step.update_schedule_values()
        return program(batch)

    def build(self, recording: Recording, batch: Batch) -> Program | None:
        """The program of a recording; None if there is none."""
        raise NotImplementedError

    @contextmanager
    def restored(self, recording: Recording, device: torch.device) -> Iterator[None]:
        """Restore weights, Adam's state, the program's buffers and the random stream, in place."""
        weights, state = self.parameters, self.optimizer.state
        before = {p: {k: v.clone() for k, v in s.items()} for p, s in state.items()}
        try:
            with values_kept(weights), fork_rng(device), recording.kept_state():
                yield
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                for p, current in state.items():
                    for name, tensor in current.items():
                        if p in before:
                            tensor.copy_(before[p][name])
                        else:
                            tensor.zero_()  # it was created within
