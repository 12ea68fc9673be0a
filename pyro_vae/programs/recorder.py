"""What a function does to its tensors, recorded as a graph of operations."""

import operator
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pyro
import torch
import torch.nn as nn
from torch.fx.node import Node, map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from .._pyro_internals import pyro_without_host_sync
from .._torch_internals import TorchDispatchMode, written_arguments
from .backends import choose_backend, measure_work
from .compilation import compiled
from .contexts import fork_rng, set_seed

MAX_CONSTANT = 1000  # numbers in a constant whose value a program may look at
WORTH_COUNTING = 50  # calls of a function that may repay a recording, and repay a count of its work
#: Of Inductor's results, which round otherwise: the distance to the function's own, of their length.
COMPILED_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}

aten = torch.ops.aten
#: They read a tensor's memory, without an operation that a recording sees.
READERS = (
    torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.__array__, torch.Tensor.__dlpack__
)  # fmt: skip


def record(
    function: Callable[..., Sequence[torch.Tensor] | torch.Tensor], inputs: Sequence[torch.Tensor]
) -> tuple[torch.fx.GraphModule, list[torch.Tensor]]:
    """The operations of `function(*inputs)` below autograd, its backward passes included.

    The function runs once, on the tensors themselves. `make_fx` of torch records the same operations;
    it was not made for real tensors, and takes several times as long.

    Args:
        function: takes and returns tensors.
        inputs: what it is called with.

    Returns:
        `(graph, reads)`: a module that is called with `(*reads, *inputs)` and returns what the function
        returns, and the other tensors that the function reads (parameters, tensors in closures, constants).

    Raises:
        RuntimeError: the function looks at a value, as `if z.sum() > 0` or `z.tolist()` does, or a value
            is the size of a tensor, as in `x[x > 0]`: a recording has them fixed.

    Example:
        >>> import torch
        >>> from pyro_vae.programs.recorder import record
        >>> weight = torch.tensor([1.0, 2.0])
        >>> graph, reads = record(lambda x: (x * weight).sum(), [torch.ones(2)])
        >>> graph(*reads, torch.tensor([1.0, 3.0]))
        tensor(7.)
    """
    recorder = _Recorder(inputs)
    cached = torch.is_autocast_cache_enabled()
    try:
        # a weight in lower precision that was cached before would be a constant
        torch.set_autocast_cache_enabled(False)
        with _NoReaders(recorder), recorder:
            result = function(*inputs)
    finally:
        torch.set_autocast_cache_enabled(cached)
    return recorder.program(result), recorder.reads


def replayed(
    function: Callable[..., Sequence[torch.Tensor]],
    *examples: Sequence[torch.Tensor],
    device: torch.device,
    calls: int | None = None,
) -> Callable[..., Sequence[torch.Tensor]]:
    """A function that is called many times, as a replay of its operations where they can be recorded.

    A replay runs no Pyro and no autograd, and gives the same numbers. It is recorded at the first
    example, and must agree at every example, with other noise. Where the function cannot be recorded,
    or does not agree, it is returned itself. Inputs of other shapes or types go to the function. No
    gradient flows through a replay.

    Of so many calls that it pays (`choose_backend`), a replay on a CPU is compiled. It draws the same
    noise, and its numbers differ from the function's by rounding.

    Args:
        function: of tensors, returns a list or tuple of tensors.
        examples: inputs that it can be called with.
        device: where it computes.
        calls: how many there will be. Few of a small function are not worth a recording. Default: it
            is recorded, and not compiled.
    """
    backend = "recorded" if calls is None else "plain"
    if calls is not None and calls >= WORTH_COUNTING:
        try:
            with fork_rng(device):
                _, work = measure_work(partial(function, *examples[0]))
        except Exception:  # the caller's own call will raise it
            return function
        backend = choose_backend("auto", calls, work, cuda=device.type == "cuda")
    if backend == "plain":
        return function
    try:
        with (
            pyro.validation_enabled(False),
            warnings.catch_warnings(),
            pyro_without_host_sync(),
            fork_rng(device),
        ):
            warnings.simplefilter("ignore")
            # what was a view of one layout would be none of another
            first = [t.contiguous() for t in examples[0]]
            graph, reads = record(function, first)
            recorded_for = [(t.shape, t.dtype) for t in first]

            def replay_of(program: Callable[..., Any]) -> Callable[..., Sequence[torch.Tensor]]:
                def replay(*inputs: torch.Tensor) -> Sequence[torch.Tensor]:
                    if [(t.shape, t.dtype) for t in inputs] != recorded_for:
                        return function(*inputs)
                    with torch.no_grad():
                        return program(*reads, *(t.contiguous() for t in inputs))

                return replay

            def results_of(call: Callable[..., Sequence[torch.Tensor]]) -> list[torch.Tensor]:
                results: list[torch.Tensor] = []
                for seed, example in enumerate(examples):
                    set_seed(seed)
                    results += [t.detach() for t in call(*example)]
                return results

            replay, expected = replay_of(graph), results_of(function)
            for a, b in zip(results_of(replay), expected, strict=True):
                torch.testing.assert_close(a, b, equal_nan=True)
            if backend == "inductor" and device.type == "cpu":
                with torch.no_grad(), suppress(Exception):  # there is no compiler, or it fails
                    faster = replay_of(compiled(graph, [*reads, *first]))
                    if all(map(_close, results_of(faster), expected)):
                        return faster
    except Exception:  # any kind, from a user's program
        return function
    return replay


