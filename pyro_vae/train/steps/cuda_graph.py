"""A training step as one CUDA graph: loss, gradients, clipping and the optimizer in one launch.

A step of a small model on a GPU launches a hundred kernels or more, and each launch takes a few
microseconds. A graph launches them all at once.
"""

import warnings
from collections.abc import Callable

import torch

from ...programs.contexts import seeded
from .recorded import Batch, RecordedStep, Recording
from .training import Program, WholeStep

WARMUP = 3  # steps before the capture: libraries initialize in them, as they must not in a capture

Replay = Callable[[], torch.Tensor]  # trains one step on the static batch, and returns its loss


class GraphedStep(WholeStep):
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
        self, step: RecordedStep, optimizer: torch.optim.Optimizer, clip_norm: float | None = None
    ) -> None:
        super().__init__(step, optimizer, clip_norm)
        self.warned = False

    def build(self, recording: Recording, batch: Batch) -> Program | None:
        static = {name: value.clone() for name, value in batch.items()}
        device = next(iter(batch.values())).device

        def train() -> torch.Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            loss = recording.fill_gradients(static, self.step.schedule_values)
            self.update(loss)
            return loss

        try:
            with self.restored(recording, device):
                replay = capture(train, device)
            losses = []
            for call in (train, replay):
                with self.restored(recording, device), seeded(1, device):
                    losses.append(torch.stack([call().clone() for _ in range(2)]))
            if not torch.allclose(losses[0], losses[1], rtol=1e-4, equal_nan=True):
                raise RuntimeError("with the same noise its graph has another loss")
        except RuntimeError as e:
            if not self.warned:
                line = (str(e).strip().splitlines() or ["no reason given"])[0][:300]
                warnings.warn(f"the step runs without a CUDA graph: {line}", stacklevel=4)
            self.warned = True
            return None

        def program(batch: Batch) -> torch.Tensor:
            for name, value in batch.items():
                static[name].copy_(value)
            return replay().clone()  # the next replay overwrites it

        return program


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
