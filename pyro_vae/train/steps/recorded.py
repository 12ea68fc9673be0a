"""The recorded step: a Pyro pair runs once per input signature; its loss and gradients are replayed.

A training step of a Pyro pair spends much of its time in effect handlers, bookkeeping and autograd.
Here the program, its objective and the backward pass run once below autograd (`make_fx`, at
dispatcher level), and every later step replays the operations that they came to, as they are
(`"recorded"`) or compiled (`"inductor"`). The replay draws the same noise from the same stream.

What a recording could freeze is either an input of it (parameters, buffers and tensors in closures,
by reference; the objective's scheduled numbers), or in its key (shapes, train or eval mode), or is
found by comparing replays with the plain objective on fresh data and noise. What cannot be recorded
is trained plainly, with one warning.
"""

import importlib.util
import os
import shutil
import time
import warnings
from contextlib import contextmanager, nullcontext
from functools import partial

import pyro
import torch
import torch.nn as nn
from pyro.poutine.messenger import Messenger

from ..._pyro_internals import stored_parameters, sync_free_pyro
from ..._torch_internals import (
    TorchDispatchMode,
    compile_graph,
    leaf_of,
    record,
    tensor_slots,
    written_arguments,
)
from ...errors import unknown_name_error
from ...objectives import as_objective
from ...programs.calling import as_keyword_program
from ...programs.contexts import fork_rng, seeded
from ...programs.modules import find_modules

BACKENDS = ("plain", "recorded", "inductor")
MAX_RECORDINGS = 16  # of one step: where every batch has another shape, recording does not pay


def choose_backend(compile, steps, flops, cuda=False):
    """`plain`, `recorded` or `inductor`, for `fit`'s argument `compile` and the size of its run.

    `"auto"` weighs what a run saves against what its first call costs, by rules of thumb for one
    core and from settings alone, not from a clock, so that the same run on the same machine always
    chooses the same: a recording costs half a second (and a short last batch another), and saves one
    millisecond a step; compiling it costs 15 s, and saves half a millisecond and a tenth of the
    step's arithmetic in addition, where there is a compiler. A run records when that is earned twice.

    Args:
        compile: `"auto"`, `True` (compiled), `False` (plain), or the name of a backend.
        steps: steps in the run.
        flops: arithmetic of a step.
        cuda: whether it runs on a GPU.
    """
    if compile in (True, False):
        return "inductor" if compile else "plain"
    if compile in BACKENDS:
        return compile
    if compile != "auto":
        raise unknown_name_error("compile", compile, ("auto", "True", "False", *BACKENDS))
    seconds = flops / (1e13 if cuda else 5e10)
    if steps * (5e-4 + 0.1 * seconds) > 2 * 15 and has_compiler(cuda):
        return "inductor"
    return "recorded" if steps * 1e-3 > 2 * 0.5 else "plain"


def has_compiler(cuda=False):
    """Whether Inductor finds what it needs: a C++ compiler; on a GPU Triton, and one for C."""
    if cuda and importlib.util.find_spec("triton") is None:
        return False
    names = ("CC", "gcc", "clang") if cuda else ("CXX", "g++", "clang++")
    return any(shutil.which(os.environ.get(name, name)) for name in names)


class PlainStep:
    """Loss and gradients the ordinary way: what the recorded step must equal."""

    def __init__(self, objective, pair):
        self.objective = as_objective(objective)
        self.programs = tuple(map(as_keyword_program, pair))

    def __call__(self, batch, schedule_values=None):
        """The mean loss per data point, detached; gradients are added to `.grad`."""
        loss = _mean_loss(self.objective, self.programs, batch, schedule_values)
        loss.backward()
        return loss.detach()


def _mean_loss(objective, programs, batch, schedule_values=None):
    """The loss in nats per data point, whatever the size of the programs' data plate."""
    plate = _DataPlate()
    with (
        objective.with_schedule_values(schedule_values) if schedule_values else nullcontext(),
        plate,
    ):
        loss = objective.differentiable_loss(*programs, **batch)
    return loss / (plate.full_size or len(next(iter(batch.values()))))


