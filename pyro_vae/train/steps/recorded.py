"""The recorded step: a Pyro pair runs once per input signature; its loss and gradients are replayed.

A training step of a Pyro pair spends much of its time in effect handlers, bookkeeping and autograd.
Here the program, its objective and the backward pass run once, and their operations are recorded at
dispatcher level. Every later step replays these operations, as they are (`"recorded"`) or
compiled (`"inductor"`). A replay draws the same noise from the same random stream.

A recording must not freeze a value that changes between steps. Parameters, buffers, tensors in
closures and the objective's schedule values are inputs of the recording, by reference. Shapes, train
or eval mode, and the Python values that the programs hold (see `PythonState`) are part of its key. A
program that changes one of these values itself, or draws from Python's or numpy's random stream, is
not recorded. Replays are compared with the plain step on fresh data and noise, at first and then after
2, 4, 8, ... steps: this finds any other changing value, though only after it has had an effect. A step
that cannot be recorded is the plain step, with one warning.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Self

import pyro
import torch
import torch.nn as nn
from pyro.poutine.messenger import Messenger

from ..._pyro_internals import pyro_without_host_sync, stored_parameters
from ..._torch_internals import (
    TorchDispatchMode,
    leaf_of,
    tensor_slots,
    written_arguments,
)
from ...objectives import Objective, as_objective
from ...programs.calling import as_keyword_program
from ...programs.compilation import compiled
from ...programs.contexts import fork_rng, seeded, values_kept
from ...programs.modules import find_modules
from ...programs.python_state import PythonState
from ...programs.recorder import record
from ...programs.sites import Site
from .verification import COMPILED_TOLERANCE, INDUCTOR_DIFFERS, Batch, StepResult, verify

MAX_RECORDINGS = 16  # of one step: if every batch has another shape, recording does not pay
MAX_VALUES = 4  # sets of Python values with which batches of one shape are recorded
#: The tolerance factor of later comparisons. A replay rounds as the plain step does, except for the
#: order of a few sums; but in the course of training a loss may come close to zero.
LATER_TOLERANCE = 100
FROZEN_VALUE = (
    "a number that changes from step to step is no tensor (a Python counter, numpy's noise)"
)

Pair = Sequence[Callable[..., Any]]  # model and guide
ScheduleValues = dict[str | None, torch.Tensor]  # in place of `Objective.schedule_values()`


class PlainStep:
    """Loss and gradients by Pyro and autograd: what the recorded step must equal.

    Args:
        objective: what is minimized; see `as_objective`.
        pair: `(model, guide)`; each is called with the inputs that its signature names.
    """

    def __init__(self, objective: object, pair: Pair) -> None:
        self.objective = as_objective(objective)
        model, guide = pair
        self.programs = as_keyword_program(model), as_keyword_program(guide)

    def __call__(self, batch: Batch, schedule_values: ScheduleValues | None = None) -> torch.Tensor:
        """The mean loss per data point, detached; gradients are added to `.grad`."""
        loss = _mean_loss(self.objective, self.programs, batch, schedule_values)
        loss.backward()
        return loss.detach()


def _mean_loss(
    objective: Objective,
    programs: tuple[Callable, Callable],
    batch: Batch,
    schedule_values: ScheduleValues | None = None,
) -> torch.Tensor:
    """The loss in nats per data point, whatever the size of the programs' data plate."""
    model, guide = programs
    plate = _DataPlate()
    with (
        objective.with_schedule_values(schedule_values) if schedule_values else nullcontext(),
        plate,
    ):
        loss = objective.differentiable_loss(model, guide, **batch)
    return loss / (plate.full_size or len(next(iter(batch.values()))))


class _DataPlate(Messenger):
    """Reads of how many data points the rows of a batch are some: a subsampled plate's full size."""

    full_size: int | None = None  # None: a plate that is not subsampled

    def _pyro_post_sample(self, msg: Site) -> None:
        for frame in msg["cond_indep_stack"] if msg["is_observed"] else ():
            # the draws may be more rows of the plate: its size alone says nothing of the data
            if frame.dim == -1 and frame.full_size != frame.size:
                self.full_size = frame.full_size


