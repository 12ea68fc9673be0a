"""A training step as one CUDA graph: loss, gradients, clipping and the optimizer in one launch.

A small model on a GPU waits for its launches, a few microseconds for each of a hundred kernels or
more. A graph launches them at once.
"""

import warnings
from contextlib import contextmanager

import torch
from torch.nn.utils import clip_grad_norm_

from ...programs.contexts import fork_rng, seeded

WARMUP = 3  # steps before the capture, in which libraries set up what they must not set up in it


class GraphedStep:
    """`step(batch)` trains a step and returns the mean loss per data point, 0-dim, without a host sync.

    What a graph reads and writes stays where it is: a batch is copied into tensors of its own, the
    objective's numbers and the learning rate are filled in place. Noise comes from the device's
    stream, as it does without a graph. The short last batch has a graph of its own.

    A batch whose step cannot be recorded is trained plainly; one whose recording cannot be captured
    (it draws on the processor, say), or trains otherwise than without a graph, by its recording,
    with one warning.

    Args:
        step: a `RecordedStep`.
        optimizer: `AdamW(..., lr=torch.tensor(...), fused=True, capturable=True)`, on the device.
        clip_norm: largest norm of the gradient; None does not clip.
    """

    def __init__(self, step, optimizer, clip_norm=None):
        self.step, self.optimizer, self.clip_norm = step, optimizer, clip_norm
        self.graphs, self.warned = {}, False  # {recording: (static batch, replay), or None}

    def __call__(self, batch):
        recording = self.step.recording(batch)
        self.step.update_schedule_values()
        if recording is not None and recording not in self.graphs:
            self.graphs[recording] = self._capture(recording, batch)
        if self.graphs.get(recording) is None:
            return self._train(self.step, batch)
        static, replay = self.graphs[recording]
        for name, value in batch.items():
            static[name].copy_(value)
        return replay().clone()  # the next replay overwrites it

    def _train(self, loss_of, *args):
        self.optimizer.zero_grad(set_to_none=True)
        loss = loss_of(*args)
        if self.clip_norm is not None:
            clip_grad_norm_(self._parameters(), self.clip_norm)
        self.optimizer.step()
        return loss

    def _parameters(self):
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _capture(self, recording, batch):
        """`(static batch, replay)` of a recording, or None where it cannot be had."""
        static = {name: value.clone() for name, value in batch.items()}
        device = next(iter(batch.values())).device

        def train():
            return self._train(recording.fill_gradients, static, self.step.schedule_values)

        try:
            with self._unchanged(recording, device):
                replay = capture(train, device)
            losses = []
            for call in (train, replay):
                with self._unchanged(recording, device), seeded(1, device):
                    losses.append(torch.stack([call().clone() for _ in range(2)]))
            if not torch.allclose(*losses, rtol=1e-4, equal_nan=True):
                raise RuntimeError("with the same noise its graph has another loss")
        except RuntimeError as e:
            if not self.warned:
                line = (str(e).strip().splitlines() or ["no reason given"])[0][:300]
                warnings.warn(f"the step runs without a CUDA graph: {line}", stacklevel=4)
            self.warned = True
            return None
        return static, replay

    @contextmanager
    def _unchanged(self, recording, device):
        """Weights, moments, what the program writes and the random stream, put back in place."""
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
                for p, found in state.items():
                    for name, tensor in found.items():
                        if p in moments:
                            tensor.copy_(moments[p][name])
                        else:
                            tensor.zero_()  # it was made within


def can_graph(device):
    """Whether steps on a device can be captured."""
    return device.type == "cuda"


def capture(function, device):
    """`replay()`: what `function()` does on the device, and its result, as one graph."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARMUP):
            function()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        result = function()

    def replay():
        graph.replay()
        return result

    return replay