class _DataPlate(Messenger):
    """Reads the number of data that a loss is a sum over: the data plate's, however subsampled."""

    full_size = None  # as of a plate without a size

    def _pyro_post_sample(self, msg):
        for frame in msg["cond_indep_stack"] if msg["is_observed"] else ():
            if frame.dim == -1 and frame.full_size > 0:
                self.full_size = frame.full_size


class RecordedStep:
    """`step(batch)` sets `.grad` and returns the mean loss per data point, 0-dim, without a host sync.

    Any Pyro pair and any objective with `differentiable_loss(model, guide, **batch)`. An objective
    whose numbers change during training lists them in `schedule_values()` and uses, within
    `with_schedule_values(tensors)`, tensors in their place (see `Objective`).

    Args:
        objective: what is minimized.
        pair: `(model, guide)`; each is given what its signature names of the batch.
        backend: `"inductor"`, `"recorded"`.
        size: with `"inductor"`, the batches of this many data are compiled, others (a short last
            batch) replayed as ATen. Default: all are compiled.
        on_status: a function called with what is under way, and at last how long it took.
    """

    def __init__(self, objective, pair, backend="inductor", size=None, on_status=None):
        self.plain = PlainStep(objective, pair)
        self.objective, self.programs = self.plain.objective, self.plain.programs
        self.backend, self.size, self.on_status = backend, size, on_status or (lambda text: None)
        self.modules = list(dict.fromkeys(m for p in find_modules(*pair) for m in p.modules()))
        self.recordings, self.count, self.seconds, self.warned = {}, 0, 0.0, False
        self.schedule_values = {}

    def __call__(self, batch):
        recording = self.recording(batch)
        if recording is None:
            return self.plain(batch)
        self.update_schedule_values()
        return recording.fill_gradients(batch, self.schedule_values)

    def recording(self, batch):
        """The `_Recording` for such a batch, made if need be; None where it is trained plainly."""
        key = (
            *((n, v.shape, v.stride(), v.dtype, v.device) for n, v in batch.items()),
            *(m.training for m in self.modules),
        )
        found = self.recordings.get(key)
        if key not in self.recordings and len(self.recordings) == MAX_RECORDINGS:
            self._warn("further batches run plainly", f"{MAX_RECORDINGS} shapes are recorded")
            return None
        if found is None and key not in self.recordings or found and not found.slots.unchanged():
            started = time.monotonic()
            found = self.recordings[key] = self._record(batch)
            self.seconds += time.monotonic() - started
            self.on_status(f"step recorded in {self.seconds:.1f} s")
        return found

    def update_schedule_values(self):
        """Put the objective's present numbers into the tensors that recordings read."""
        for name, value in self.objective.schedule_values().items():
            # 0-dim float64: it takes part in arithmetic exactly as a Python float does
            if name not in self.schedule_values:
                self.schedule_values[name] = torch.tensor(
                    value, dtype=torch.float64, device=self.device
                )
            else:
                self.schedule_values[name].fill_(value)

    def _record(self, batch):
        self.device = next(iter(batch.values())).device
        self.update_schedule_values()
        self.on_status("recording the step")
        try:
            recording = _Recording(
                self.objective, self.programs, self.modules, batch, self.schedule_values
            )
            self._verify(
                recording, batch, 1, "a number that changes from step to step is no tensor"
                " (a Python counter, numpy's noise)",
            )  # fmt: skip
        except Exception as e:  # whatever a user's program does that cannot be recorded
            self._warn("the step cannot be recorded and is run plainly", e)
            return None
        self.count += 1
        size = len(next(iter(batch.values())))
        if self.backend == "inductor" and self.size in (None, size):
            self.on_status("compiling the step")
            replayed = recording.call
            try:
                recording.compile(batch, self.schedule_values)
                self._verify(recording, batch, 1000, "Inductor draws other noise, or rounds worse")
            except Exception as e:
                recording.call = replayed
                self._warn("the step is recorded, but not compiled", e)
        return recording

    def _warn(self, what, error):
        if not self.warned:
            lines = str(error).strip().splitlines() or ["no reason given"]
            kind = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
            warnings.warn(f"{what}: {kind}{lines[0][:300]}", stacklevel=4)
        self.warned = True

    def _verify(self, recording, batch, loose, otherwise):
        """Compare with the plain step on two fresh batches and seeds; raise where they differ."""
        epoch = self.objective.epoch
        for seed in (1, 2):
            if seed == 2:
                self.objective.epoch = 10**6  # a schedule must not have been frozen either
            try:
                results = []
                with seeded(seed, self.device):
                    size = len(next(iter(batch.values())))
                    rows = torch.randint(size, (size,), device=self.device)
                fresh = {n: v[rows] for n, v in batch.items()}
                self.update_schedule_values()
                for call in (self.plain, recording.fill_gradients):
                    with _kept_gradients(recording.leaves), recording.kept_state():
                        with seeded(seed, self.device), pyro.validation_enabled(False):
                            loss = call(fresh, self.schedule_values)
                            noise = torch.rand(2, device=self.device)
                        gradients = [p.grad for p in recording.leaves]
                        written = [t.detach().clone() for t in recording.written]
                        results.append((loss, noise, gradients, written))
                differs = _difference(*results, loose)
                if differs is not None:
                    raise RuntimeError(
                        f"on fresh data and noise its {differs} is not the plain step's: {otherwise}"
                    )
            finally:
                self.objective.epoch = epoch
        self.update_schedule_values()


