"""One training step of a pair: loss, gradients, clipping and Adam, on one device or several."""

from contextlib import contextmanager
from functools import partial

import pyro
import torch
from torch.nn.parameter import is_lazy
from torch.nn.utils import clip_grad_norm_

from ..._torch_internals import BatchNorm
from ...errors import UserError
from ...programs.calling import as_keyword_program
from ...programs.contexts import fork_rng
from ...programs.modules import find_modules
from .. import distributed
from .cuda_graph import GraphedStep, can_graph
from .recorded import PlainStep, RecordedStep, choose_backend, leaf_parameters


class Stepper:
    """A pair's trained parameters, their optimizer, and what takes them one step further.

    A batch of one row has no variance to normalize by: in its step, every `BatchNorm` uses its
    running statistics, and leaves them.

    Args:
        pair: `(model, guide)`, on `device`.
        objective: what is minimized.
        settings: those of `fit`; `settings["compile"]` becomes the backend that is used.
        steps: how many the whole run has.
        first: a batch as the objective takes it.
    """

    def __init__(self, pair, objective, settings, compile, steps, first, device):
        self.pair, self.objective, self.device = pair, objective, device
        self.programs, self.clip_norm = tuple(map(as_keyword_program, pair)), settings["clip_norm"]
        self.processes = distributed.size()
        found = find_modules(*pair)
        self.norms = [
            m for m in dict.fromkeys(m for p in found for m in p.modules())
            if isinstance(m, BatchNorm)
        ]  # fmt: skip
        rows = _rows(first)
        if self.norms and rows == 1:
            raise UserError(
                "BatchNorm needs a batch of two rows or more: set batch_size= to 2 or more"
            )
        # each once: a guide made of parts of its model has them too
        owned = [*dict.fromkeys(p for m in found for p in m.parameters())]
        self.free = self._outside(owned, first)
        self.parameters = [p for p in owned if p.requires_grad] + self.free
        if not self.parameters:
            raise UserError("the pair has no parameters to train: requires_grad is off everywhere")
        backend = settings["compile"] = self._backend(compile, steps, rows)
        if backend == "plain":
            self.step = PlainStep(objective, pair)
        else:
            self.step = RecordedStep(objective, pair, backend, rows)
        # one graph holds the whole step, but not the exchange of gradients between processes
        graphed = can_graph(device) and self.processes == 1 and backend != "plain"
        lr = settings["lr"]
        if graphed:  # a fused Adam reads a rate in float32, whatever the parameters are
            lr = torch.tensor(lr, dtype=torch.float32, device=device)
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=lr,
            weight_decay=settings["weight_decay"], fused=True, capturable=graphed,
        )  # fmt: skip
        self.graphed = GraphedStep(self.step, self.optimizer, self.clip_norm) if graphed else None

    def __call__(self, batch, count, stop=False):
        """Train one step.

        Args:
            batch: as the objective takes it.
            count: how many data of the whole batch this process has.
            stop: whether this process was asked to stop.

        Returns:
            `(mean loss per data point, count, stop)`, of all processes together.
        """
        with self._one_row_allowed(batch):
            if self.graphed:
                return self.graphed(batch), count, stop
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.step(batch)
        if self.processes > 1:
            loss, count, stop = distributed.all_reduce_gradients(self.parameters, loss, count, stop)
        return loss, count, stop

    def update(self):
        """Clip the gradients and let Adam take its step; a graph has done so already."""
        if self.graphed:
            return
        if self.clip_norm is not None:
            clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimizer.step()

    @property
    def lr(self):
        """Adam's present rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    def set_lr(self, value):
        """Set Adam's rate, in place where a CUDA graph reads it."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value

    def is_finite(self, batch):
        """Whether the trained parameters are finite, and the loss that they give on a batch.

        Args:
            batch: as the objective takes it; None looks at the parameters alone.
        """
        if not torch.stack([p.detach().isfinite().all() for p in self.parameters]).all():
            return False
        if batch is None:
            return True
        with self._preliminary(batch):
            loss = self.objective.differentiable_loss(*self.programs, **batch)
            return bool(torch.as_tensor(loss).isfinite().all())

    def clear_gradients(self):
        for p in self.parameters:
            p.grad = None

    def load_optimizer(self, state):
        """Adam's moments from a checkpoint; what belongs to the device stays."""
        (group,) = self.optimizer.param_groups
        own = {name: group[name] for name in ("lr", "capturable")}
        self.optimizer.load_state_dict(state)
        self.optimizer.param_groups[0].update(own)  # the rate is set before each step
        for p, moments in self.optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                if moments[name].shape != p.shape:
                    raise ValueError(f"{name} has shape {list(moments[name].shape)}")

    def _outside(self, owned, batch):
        """The parameters that a user's program keeps outside of modules (`pyro.param`)."""
        with self._preliminary(batch), pyro.validation_enabled(False):
            loss_of = partial(self.objective.differentiable_loss, *self.programs, **batch)
            try:
                leaves = leaf_parameters(loss_of)
            except ValueError as e:
                if "cannot be differentiated" not in str(e):  # Pyro's words where nothing trains
                    raise
                leaves = []
        ids = {id(p) for p in owned}
        return [p for p in leaves if id(p) not in ids]

    def _backend(self, compile, steps, rows):
        flops = 6 * rows * sum(p.numel() for p in self.parameters)
        cuda = self.device.type == "cuda"
        return distributed.on_rank_zero(lambda: choose_backend(compile, steps, flops, cuda))

    @contextmanager
    def _preliminary(self, batch):
        """Within, a run of the pair is no training step: it leaves buffers and random streams alone."""
        buffers = [b for m in find_modules(*self.pair) for b in m.buffers() if not is_lazy(b)]
        values = [b.detach().clone() for b in buffers]
        try:
            with self._one_row_allowed(batch), fork_rng(self.device):
                yield
        finally:
            with torch.no_grad():
                for buffer, value in zip(buffers, values, strict=True):
                    buffer.copy_(value)

    @contextmanager
    def _one_row_allowed(self, batch):
        was = [m for m in self.norms if m.training] if self.norms and _rows(batch) == 1 else []
        for m in was:
            m.training = False
        try:
            yield
        finally:
            for m in was:
                m.training = True


def _rows(batch):
    return len(next(iter(batch.values())))
