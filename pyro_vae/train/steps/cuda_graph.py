"""A training step as one CUDA graph: loss, gradients, clipping and the optimizer in one launch.

A step of a small model on a GPU launches a hundred kernels or more, and each launch takes a few
microseconds. A graph launches them all at once.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from ...programs.contexts import fork_rng, seeded
from .recorded import Batch, RecordedStep, Recording

WARMUP = 3  # steps before the capture: libraries initialize in them, as they must not in a capture

Replay = Callable[[], torch.Tensor]  # trains one step on the static batch, and returns its loss


class GraphedStep:
    """`step(batch)` trains one step and returns the mean loss per data point, a scalar tensor.

    It avoids a host-device synchronization. A graph reads and writes fixed memory: each batch is
    copied into static tensors, and the objective's schedule values and the learning rate are set in
    place. Noise comes from the device's random stream, as it does without a graph. A short last
    batch has a separate graph.

    A batch whose step cannot be recorded takes the plain step. A recording that cannot be captured
    (it draws on the CPU, for instance), or whose graph gives another loss, is replayed without a
    graph; this warns once.

    Args:
        step: a `RecordedStep`.
        optimizer: `AdamW(..., lr=torch.tensor(...), fused=True, capturable=True)`, on the device.
        clip_norm: largest norm of the gradient. Default: no clipping.
    """

    def __init__(
        self,
        step: RecordedStep,
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None = None,
    ) -> None:
        self.step, self.optimizer, self.clip_norm = step, optimizer, clip_norm
        # (static batch, replay) of each recording; None: it could not be captured
        self.graphs: dict[Recording, tuple[Batch, Replay] | None] = {}
        self.warned = False

    def __call__(self, batch: Batch) -> torch.Tensor:
        recording = self.step.recording(batch)
        self.step.update_schedule_values()
        if recording is None:
            return self._train(self.step, batch)
        if recording not in self.graphs:
            self.graphs[recording] = self._capture(recording, batch)
        graph = self.graphs[recording]
        if graph is None:
            return self._train(self.step, batch)
        static, replay = graph
        for name, value in batch.items():
            static[name].copy_(value)
        return replay().clone()  # the next replay overwrites it

    def _train(self, loss_of: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
        """One step of the optimizer on `loss_of(*args)`, which fills the gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = loss_of(*args)
        if self.clip_norm is not None:
            clip_grad_norm_(self._parameters(), self.clip_norm)
        self.optimizer.step()
        return loss

    def _parameters(self) -> list[torch.Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _capture(self, recording: Recording, batch: Batch) -> tuple[Batch, Replay] | None:
        """`(static batch, replay)` of a recording; None if it cannot be captured."""
        static = {name: value.clone() for name, value in batch.items()}
        device = next(iter(batch.values())).device

        def train() -> torch.Tensor:
            return self._train(recording.fill_gradients, static, self.step.schedule_values)

        try:
            with self._unchanged(recording, device):
                replay = capture(train, device)
            losses = []
            for call in (train, replay):
                with self._unchanged(recording, device), seeded(1, device):
                    losses.append(torch.stack([call().clone() for _ in range(2)]))
            if not torch.allclose(losses[0], losses[1], rtol=1e-4, equal_nan=True):
                raise RuntimeError("with the same noise its graph has another loss")
        except RuntimeError as e:
            if not self.warned:
                line = (str(e).strip().splitlines() or ["no reason given"])[0][:300]
                warnings.warn(f"the step runs without a CUDA graph: {line}", stacklevel=4)
            self.warned = True
            return None
        return static, replay

    @contextmanager
    def _unchanged(self, recording: Recording, device: torch.device) -> Iterator[None]:
        """Restore weights, Adam's moments, the program's buffers and the random stream, in place."""
        weights, state = self._parameters(), self.optimizer.state
        values = [p.detach().clone() for p in weights]
        moments = {p: {k: v.clone() for k, v in s.items()} for p, s in state.items()}
        try:
            with fork_rng(device), recording.kept_state():
                yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(weights, values, strict=True):
                    tensor.copy_(value)
                for p, current in state.items():
                    for name, tensor in current.items():
                        if p in moments:
                            tensor.copy_(moments[p][name])
                        else:
                            tensor.zero_()  # it was created within


def can_graph(device: torch.device) -> bool:
    """Whether a training step on this device can be captured as a CUDA graph."""
    return device.type == "cuda"


def capture(function: Replay, device: torch.device) -> Replay:
    """Capture what `function()` does on the device as one CUDA graph.

    Returns:
        `replay()`, which launches the graph and returns the result, in the same memory each time.
    """
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARMUP):
            function()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        result = function()

    def replay() -> torch.Tensor:
        graph.replay()
        return result

    return replay