class _Recording:
    """One recorded program: `(loss, gradients of the leaves)` as a function of what it reads."""

    def __init__(self, objective, programs, modules, batch, schedule_values):
        names, labels = list(batch), list(schedule_values)
        before = _ParameterSlots(modules)

        def loss_of(*inputs):
            given = dict(zip(names, inputs[: len(names)], strict=True))
            held = dict(zip(labels, inputs[len(names) :], strict=True))
            return _mean_loss(objective, programs, given, held)

        def loss_and_gradients(*inputs):
            loss = loss_of(*inputs)
            gradients = torch.autograd.grad(loss, self.leaves)
            return loss.detach(), *_unalias_gradients(gradients, self.leaves)

        inputs = [*batch.values(), *schedule_values.values()]
        with (
            pyro.validation_enabled(False),
            warnings.catch_warnings(),
            torch.enable_grad(),
            sync_free_pyro(),
            _RevertWrites(inputs[0].device) as undone,
        ):
            warnings.simplefilter("ignore")
            leaves = leaf_parameters(
                partial(loss_of, *inputs)
            )  # and makes parameters that are made lazily
            used = torch.autograd.grad(loss_of(*inputs), leaves, allow_unused=True)
            self.leaves = [p for p, g in zip(leaves, used, strict=True) if g is not None]
            program = record(loss_and_gradients, inputs)
        if not before.unchanged():
            before.restore()
            raise RuntimeError("the program replaces a parameter or buffer of its own modules")
        self.call, self.reads = _lift(program)
        ids = {id(t) for t in undone.written()}
        self.written = [t for t in self.reads if id(t) in ids]
        self.slots = _ParameterSlots(modules, stored_parameters())

    @torch.no_grad()
    def __call__(self, batch, schedule_values):
        return self.call(*self.reads, *batch.values(), *schedule_values.values())

    def fill_gradients(self, batch, schedule_values):
        loss, *gradients = self(batch, schedule_values)
        for leaf, gradient in zip(self.leaves, gradients, strict=True):
            leaf.grad = gradient
        return loss

    @torch.no_grad()
    def compile(self, batch, schedule_values):
        """Replace the replay by Inductor's code for it, drawing from the same normal stream."""
        inputs = [*self.reads, *batch.values(), *schedule_values.values()]
        self.call = compile_graph(self.call, inputs)

    @contextmanager
    def kept_state(self):
        """What the program writes (running statistics, say) is put back afterwards."""
        values = [t.detach().clone() for t in self.written]
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(self.written, values, strict=True):
                    tensor.copy_(value)


def leaf_parameters(loss_of):
    """Every leaf that `loss_of()` has a gradient for: params of modules, pyro.params and all.

    What a program makes anew at each call (the start of an inner optimization) is none of them.
    """
    before = _leaves(loss_of())  # held, or a new leaf could take an old one's identity
    ids = {id(p) for p in before}
    return [p for p in _leaves(loss_of()) if id(p) in ids]