def _close(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether the result of compiled code is that of the function, up to rounding."""
    if not expected.is_floating_point():
        return torch.equal(actual, expected)
    finite = expected.isfinite()
    if not torch.equal(actual.isfinite(), finite):
        return False
    distance = (actual - expected)[finite].norm()
    return bool(distance <= COMPILED_TOLERANCE.get(expected.dtype, 0.0) * expected[finite].norm())


class _Recorder(TorchDispatchMode):
    """Writes the operations that run within into a graph.

    Attributes:
        reads: the tensors that are neither inputs nor results of an operation within.
    """

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.graph = torch.fx.Graph()
        self.reads: list[torch.Tensor] = []
        self.nodes = WeakTensorKeyDictionary()
        self.effects: set[Node] = set()  # they stay, whether or not their results are used
        self.constants = _Constants()
        for i, tensor in enumerate(inputs):
            self.nodes[tensor] = _described(self.graph.placeholder(f"input_{i}"), tensor)
        self.last_read: Node | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        arguments: list[torch.Tensor] = []
        _replace_tensors((args, kwargs), arguments.append)
        written = written_arguments(func, args, kwargs)
        if any(isinstance(a, torch.Generator) for a in (*args, *kwargs.values())):
            raise RuntimeError(
                f"the program draws from another generator (generator=, {func}), and a replay "
                "draws from torch's random stream alone"
            )
        random = torch.Tag.nondeterministic_seeded in func.tags
        known = not random and all(map(self.constants.__contains__, arguments))
        if torch.Tag.data_dependent_output in func.tags:
            if known:
                return func(*args, **kwargs)
            raise RuntimeError(f"the program looks at a value of its tensors ({func})")
        if torch.Tag.dynamic_output_shape in func.tags and not all(
            map(self.constants.__contains__, _sizing_tensors(func, args, kwargs))
        ):
            raise RuntimeError(
                f"the size of a tensor depends on values of the program's tensors ({func}), as in "
                "x[mask]: torch.where keeps the size"
            )
        result = func(*args, **kwargs)
        if func is aten.lift_fresh.default:  # a literal: no replay may change it
            self.constants.add([result])
            func, args = aten.lift_fresh_copy.default, (result.clone(),)
        elif func is aten.detach.default:
            self.nodes[result] = self._node_of(args[0])  # a replay has no gradients
            return result
        node = self.graph.call_function(func, *_replace_tensors((args, kwargs), self._node_of))
        several = isinstance(result, (tuple, list))
        results = enumerate(result if several else [result])
        tensors = {i: part for i, part in results if isinstance(part, torch.Tensor)}
        for i, tensor in tensors.items():
            part = self.graph.call_function(operator.getitem, (node, i)) if several else node
            self.nodes[tensor] = _described(part, tensor)
        if written or random or not tensors:
            self.effects.add(node)
        if known:
            self.constants.add(tensors.values())
        else:
            self.constants.remove(written)
        return result

    def _node_of(self, tensor: torch.Tensor) -> Node:
        node = self.nodes.get(tensor)
        if node is None:
            if self.last_read is None:  # reads come first
                place = self.graph.inserting_before(next(iter(self.graph.nodes), None))
            else:
                place = self.graph.inserting_after(self.last_read)
            with place:
                node = _described(self.graph.placeholder(f"read_{len(self.reads)}"), tensor)
            self.last_read = node
            self.nodes[tensor] = node
            self.reads.append(tensor)
        return node

    def program(self, result: Sequence[torch.Tensor] | torch.Tensor) -> torch.fx.GraphModule:
        """The recorded operations, without those that have no effect on the result."""
        self.graph.output(_replace_tensors(result, self._node_of))
        self.graph.eliminate_dead_code(lambda n: n.op != "call_function" or n in self.effects)
        return torch.fx.GraphModule(nn.Module(), self.graph)


class _NoReaders(TorchFunctionMode):
    """Refuses that a program looks at values of tensors as numbers of Python.

    Constants are allowed, and integers that the program has from outside, such as sizes in a buffer.
    """

    def __init__(self, recorder: "_Recorder") -> None:
        super().__init__()
        self.recorder = recorder

    def _is_allowed(self, tensor: torch.Tensor) -> bool:
        if tensor in self.recorder.constants:
            return True
        is_own = tensor in self.recorder.nodes and not any(
            tensor is read for read in self.recorder.reads
        )
        return not is_own and not tensor.is_floating_point() and not tensor.is_complex()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in READERS and not self._is_allowed(args[0]):
            raise RuntimeError(f"the program looks at a value of its tensors ({func.__name__})")
        return func(*args, **(kwargs or {}))


def _sizing_tensors(func: Any, args: tuple, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The arguments whose values decide on the size of what an operation returns."""
    if func is aten.index.Tensor:  # of integers, the shape is what counts
        masks = (torch.bool, torch.uint8)
        return [index for index in args[1] if index is not None and index.dtype in masks]
    if func is aten.masked_select.default:
        return [args[1]]
    if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is not None:
        return []
    tensors: list[torch.Tensor] = []
    _replace_tensors((args, kwargs), tensors.append)
    return tensors


class _Constants:
    """The small tensors that have the same value in every replay, by their memory."""

    def __init__(self) -> None:
        self.kept: dict[int, torch.UntypedStorage] = {}  # held, so that no other tensor takes it

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self.kept

    def add(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            if 0 < tensor.numel() <= MAX_CONSTANT:
                self.kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()

    def remove(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            self.kept.pop(tensor.untyped_storage().data_ptr(), None)


def _described(node: Node, tensor: torch.Tensor) -> Node:
    node.meta["shape"] = tensor.shape
    return node


def _replace_tensors(arguments: Any, function: Callable[[torch.Tensor], object]) -> Any:
    """The nested arguments, with `function(tensor)` for each tensor."""

    def replace(value: Any) -> Any:
        return function(value) if isinstance(value, torch.Tensor) else value

    return map_aggregate(arguments, replace)