class RecordedStep:
    """`step(batch)` sets `.grad` and returns the mean loss per data point, a scalar tensor.

    It avoids a host-device synchronization. It takes any Pyro pair and any objective with
    `differentiable_loss(model, guide, **batch)`. An objective whose numbers change during training
    lists them in `schedule_values()`, and within `with_schedule_values(tensors)` it uses tensors in
    their place (see `Objective`).

    Args:
        objective: what is minimized; see `as_objective`.
        pair: `(model, guide)`; each is called with the inputs that its signature names.
        backend: `"inductor"` or `"recorded"`.
        size: with `"inductor"`, only batches of this many data points are compiled; others (a short
            last batch) are replayed as recorded. Default: all are compiled.
        on_status: a function called with a text: what is being done, and finally the time it took.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), 2, network=pv.conditionals.MLP((8,)))
        >>> guide = pv.guides.Guide(model, network=pv.conditionals.MLP((8,)))
        >>> step = pv.train.RecordedStep(pv.objectives.ELBO(), (model, guide), backend="recorded")
        >>> step({"x": torch.ones(4, 6)}).shape  # and every parameter has its gradient
        torch.Size([])
    """

    def __init__(
        self,
        objective: object,
        pair: Pair,
        backend: str = "inductor",
        size: int | None = None,
        on_status: Callable[[str], object] | None = None,
    ) -> None:
        self.plain = PlainStep(objective, pair)
        self.objective, self.programs = self.plain.objective, self.plain.programs
        self.backend, self.size, self.on_status = backend, size, on_status or (lambda text: None)
        self.modules = list(dict.fromkeys(m for p in find_modules(*pair) for m in p.modules()))
        self.python = PythonState(*pair, objective)
        # by shape and mode, and then by Python values; None: it cannot be recorded
        self.recordings: dict[tuple, dict[tuple, Recording] | None] = {}
        self.count, self.seconds = 0, 0.0
        self.warned: set[str] = set()
        self.schedule_values: ScheduleValues = {}

    def __call__(self, batch: Batch) -> torch.Tensor:
        recording = self.recording(batch)
        if recording is None:
            return self.plain(batch)
        self.update_schedule_values()
        return recording.fill_gradients(batch, self.schedule_values)

    def recording(self, batch: Batch) -> "Recording | None":
        """The recording for batches like this one, made at the first call; None: use the plain step."""
        key = (
            *((n, v.shape, v.stride(), v.dtype, v.device) for n, v in batch.items()),
            *(m.training for m in self.modules),
        )
        if key not in self.recordings:
            if len(self.recordings) == MAX_RECORDINGS:
                self.warn("further batches run plainly", f"{MAX_RECORDINGS} shapes are recorded")
                return None
            self.recordings[key] = {}
        recordings = self.recordings[key]
        if recordings is None:
            return None
        values = self.python.values()
        recording = recordings.get(values)
        if recording is None and len(recordings) == MAX_VALUES:
            self.warn(
                "further steps run plainly", f"{MAX_VALUES} values of the programs' numbers are "
                "recorded, and they change again (a tensor could be written in place)",
            )  # fmt: skip
        elif recording is None or not recording.slots.unchanged():
            with self.timed("recording the step"):
                recording = self._record(batch)
        else:
            recording.replays += 1
            if recording.replays.bit_count() == 1 and not self._agrees(recording, batch):
                recording = None
        if recording is None:
            self.recordings[key] = None
        else:
            recordings[values] = recording
        return recording

    @contextmanager
    def timed(self, status: str) -> Iterator[None]:
        """Announce what is done within, and afterwards the time that the step has taken so far."""
        started = time.monotonic()
        self.on_status(status)
        try:
            yield
        finally:
            self.seconds += time.monotonic() - started
            self.on_status(f"step recorded in {self.seconds:.1f} s")

    def update_schedule_values(self) -> None:
        """Write the objective's current schedule values into the tensors that recordings read."""
        for name, value in self.objective.schedule_values().items():
            # 0-dim float64: it takes part in arithmetic exactly as a Python float does
            if name not in self.schedule_values:
                self.schedule_values[name] = torch.tensor(
                    value, dtype=torch.float64, device=self.device
                )
            else:
                self.schedule_values[name].fill_(value)

    def _record(self, batch: Batch) -> "Recording | None":
        self.device = next(iter(batch.values())).device
        self.update_schedule_values()
        try:
            with self.python.trial():
                recording = Recording(
                    self.objective, self.programs, self.modules, batch, self.schedule_values,
                    self.python,
                )  # fmt: skip
                self._verify(recording, batch, 1, FROZEN_VALUE)
        except Exception as e:  # whatever a user's program does that cannot be recorded
            self.warn("the step cannot be recorded and is run plainly", e)
            return None
        self.count += 1
        size = len(next(iter(batch.values())))
        if self.backend == "inductor" and self.size in (None, size):
            self.on_status("compiling the step")
            try:
                recording.compile(batch, self.schedule_values)
                with self.python.trial():
                    self._verify(recording, batch, COMPILED_TOLERANCE, INDUCTOR_DIFFERS)
            except Exception as e:
                recording.call = recording.graph
                self.warn("the step is recorded, but not compiled", e)
        return recording

    def _agrees(self, recording: "Recording", batch: Batch) -> bool:
        """Whether a recording is still the plain step; if not, warn. The comparison changes nothing."""
        call, recording.call = recording.call, recording.graph  # compiled code rounds otherwise
        try:
            with self.python.trial():
                self._verify(recording, batch, LATER_TOLERANCE, FROZEN_VALUE, comparisons=1)
        except Exception as e:
            self.warn("the step cannot be recorded and is run plainly from here", e)
            return False
        finally:
            recording.call = call
        return True

    def warn(self, what: str, error: object) -> None:
        """Warn once, in one line, of steps that are taken in another way."""
        if what not in self.warned:
            lines = str(error).strip().splitlines() or ["no reason given"]
            kind = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
            warnings.warn(f"{what}: {kind}{lines[0][:300]}", stacklevel=4)
        self.warned.add(what)

    def _verify(
        self,
        recording: "Recording",
        batch: Batch,
        tolerance_factor: float,
        likely_cause: str,
        comparisons: int = 2,
    ) -> None:
        """Compare a recording with the plain step; raise if they differ."""

        def result_of(
            call: Callable[[Batch, ScheduleValues], torch.Tensor], fresh: Batch, seed: int
        ) -> StepResult:
            self.update_schedule_values()
            with _kept_gradients(recording.leaves), recording.kept_state():
                with seeded(seed, self.device), pyro.validation_enabled(False):
                    loss = call(fresh, self.schedule_values)
                    noise = torch.rand(2, device=self.device)
                gradients = [p.grad for p in recording.leaves if p.grad is not None]
                return loss, noise, gradients, [t.detach().clone() for t in recording.written]

        verify(
            partial(result_of, self.plain),
            partial(result_of, recording.fill_gradients),
            self.objective,
            batch,
            tolerance_factor,
            likely_cause,
            comparisons,
        )
        self.update_schedule_values()


