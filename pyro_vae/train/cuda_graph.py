"""One CUDA graph a training step, on top of the recorded step. Not measured yet."""

from contextlib import contextmanager

import torch
from torch.nn.utils import clip_grad_norm_

from ..pair import untouched


class CudaGraphStep:
    """`step(batch)`: loss, gradients, clipping and the optimiser as one graph launch.

    Not measured yet: nothing here has run on a GPU. What is tested is the handling of buffers, on a
    CPU with `emulate=True`, where the step itself runs in the graph's place.

    What a graph reads and writes stays where it is: a batch is copied into static inputs, the
    objective's numbers and the learning rate are filled in place. A batch whose step cannot be
    recorded is trained plainly.

    Args:
        step: a `RecordedStep`.
        optimiser: over its parameters, `capturable=True` with a 0-dim tensor `lr` on the GPU
            (`AdamW(..., lr=torch.tensor(1e-3, device=...), fused=True, capturable=True)`); a
            schedule fills that tensor.
        clip_norm: largest norm of the gradient.
        emulate: run the step instead of a graph, for tests.
        warmup: steps before the capture; what they change is put back.
    """

    def __init__(self, step, optimiser, clip_norm=None, emulate=False, warmup=3):
        self.step, self.optimiser, self.clip_norm = step, optimiser, clip_norm
        self.emulate, self.warmup = emulate, warmup
        self.graphs = {}  # {recording: (static batch, replay)}

    def __call__(self, batch):
        """One step of training; the mean loss per datum, 0-dim, its own tensor."""
        recording = self.step.recording(batch)
        if recording is None:
            self.optimiser.zero_grad(set_to_none=True)
            return self._update(self.step.plain(batch))
        self.step.set_scalars()
        if recording not in self.graphs:
            self.graphs[recording] = self._capture(recording, batch)
        static, replay = self.graphs[recording]
        for name, value in batch.items():
            static[name].copy_(value, non_blocking=True)
        return replay().clone()  # the next replay overwrites it

    def _update(self, loss):
        if self.clip_norm is not None:
            parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
            clip_grad_norm_(parameters, self.clip_norm)
        self.optimiser.step()
        return loss

    def _capture(self, recording, batch):
        static = {name: value.clone() for name, value in batch.items()}

        def run():
            self.optimiser.zero_grad(set_to_none=True)
            return self._update(recording.fill_gradients(static, self.step.scalars))

        device = next(iter(batch.values())).device
        with self._unchanged(recording, device):
            if self.emulate:
                for _ in range(self.warmup):
                    run()
                return static, run
            side = torch.cuda.Stream(
                device
            )  # libraries set up their workspaces outside the capture
            side.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(side):
                for _ in range(self.warmup):
                    run()
            torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = run()

        def replay():
            graph.replay()
            return loss

        return static, replay

    @contextmanager
    def _unchanged(self, recording, device):
        """Weights, what the program writes, moments and the random stream, put back in place."""
        weights = [p for group in self.optimiser.param_groups for p in group["params"]]
        moments = {p: {k: v.clone() for k, v in s.items()} for p, s in self.optimiser.state.items()}
        values = [p.detach().clone() for p in weights]
        with untouched(device), recording.kept_state():
            yield
        with torch.no_grad():
            for tensor, value in zip(weights, values, strict=True):
                tensor.copy_(value)
            for p, state in self.optimiser.state.items():
                for name, tensor in state.items():
                    if p in moments:
                        tensor.copy_(moments[p][name])
                    else:
                        tensor.zero_()  # made by the warm-up
