"""Every private or undocumented name of torch that the library uses, each with its reason.

Tested with torch 2.8, 2.11 and 2.14; `tests/test_internals.py` pins each name.
"""

import functools
import logging
import warnings
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn as nn
from torch.distributions import Distribution
from torch.distributions.mixture_same_family import (
    MixtureSameFamilyConstraint as _MixtureConstraint,
)
from torch.distributions.utils import lazy_property
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _python_dispatch

# The base class of `BatchNorm1d`, `2d`, `3d` and `SyncBatchNorm`, which torch does not export.
BatchNorm = _BatchNorm

# The only way to see the operations of a program below autograd, and what they write.
TorchDispatchMode = _python_dispatch.TorchDispatchMode

# The support of a `MixtureSameFamily`, which torch does not export: that of its components is meant.
MixtureSameFamilyConstraint = _MixtureConstraint


class NormalOfLazyFactor(dist.MultivariateNormal):
    """A multivariate normal whose Cholesky factor is computed when something asks for it.

    torch's class takes the factor when it is made, and keeps it under this name. A subclass defines
    `factor()`.
    """

    def set_shapes(self, batch_shape: torch.Size, d: int, validate_args: bool | None) -> None:
        """What `Distribution.__init__` does, after the subclass has set its arguments."""
        Distribution.__init__(self, batch_shape, torch.Size([d]), validate_args)

    def factor(self) -> torch.Tensor:
        """The lower Cholesky factor of the covariance: `[..., D, D]`."""
        raise NotImplementedError

    @lazy_property
    def _unbroadcasted_scale_tril(self) -> torch.Tensor:
        return self.factor()


# These write running statistics, though their schemas do not say so.
_WRITE_STATISTICS = ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm")


@functools.cache
def touch_constant_table() -> None:
    """Pass -0.0 to log1p, once: log1p and softplus are then faster in this process, with the same values.

    Least CPU time on `[512, 784]`, one thread, median over 7 fresh processes each, taken in turn: log1p
    0.44 ms cold and 0.31 ms after, softplus 0.88 and 0.69 (`benchmarks/results/constant_table.json`).
    Medians over calls on a busy machine were once the other way round for log1p.
    `python -m benchmarks.speed.constant_table` tells whether this is still needed.
    """
    torch.log1p(torch.tensor([-0.0]))


@functools.cache
def keep_freed_memory() -> None:
    """Free a block of almost 32 MiB, once: glibc then keeps freed blocks of that size for the next ones.

    Until a block of some size was freed, glibc maps every larger one anew and returns it at once, and
    the kernel fills each page with zeros when it is first written. The largest block that counts has 32
    MiB; with it glibc keeps at most 64 MiB at the end of its heap. Nothing is written here, so that the
    block itself takes no memory. Other allocators are not affected.

    The CPU time of 500 importance samples of 200 images falls by a third, that of a plain training step
    by a twentieth to a tenth (`benchmarks/results/freed_memory.json`); `python -m
    benchmarks.speed.freed_memory` tells whether this is still needed.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def compile_graph(graph: Any, inputs: Sequence[torch.Tensor]) -> Callable[..., Any]:
    """Inductor's code for a graph: `torch.compile` takes Python functions only.

    With a `ShapeEnv` around, torch keeps the compiled graph on disk, and not the code of its loops
    alone, so that the next process need not lower it again. The shapes are those of the inputs.

    `fallback_random` draws from torch's own stream. `emulate_precision_casts` keeps rounding to bf16
    and back, which a fused kernel would leave out. `cpp.threads` is what Inductor takes unasked; named,
    it is part of what the graph is found by.

    On a CPU the code that allocates and calls the loops is C++ too (`cpp_wrapper`), and not Python. It
    does not know all operations; a graph that has others gets it in Python.
    """
    options = {
        "fallback_random": True,
        "emulate_precision_casts": True,
        "cpp.threads": torch.get_num_threads(),
    }
    if all(t.device.type == "cpu" for t in inputs):
        try:
            return _compile(graph, inputs, {**options, "cpp_wrapper": True})
        except Exception:  # of many types; without a compiler, the next one fails too
            pass
    return _compile(graph, inputs, options)


def _compile(
    graph: Any, inputs: Sequence[torch.Tensor], options: dict[str, Any]
) -> Callable[..., Any]:
    # that CUDA is not there, that an operation is called by way of Python, and that a function of torch
    # is deprecated, does not concern the user
    logs = [logging.getLogger(n) for n in ("torch.utils.cpp_extension", "torch._inductor.ir")]
    levels = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch._guards import TracingContext, tracing  # all of these take seconds
            from torch._inductor.compile_fx import compile_fx
            from torch._subclasses import FakeTensorMode
            from torch.fx.experimental.symbolic_shapes import ShapeEnv

            with tracing(TracingContext(FakeTensorMode(shape_env=ShapeEnv()))):
                program: Any = compile_fx(
                    graph, list(inputs), config_patches=options, ignore_shape_env=True
                )
                return program
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def tensor_slots(module: nn.Module) -> tuple[MutableMapping, MutableMapping]:
    """The dicts that hold a module's own parameters and buffers: to see when one is replaced."""
    return module._parameters, module._buffers


def with_separate_modules(module: nn.Module) -> None:
    """Give a `copy.copy` of a module its own dict of submodules: it shares the original's."""
    module._modules = dict(module._modules)


def base_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """The tensor whose view it is; None for no view."""
    return tensor._base


def leaf_of(node: Any) -> torch.Tensor | None:
    """The leaf tensor whose gradient a node of the autograd graph accumulates; None for other nodes."""
    return getattr(node, "variable", None)


def written_arguments(function: Any, args: Sequence, kwargs: dict) -> list[torch.Tensor]:
    """The tensors that a call of an ATen operation writes, by its schema."""
    schema = function._schema
    written: list[Any] = []
    if schema.name.split("::")[1] in _WRITE_STATISTICS:
        written += args[3:5]
    for i, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            written += value if isinstance(value, (list, tuple)) else [value]
    return [value for value in written if isinstance(value, torch.Tensor)]


def categorical_of(distribution: Distribution) -> Distribution | None:
    """The `Categorical` within a one-hot distribution; None for other distributions.

    It draws without a check of values on the host. Its logits can be set without normalizing them.
    """
    return getattr(distribution, "_categorical", None)


def num_components(distribution: Distribution) -> int:
    """In how many components a `MixtureSameFamily` takes its density; 1 for other distributions."""
    return getattr(distribution, "_num_component", 1)
