"""One thread at a time: Pyro's stack, torch's random stream and a module's mode are global.

Two threads that run pairs at once would meet in each other's effect handlers and draw from each
other's random streams. Everything here that runs a pair does so within `exclusive`, and computes with
`flushed_denormals`.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import UserError

_lock = threading.RLock()
_long: str | None = None  # the name of the long operation that holds the lock


@contextmanager
def exclusive(operation: str | None = None) -> Iterator[None]:
    """Within, only this thread runs pairs; nested use in the same thread is free.

    A thread waits while another one evaluates. While another one trains, which can take hours, it
    raises instead.

    Args:
        operation: the name of a long operation, e.g. `"fit"`, which other threads do not wait for.

    Raises:
        UserError: another thread is in a long operation.
    """
    global _long
    while not _lock.acquire(timeout=0.05):
        if _long is not None:
            raise UserError(
                f"another thread of this process is in {_long}, and Pyro runs one pair at a time: "
                "wait until it ends, or use a second process"
            )
    outer = _long
    try:
        _long = outer or operation
        with flushed_denormals():
            yield
    finally:
        _long = outer
        _lock.release()


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Within, a result below the smallest normal number (1e-38 in float32) is zero, as in XLA's code.

    Processors are slow with such numbers. The probabilities of components that a data point does not
    belong to are such numbers: after ten epochs of `gmvae` on digits a step takes half the time
    without them (`python -m benchmarks.speed.denormals`).
    """
    if flushes_denormals() or not torch.set_flush_denormal(True):
        yield
        return
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def flushes_denormals() -> bool:
    """Whether this thread computes zero for results below the smallest normal number."""
    smallest = sys.float_info.min
    return smallest / 2 == 0.0
