"""One thread at a time: Pyro's stack, torch's random stream and a module's mode are global.

Two threads that run pairs at once would meet in each other's effect handlers and draw from each
other's random streams. Everything here that runs a pair does so within `exclusive`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

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
        yield
    finally:
        _long = outer
        _lock.release()