class Recording:
    """One recorded step: `(loss, gradients)` as a function of the tensors that it reads.

    Attributes:
        leaves: the parameters that have a gradient.
        reads: the tensors that the step reads, in addition to the batch and the schedule values.
        written: those of `reads` that it writes, such as running statistics.
        slots: where the modules and Pyro's store keep their tensors, and the programs those of `reads`.
        replays: how many steps it has replayed.
    """

    def __init__(
        self,
        objective: Objective,
        programs: tuple[Callable, Callable],
        modules: Sequence[nn.Module],
        batch: Batch,
        schedule_values: ScheduleValues,
        python: PythonState,
    ) -> None:
        names, labels = list(batch), list(schedule_values)
        before = _ParameterSlots(modules)

        def loss_of(*inputs: torch.Tensor) -> torch.Tensor:
            arrays = dict(zip(names, inputs[: len(names)], strict=True))
            values = dict(zip(labels, inputs[len(names) :], strict=True))
            return _mean_loss(objective, programs, arrays, values)

        def loss_and_gradients(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            loss = loss_of(*inputs)
            gradients = torch.autograd.grad(loss, self.leaves)
            return loss.detach(), *_unalias_gradients(gradients, self.leaves)

        inputs = [*batch.values(), *schedule_values.values()]
        with (
            pyro.validation_enabled(False),
            warnings.catch_warnings(),
            torch.enable_grad(),
            pyro_without_host_sync(),
            RevertWrites(inputs[0].device) as reverted,
        ):
            warnings.simplefilter("ignore")
            # this also creates parameters that are created at the first call
            leaves, loss = _leaves_and_loss(partial(loss_of, *inputs))
            used = torch.autograd.grad(loss, leaves, allow_unused=True)
            self.leaves = [p for p, g in zip(leaves, used, strict=True) if g is not None]
            python.mark()
            tensors = python.tensors()
            self.graph, self.reads = record(loss_and_gradients, inputs)
        if not before.unchanged():
            before.restore()
            raise RuntimeError("the program replaces a parameter or buffer of its modules")
        if changed := python.changed():
            raise RuntimeError(f"every run of the program changes a value of Python: {changed}")
        self.call: Callable[..., Any] = self.graph
        ids = {id(t) for t in reverted.written()}
        self.written = [t for t in self.reads if id(t) in ids]
        read = {id(t) for t in self.reads}
        others = [place for place in tensors if id(place[2]) in read]
        self.slots = _ParameterSlots(modules, stored_parameters(), others)
        if not self.slots.unchanged():
            raise RuntimeError("the program replaces a tensor that it reads")
        self.replays = 1

    @torch.no_grad()
    def __call__(self, batch: Batch, schedule_values: ScheduleValues) -> Sequence[torch.Tensor]:
        """`(loss, *gradients)`, the gradients in the order of `leaves`."""
        return self.call(*self.reads, *batch.values(), *schedule_values.values())

    def fill_gradients(self, batch: Batch, schedule_values: ScheduleValues) -> torch.Tensor:
        """Replay the step: set `.grad` of the leaves, and return the loss."""
        loss, *gradients = self(batch, schedule_values)
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            leaf.grad = gradient
        return loss

    @torch.no_grad()
    def compile(self, batch: Batch, schedule_values: ScheduleValues) -> None:
        """Replace the replay by Inductor's code for it, which draws the same noise."""
        inputs = [*self.reads, *batch.values(), *schedule_values.values()]
        self.call = compiled(self.graph, inputs)

    def kept_state(self) -> AbstractContextManager[None]:
        """Restores afterwards what the program writes, such as running statistics."""
        return values_kept(self.written)


def leaf_parameters(loss_of: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    """Every leaf tensor that `loss_of()` has a gradient for, those of `pyro.param` included.

    Leaves that a program creates at each call (the start of an inner optimization) are left out.
    """
    return _leaves_and_loss(loss_of)[0]


def _leaves_and_loss(
    loss_of: Callable[[], torch.Tensor],
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """`(leaf_parameters(loss_of), loss_of())`."""
    before = _leaves(loss_of())  # kept alive, or a new leaf could have the id of an old one
    ids = {id(p) for p in before}
    loss = loss_of()
    return [p for p in _leaves(loss) if id(p) in ids], loss


def _leaves(loss: torch.Tensor) -> list[torch.Tensor]:
    seen: set[Any] = set()
    leaves: list[torch.Tensor] = []
    stack: list[Any] = [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = leaf_of(node)
        if leaf is not None:
            leaves.append(leaf)
        stack.extend(n for n, _ in node.next_functions)
    return leaves


def _unalias_gradients(
    gradients: Iterable[torch.Tensor], leaves: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Gradients in the layout of their leaves, in separate memory: the optimizer writes in place."""
    used, result = {p.untyped_storage().data_ptr() for p in leaves}, []
    for gradient, leaf in zip(gradients, leaves, strict=True):
        place = gradient.untyped_storage().data_ptr()
        if place in used or gradient.stride() != leaf.stride():
            gradient = torch.empty_like(leaf).copy_(gradient)
        used.add(place)
        result.append(gradient)
    return result


class _ParameterSlots:
    """Where modules and Pyro's store keep their tensors, to detect one that is replaced or moved.

    The memory is held: if it were freed, as by `buffer.data = new`, a later tensor could be given the
    same address, and the change would not be seen.

    Args:
        modules: their parameters and buffers.
        store: Pyro's, as `{name: tensor}`.
        others: further `(container, name, tensor)`.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        store: MutableMapping[str, torch.Tensor] | None = None,
        others: Iterable[tuple[Any, Any, torch.Tensor]] = (),
    ) -> None:
        places: list[MutableMapping[str, Any]] = [d for m in modules for d in tensor_slots(m)]
        places += [store] if store else []
        slots = [(d, n, t) for d in places for n, t in d.items() if isinstance(t, torch.Tensor)]
        slots += others
        self.slots = [(d, n, t, t.data_ptr(), t.requires_grad) for d, n, t in slots]
        self.memory = [t.untyped_storage() for _, _, t in slots]

    def unchanged(self) -> bool:
        """Whether every slot has the same tensor, in the same memory."""
        try:
            return all(
                d[n] is t and t.data_ptr() == place and t.requires_grad == grad
                for d, n, t, place, grad in self.slots
            )
        except (LookupError, ValueError):  # one is gone
            return False

    def restore(self) -> None:
        """Put the tensors back into their slots."""
        for d, n, t, _, _ in self.slots:
            d[n] = t


class RevertWrites(TorchDispatchMode):
    """Reverts everything that is written within, the random stream included."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __enter__(self) -> Self:
        self.stream = fork_rng(self.device)
        self.stream.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        with torch.no_grad():
            for tensor, value in reversed(self.before):
                tensor.copy_(value)
        self.stream.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = written_arguments(func, args, kwargs)
        self.before += [(t, t.detach().clone()) for t in tensors]
        return func(*args, **kwargs)

    def written(self) -> list[torch.Tensor]:
        """The tensors that were written, in order."""
        return [t for t, _ in self.before]


@contextmanager
def _kept_gradients(leaves: Sequence[torch.Tensor]) -> Iterator[None]:
    """Within, the leaves have no gradients; afterwards, those that they had."""
    kept = [p.grad for p in leaves]
    for p in leaves:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in zip(leaves, kept, strict=True):
            p.grad = gradient