def _leaves(loss):
    seen, leaves, stack = set(), [], [loss.grad_fn]
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


def _unalias_gradients(gradients, leaves):
    """Gradients laid out as their leaves, none sharing memory: the optimizer writes in place."""
    taken, result = {p.untyped_storage().data_ptr() for p in leaves}, []
    for gradient, leaf in zip(gradients, leaves, strict=True):
        place = gradient.untyped_storage().data_ptr()
        if place in taken or gradient.stride() != leaf.stride():
            gradient = torch.empty_like(leaf).copy_(gradient)
        taken.add(place)
        result.append(gradient)
    return result


def _lift(program):
    """`(graph module, tensors)`: what the program read becomes inputs, by reference, in front."""
    graph, reads, placeholders = program.graph, [], {}
    first = next(iter(graph.nodes))
    for node in [n for n in graph.nodes if n.op == "get_attr"]:
        tensor = program
        for part in node.target.split("."):
            tensor = getattr(tensor, part)
        if id(tensor) not in placeholders:
            with graph.inserting_before(first):
                placeholders[id(tensor)] = graph.placeholder(f"read_{len(reads)}")
            placeholders[id(tensor)].meta = dict(node.meta)
            reads.append(tensor)
        node.replace_all_uses_with(placeholders[id(tensor)])
        graph.erase_node(node)
    return torch.fx.GraphModule(nn.Module(), graph), reads


class _ParameterSlots:
    """Where modules and Pyro's store keep their tensors: tells when one is replaced or moved."""

    def __init__(self, modules, store=None):
        places = [d for m in modules for d in tensor_slots(m)]
        places += [store] if store else []
        self.slots = [
            (d, n, t, t.data_ptr(), t.requires_grad)
            for d in places
            for n, t in d.items()
            if t is not None
        ]

    def unchanged(self):
        return all(
            d.get(n) is t and t.data_ptr() == place and t.requires_grad == grad
            for d, n, t, place, grad in self.slots
        )

    def restore(self):
        for d, n, t, _, _ in self.slots:
            d[n] = t


class _RevertWrites(TorchDispatchMode):
    """Everything that is written within is put back afterwards, the random stream as well."""

    def __init__(self, device):
        super().__init__()
        self.device, self.before = device, []

    def __enter__(self):
        self.stream = fork_rng(self.device)
        self.stream.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        with torch.no_grad():
            for tensor, value in reversed(self.before):
                tensor.copy_(value)
        self.stream.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = written_arguments(func, args, kwargs)
        self.before += [(t, t.detach().clone()) for t in tensors]
        return func(*args, **kwargs)

    def written(self):
        return [t for t, _ in self.before]


@contextmanager
def _kept_gradients(leaves):
    kept = [p.grad for p in leaves]
    for p in leaves:
        p.grad = None
    yield
    for p, gradient in zip(leaves, kept, strict=True):
        p.grad = gradient


def _difference(plain, replayed, loose):
    """What differs, by name, of two `(loss, noise, gradients, buffers)`; None if nothing does.

    By the lengths of the differences: what rounds to the other side of a rectifier's kink changes
    single numbers much, and a tensor as a whole hardly. A gradient that cancels to nothing is
    compared with the others' size.
    """
    names = ("loss", "random stream", "gradient", "buffer")
    overall = max((_length(g) for g in plain[2]), default=0.0)
    for name, wanted, found in zip(names, plain, replayed, strict=True):
        wanted, found = ([v] if isinstance(v, torch.Tensor) else v for v in (wanted, found))
        for a, b in zip(wanted, found, strict=True):
            a, b = a.detach(), b.detach()
            equal = torch.equal(a.isfinite(), b.isfinite())
            if not a.is_floating_point():
                equal = torch.equal(a, b)
            elif equal:
                tolerance = loose * (1e-5 if a.dtype == torch.float32 else 1e-9)
                size = _length(a) + (1e-2 * overall if name == "gradient" else 0.0)
                equal = _length(a - b) <= tolerance * size
            if not equal:
                return name
    return None


def _length(tensor):
    return tensor[tensor.isfinite()].norm().item()
