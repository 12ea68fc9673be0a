"""How a run computes its steps: plainly, recorded, or compiled."""

import importlib.util
import os
import shutil
from collections.abc import Sequence
from typing import NamedTuple

from ...errors import unknown_name_error

BACKENDS = ("plain", "recorded", "inductor")


class StepTime(NamedTuple):
    """Measured milliseconds of a training step, by the arithmetic of the step.

    Args:
        gflop: estimated as 6 x data points x parameters, in 10^9.
        plain, recorded, inductor: milliseconds with each backend.
    """

    gflop: float
    plain: float
    recorded: float
    inductor: float


#: One CPU core (AMD EPYC, torch 2.14), by `python -m benchmarks.speed.backends`.
CPU_STEPS = (
    StepTime(0.08, 6.1, 3.9, 1.8),
    StepTime(1.4, 23.6, 21.6, 9.9),
)
#: One GPU, by rules of thumb: the launches of kernels dominate, and a CUDA graph replays them.
CUDA_STEPS = (StepTime(0.0, 2.0, 1.0, 0.5), StepTime(1000.0, 102.0, 101.0, 90.5))
RECORD_SECONDS, COMPILE_SECONDS = 0.6, 10.0


def choose_backend(compile: bool | str, steps: int, flops: float, cuda: bool = False) -> str:
    """`plain`, `recorded` or `inductor`, for `fit`'s argument `compile` and the length of its run.

    `"auto"` compares the time that a run saves with the time that a recording (0.6 s) and its
    compilation (10 s) take, and chooses the fastest. What a step saves is read from a table of
    measured steps, by the step's arithmetic, and not from a clock: the same run on the same machine
    always has the same backend. A run is compiled only where there is a compiler. A checkpoint
    records the backend, and a resumed run keeps it.

    Args:
        compile: `"auto"`, `True` (compiled), `False` (plain), or the name of a backend.
        steps: number of steps in the run.
        flops: floating-point operations per step, 6 x data points x parameters.
        cuda: whether the run is on a GPU.

    Raises:
        UserError: an unknown name.

    Example:
        >>> from pyro_vae.train.steps.choice import choose_backend
        >>> choose_backend("auto", steps=50, flops=1e8)
        'plain'
        >>> choose_backend("auto", steps=1000, flops=1e8)
        'recorded'
    """
    if compile in (True, False):
        return "inductor" if compile else "plain"
    if compile in BACKENDS:
        return str(compile)
    if compile != "auto":
        raise unknown_name_error("compile", compile, ("auto", "True", "False", *BACKENDS))
    time = step_time(flops, cuda)
    seconds = {
        "plain": steps * time.plain / 1e3,
        "recorded": steps * time.recorded / 1e3 + RECORD_SECONDS,
        "inductor": steps * time.inductor / 1e3 + RECORD_SECONDS + COMPILE_SECONDS,
    }
    if not has_compiler(cuda):
        del seconds["inductor"]
    return min(seconds, key=seconds.__getitem__)


def step_time(flops: float, cuda: bool = False) -> StepTime:
    """The time of a step with so much arithmetic: interpolated in the table, constant outside it.

    Example:
        >>> from pyro_vae.train.steps.choice import step_time
        >>> step_time(1e8).plain > step_time(1e8).recorded > step_time(1e8).inductor
        True
    """
    return _interpolated(CUDA_STEPS if cuda else CPU_STEPS, flops / 1e9)


def _interpolated(steps: Sequence[StepTime], gflop: float) -> StepTime:
    gflop = min(max(gflop, steps[0].gflop), steps[-1].gflop)
    for before, after in zip(steps, steps[1:], strict=False):
        if gflop <= after.gflop:
            part = (gflop - before.gflop) / (after.gflop - before.gflop)
            return StepTime(*(a + part * (b - a) for a, b in zip(before, after, strict=True)))
    return steps[-1]


def has_compiler(cuda: bool = False) -> bool:
    """Whether Inductor has what it needs: a C++ compiler; on a GPU, Triton and a C compiler."""
    if cuda and importlib.util.find_spec("triton") is None:
        return False
    names = ("CC", "gcc", "clang") if cuda else ("CXX", "g++", "clang++")
    return any(shutil.which(os.environ.get(name, name)) for name in names)
