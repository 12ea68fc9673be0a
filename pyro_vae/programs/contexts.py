"""Contexts that a program is run in: eval mode, a separate random stream, weights kept."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.nn.parameter import is_lazy

from ..errors import checked_seed
from .modules import find_modules
from .runtime import exclusive


@contextmanager
def eval_mode(*programs: object) -> Iterator[None]:
    """Modules in eval mode, and back to what each submodule was in; one thread at a time."""
    with exclusive():
        was = [(m, m.training) for p in find_modules(*programs) for m in p.modules()]
        try:
            for p in find_modules(*programs):
                p.eval()
            yield
        finally:
            for m, training in was:
                m.training = training


@contextmanager
def fork_rng(device: str | torch.device | None = None) -> Iterator[None]:
    """Torch's random streams, on the CPU and `device`, are left as they were; one thread at a time."""
    cuda = device is not None and torch.device(device).type == "cuda"
    with exclusive(), torch.random.fork_rng(devices=[device] if cuda else []):
        yield


@contextmanager
def values_kept(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Within, tensors may be written in place; afterwards they have their values again."""
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)


@contextmanager
def modules_kept(*programs: object) -> Iterator[None]:
    """Within, the programs' modules may be trained or frozen; afterwards they are as before."""
    modules = find_modules(*programs)
    parameters = [p for m in modules for p in m.parameters() if not is_lazy(p)]
    buffers = [b for m in modules for b in m.buffers() if not is_lazy(b)]
    learned = [p.requires_grad for p in parameters]
    with values_kept([*parameters, *buffers]):
        try:
            yield
        finally:
            for parameter, learns in zip(parameters, learned, strict=True):
                parameter.requires_grad_(learns)


@contextmanager
def seeded(seed: int | None, device: str | torch.device | None = None) -> Iterator[None]:
    """Run with this seed, and leave the caller's random stream as it was. None: run in that stream."""
    if seed is None:
        yield
        return
    with fork_rng(device):
        set_seed(checked_seed(seed))
        yield


def set_seed(seed: int) -> None:
    """Seed torch's random streams, as `torch.manual_seed` does.

    Where there is no accelerator, that formats the call stack for each kind of accelerator, which takes a
    millisecond or more, and keeps the text for the day that there is one.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
