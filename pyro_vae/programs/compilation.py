"""Inductor's programs, compiled once for all recordings of the same operations."""

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .._torch_internals import compile_graph

MAX_PROGRAMS = 64  # that a process keeps

_programs: OrderedDict[str, Callable[..., Any]] = OrderedDict()


def compiled(graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
    """Inductor's code for a recording.

    Two recordings of the same operations on inputs of the same shapes have the same code: restarts,
    seeds and guides of a comparison in one process are compiled once. Between processes, torch keeps
    the code on disk (`TORCHINDUCTOR_CACHE_DIR`).

    Args:
        graph: the recording; all tensors that it reads are inputs.
        inputs: its inputs.
    """
    key = _key(graph, inputs)
    program = _programs.pop(key, None)
    if program is None:
        if all(t.device.type == "cpu" for t in inputs):
            graph = with_biases_after_products(graph)
        program = compile_graph(graph, inputs)
    _programs[key] = program  # the latest one is the last
    while len(_programs) > MAX_PROGRAMS:
        _programs.popitem(last=False)
    return program


def with_biases_after_products(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """A copy of a recording in which a row of biases is added to a product by an operation of its own.

    On a CPU, `addmm` first copies the biases into every row of its result. As an operation of its own
    the sum is part of the loop that follows. The sum is written as `product - (-bias)`, which has the
    same value: Inductor would put `product + bias` into an `addmm`.
    """
    graph, aten = copy.deepcopy(graph), torch.ops.aten

    def is_bias(node: Any) -> bool:
        return isinstance(node, torch.fx.Node) and len(node.meta.get("shape", ())) == 1

    def is_product(node: Any) -> bool:
        return isinstance(node, torch.fx.Node) and node.target is aten.mm.default

    for node in list(graph.graph.nodes):
        if node.kwargs or node.target not in (aten.addmm.default, aten.add.Tensor):
            continue
        with graph.graph.inserting_before(node):
            if node.target is aten.addmm.default:
                bias, *factors = node.args
                if not is_bias(bias):
                    continue
                product = graph.graph.call_function(aten.mm.default, tuple(factors))
            else:
                product, bias = sorted(node.args, key=is_bias)
                if not (is_product(product) and is_bias(bias)):
                    continue
            negative = graph.graph.call_function(aten.neg.default, (bias,))
            total = graph.graph.call_function(aten.sub.Tensor, (product, negative))
        node.replace_all_uses_with(total)
        graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _key(graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> str:
    """A digest of all that the code depends on."""
    layouts = [(tuple(t.shape), t.stride(), t.dtype, t.device) for t in inputs]
    # a program that writes one of two inputs in the same memory is another one
    memory = [t.untyped_storage().data_ptr() for t in inputs]
    aliases = [memory.index(pointer) for pointer in memory]
    modes = (
        torch.get_num_threads(),  # Inductor writes the number into its loops
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
    )
    return hashlib.sha256(repr((graph.code, layouts, aliases, modes)).encode()).hexdigest()
