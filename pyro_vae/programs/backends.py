"""How what is computed many times is computed: plainly, recorded, or compiled."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from .._torch_internals import TorchDispatchMode
from ..errors import unknown_name_error

BACKENDS = ("plain", "recorded", "inductor")
# What a step saves, fitted to `benchmarks/results/backends.json` (one CPU core), within a factor of two.
RECORD_MS_PER_OPERATION = 0.01
COMPILE_MS_PER_OPERATION = 0.006
MS_PER_MILLION = 0.2, 0.35  # per million numbers that the operations of the loss return
CUDA_MS_PER_OPERATION = 0.005  # on a GPU: there the launches of kernels dominate
RECORD_SECONDS = 0.3
#: Between what it takes where torch has the program on disk (2 to 4 s there) and what it takes the
#: first time (19 to 34 s): most runs are not repeated.
COMPILE_SECONDS = 8.0


class Work(NamedTuple):
    """The size of a loss.

    Args:
        operations: number of tensor operations.
        numbers: how many numbers they return.
    """

    operations: int
    numbers: int


def check_compile(compile: bool | str) -> None:
    """Raise unless `compile` is one of the values that `fit` takes."""
    if compile not in (True, False, "auto", *BACKENDS):
        raise unknown_name_error("compile", compile, ("auto", "True", "False", *BACKENDS))


def choose_backend(
    compile: bool | str, steps: int, work: Work | None = None, cuda: bool = False
) -> str:
    """`plain`, `recorded` or `inductor`, for `fit`'s argument `compile` and the length of its run.

    `"auto"` compares the time that a run saves with the time that a recording (0.3 s) and its
    compilation (8 s: less where torch has the program on disk, more the first time) take. What a
    step saves is estimated from the operations of its loss, and not by a clock: the same run always
    has the same backend. A run is compiled only where there is a compiler. A checkpoint records the
    backend, and a resumed run keeps it.

    Args:
        compile: `"auto"`, `True` (compiled), `False` (plain), or the name of a backend.
        steps: number of steps in the run.
        work: the size of the loss; needed for `"auto"`.
        cuda: whether the run is on a GPU.

    Raises:
        UserError: an unknown name.

    Example:
        >>> from pyro_vae.programs.backends import Work, choose_backend
        >>> [choose_backend("auto", steps, Work(150, 1_000_000)) for steps in (100, 1000, 10_000)]
        ['plain', 'recorded', 'inductor']
    """
    check_compile(compile)
    if compile in (True, False):
        return "inductor" if compile else "plain"
    if compile in BACKENDS:
        return str(compile)
    if work is None:
        raise ValueError("compile='auto' needs the size of the loss")
    per_million, more_per_million = (ms * work.numbers / 1e6 for ms in MS_PER_MILLION)
    record = RECORD_MS_PER_OPERATION * work.operations + per_million
    more = COMPILE_MS_PER_OPERATION * work.operations + more_per_million
    if cuda:
        more = CUDA_MS_PER_OPERATION * work.operations
    saved = {"plain": 0.0, "recorded": 1e-3 * steps * record - RECORD_SECONDS}
    if has_compiler(cuda):
        saved["inductor"] = saved["recorded"] + 1e-3 * steps * more - COMPILE_SECONDS
    return max(saved, key=saved.__getitem__)


def measure_work(function: Callable[[], Any]) -> tuple[Any, Work]:
    """What a function returns, and the size of what it computes.

    The first loss of a pair does more: it finds out how the pair is run.

    Example:
        >>> import torch
        >>> from pyro_vae.programs.backends import measure_work
        >>> measure_work(lambda: (torch.zeros(2, 3) + 1).sum())
        (tensor(6.), Work(operations=3, numbers=13))
    """
    with _Counter() as counter:
        result = function()
    return result, Work(counter.operations, counter.numbers)


class _Counter(TorchDispatchMode):
    """Counts the operations that run within, and the numbers that they return."""

    operations = numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        parts = result if isinstance(result, (tuple, list)) else [result]
        self.numbers += sum(t.numel() for t in parts if isinstance(t, torch.Tensor))
        return result


def has_compiler(cuda: bool = False) -> bool:
    """Whether Inductor has what it needs: a C++ compiler; on a GPU, Triton and a C compiler."""
    if cuda and importlib.util.find_spec("triton") is None:
        return False
    names = ("CC", "gcc", "clang") if cuda else ("CXX", "g++", "clang++")
    return any(shutil.which(os.environ.get(name, name)) for name in names)
