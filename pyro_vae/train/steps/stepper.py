"""The training steps of a run: its parameters, their optimizer, and the way a step is computed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyro
import torch

from ..._pyro_internals import stored_parameters
from ..._torch_internals import BatchNorm
from ...errors import UserError
from ...objectives import Objective
from ...programs.backends import Work, choose_backend, measure_work
from ...programs.calling import as_keyword_program
from ...programs.contexts import fork_rng
from ...programs.modules import find_modules
from ...programs.python_state import PythonState
from .. import distributed
from ..optimizer import OptimizerFactory, RunOptimizer
from .compiled import DTYPES, CompiledStep
from .cuda_graph import GraphedStep, can_graph
from .recorded import Batch, PlainStep, RecordedStep, leaf_parameters
from .training import TrainingStep


class Stepper:
    """Trains a pair step by step: its parameters, their optimizer, and the way a step is computed.

    A batch of one row has no variance to normalize by: in its step, every `BatchNorm` uses its
    running statistics and does not change them.

    Args:
        pair: `(model, guide)`, on `device`.
        objective: what is minimized.
        settings: those of `fit`; `settings["compile"]` becomes the backend that is used.
        compile: as in `fit`.
        steps: number of steps of the whole run.
        first: a batch as the objective takes it.
        device: where the pair is.
        optimizer: makes the optimizer of the parameters. Default: AdamW.

    Attributes:
        free: parameters outside of modules (`pyro.param`).
        parameters: all that the optimizer has. A frozen one is left as it is, and is trained from
            the step on in which it has `requires_grad`.
        optimizer: their `RunOptimizer`.

    Raises:
        UserError: the pair has no parameters to train, none of them has an effect on the loss, or
            `BatchNorm` would train on single rows.
    """

    def __init__(
        self,
        pair: tuple[Callable[..., Any], Callable[..., Any]],
        objective: Objective,
        settings: dict[str, Any],
        compile: bool | str,
        steps: int,
        first: Batch,
        device: torch.device,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        self.pair, self.objective, self.device = pair, objective, device
        self.programs = as_keyword_program(pair[0]), as_keyword_program(pair[1])
        self.python = PythonState(*pair, objective)
        self.processes = distributed.size()
        modules = find_modules(*pair)
        self.norms = [
            m for m in dict.fromkeys(m for p in modules for m in p.modules())
            if isinstance(m, BatchNorm)
        ]  # fmt: skip
        rows = _rows(first)
        if self.norms and rows == 1:
            raise UserError(
                "BatchNorm needs a batch of two rows or more: set batch_size= to 2 or more"
            )
        # each once: a guide may share modules with its model
        owned = [*dict.fromkeys(p for m in modules for p in m.parameters())]
        self.free, work = self._examine(owned, first, measured=compile == "auto")
        self.parameters = [*(p for p in owned if p.is_floating_point()), *self.free]
        if not self._trained():
            raise UserError("the pair has no parameters to train: requires_grad is off everywhere")
        self._note_untrained()
        cuda = device.type == "cuda"
        backend = distributed.on_rank_zero(lambda: choose_backend(compile, steps, work, cuda))
        settings["compile"] = backend
        # one program is the whole step, AdamW included; it cannot contain the exchange of gradients
        # between processes
        whole = self.processes == 1 and optimizer is None and backend != "plain"
        graph_device = device if whole and can_graph(device) else None
        self.optimizer = RunOptimizer(self.parameters, settings, optimizer, graph_device)
        self.training = self._training_step(backend, rows, settings["clip_norm"], whole)

    def _training_step(
        self, backend: str, rows: int, clip_norm: float | None, whole: bool
    ) -> TrainingStep:
        """The way in which steps are taken; `whole`: in one program, if there is one."""
        optimizer, objective, pair = self.optimizer.optimizer, self.objective, self.pair
        if backend == "plain":
            return TrainingStep(PlainStep(objective, pair), optimizer, clip_norm)
        supported = self.device.type == "cpu" and all(p.dtype in DTYPES for p in self._trained())
        if whole and backend == "inductor" and supported:
            recorded = RecordedStep(objective, pair, "recorded")
            return CompiledStep(recorded, optimizer, clip_norm, rows)
        recorded = RecordedStep(objective, pair, backend, rows)
        graphed = whole and can_graph(self.device)
        return (GraphedStep if graphed else TrainingStep)(recorded, optimizer, clip_norm)

    def __call__(
        self, batch: Batch, count: Any, stop: Any = False
    ) -> tuple[torch.Tensor, Any, Any]:
        """Train one step.

        Args:
            batch: as the objective takes it.
            count: number of data points of the whole batch that this process has.
            stop: whether this process was asked to stop.

        Returns:
            `(mean loss per data point, count, stop)`, of all processes together; tensors if there
            are several processes, so that there is no host-device synchronization. On a CPU, a step
            whose loss is not finite changes no weight.
        """
        alone = self.processes == 1
        with self._one_row_allowed(batch):
            loss = self.training(batch) if alone else self.training.fill_gradients(batch)
        self._refuse_late_parameters(batch)
        if alone:
            return loss, count, stop
        loss, count, stop = distributed.all_reduce_gradients(self.parameters, loss, count, stop)
        self.training.update(loss)
        return loss, count, stop

    def _untrained(self) -> dict[str, torch.Tensor]:
        """What Pyro's store has in addition to the parameters of the run."""
        ids = {id(p) for p in self.parameters}
        return {n: p for n, p in stored_parameters().items() if id(p) not in ids}

    def _refuse_late_parameters(self, batch: Batch) -> None:
        """Raise if a step has a `pyro.param` that the first one did not have."""
        unchanged = all(
            p.grad is grad and (grad is None or grad._version == version)
            for p, grad, version in self.untrained
        )
        if unchanged and len(stored_parameters()) == self.stored:
            return
        used = {id(p) for p in self._leaves(partial(self._loss, batch), batch)}
        late = [n for n, p in self._untrained().items() if id(p) in used]
        if late:
            raise UserError(
                f"pyro.param({late[0]!r}) is not used in the first step, and is used in a later one, "
                "so it would not be trained: use it in every call, or make it a parameter of an "
                "nn.Module"
            )
        self._note_untrained()  # those that have a gradient now belong to another program

    def _note_untrained(self) -> None:
        self.stored = len(stored_parameters())
        self.untrained = [  # an earlier run may have left a gradient, of zeros
            (p, p.grad, 0 if p.grad is None else p.grad._version)
            for p in self._untrained().values()
        ]

    def is_finite(self, batch: Batch | None) -> bool:
        """Whether the trained parameters and their loss on a batch are finite.

        Args:
            batch: as the objective takes it; None checks the parameters alone.
        """
        finite = [p.detach().isfinite().all() for p in self._trained()]
        if finite and not torch.stack(finite).all():  # one look at a GPU's values
            return False
        if batch is None:
            return True
        with self._preliminary(batch):
            return bool(torch.as_tensor(self._loss(batch)).isfinite().all())

    def _loss(self, batch: Batch) -> torch.Tensor:
        model, guide = self.programs
        return self.objective.differentiable_loss(model, guide, **batch)

    def _trained(self) -> list[torch.Tensor]:
        return [p for p in self.parameters if p.requires_grad]

    def clear_gradients(self) -> None:
        """Set every `.grad` to None."""
        for p in self.parameters:
            p.grad = None

    def _examine(
        self, owned: Sequence[torch.Tensor], batch: Batch, measured: bool
    ) -> tuple[list[torch.Tensor], Work | None]:
        """Parameters that a user's program keeps outside of modules; the size of the loss if asked."""
        work: Work | None = None

        def loss_of() -> torch.Tensor:
            nonlocal work
            if not measured:
                return self._loss(batch)
            loss, work = measure_work(partial(self._loss, batch))
            return loss

        try:
            used = self._leaves(loss_of, batch)
        except ValueError as e:
            # Pyro's message if no parameter has a gradient
            if "cannot be differentiated" not in str(e):
                raise
            if any(p.requires_grad for p in owned):
                raise UserError("no parameter of the pair has an effect on its loss") from e
            used = []
        ids = {id(p) for p in owned}
        return [p for p in used if id(p) not in ids], work

    def _leaves(self, loss_of: Callable[[], torch.Tensor], batch: Batch) -> list[torch.Tensor]:
        """The parameters that a loss on a batch has a gradient for; this is no training step."""

        def marked() -> torch.Tensor:
            self.python.mark()
            return loss_of()

        with self._preliminary(batch), pyro.validation_enabled(False):
            return leaf_parameters(marked)

    @contextmanager
    def _preliminary(self, batch: Batch) -> Iterator[None]:
        """Within, a run of the pair is no training step: buffers, counters, streams are restored."""
        with self._one_row_allowed(batch), fork_rng(self.device), self.python.trial():
            yield

    @contextmanager
    def _one_row_allowed(self, batch: Batch) -> Iterator[None]:
        """Within, if the batch has one row, every `BatchNorm` uses its running statistics."""
        one_row = bool(self.norms) and _rows(batch) == 1
        changed = [m for m in self.norms if m.training] if one_row else []
        for m in changed:
            m.training = False
        try:
            yield
        finally:
            for m in changed:
                m.training = True


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))
