"""Inductor's programs, compiled once for all recordings of the same operations."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..._torch_internals import compile_graph

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
        program = compile_graph(graph, inputs)
    _programs[key] = program  # the latest one is the last
    while len(_programs) > MAX_PROGRAMS:
        _programs.popitem(last=False)
    return program


def _key(graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> str:
    """A digest of all that the code depends on."""
    layouts = [(tuple(t.shape), t.stride(), t.dtype, t.device) for t in inputs]
    modes = (
        torch.get_num_threads(),  # Inductor writes the number into its loops
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
    )
    return hashlib.sha256(repr((graph.code, layouts, modes)).encode()).hexdigest()
