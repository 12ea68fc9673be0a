"""Requests to stop a run between two steps: Ctrl-C, SIGTERM, a time limit, a callback."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

INTERRUPTED, MAX_TIME, CALLBACK = "interrupted", "max_time", "callback"


class StopRequest:
    """Whether a run should stop, and why.

    Args:
        max_time: seconds from now after which it should. Default: no limit.

    Attributes:
        reason: `"interrupted"`, `"max_time"` or `"callback"`; None while nothing asks for a stop.
        terminated: whether the process was asked to end (SIGTERM), and no run encloses this one.
    """

    def __init__(self, max_time: float | None = None) -> None:
        self.reason: str | None = None
        self.terminated = False
        self._deadline = None if max_time is None else time.monotonic() + max_time

    def is_set(self) -> bool:
        """Whether the run should stop."""
        if self.reason is None and self._deadline is not None:
            if time.monotonic() >= self._deadline:
                self.reason = MAX_TIME
        return self.reason is not None

    def end_process(self) -> None:
        """Raise the SIGTERM again that asked the process to end, once the run is saved."""
        if self.terminated:
            os.kill(os.getpid(), signal.SIGTERM)


_active: list[tuple[StopRequest, dict[int, Any]]] = []  # with the handlers before, innermost last


@contextmanager
def stop_request(max_time: float | None = None, alone: bool = True) -> Iterator[StopRequest]:
    """A `StopRequest` that the first Ctrl-C, or SIGTERM, sets; a second one acts at once.

    Enclosing requests are set with it: a run within a run ends both. Only the main thread receives
    signals.

    Args:
        max_time: as in `StopRequest`.
        alone: whether this process trains alone. torchrun forwards signals that its processes may
            have received: then the second Ctrl-C is the first one, and SIGTERM (which it also sends
            when another process has died) acts at once.
    """
    stop = StopRequest(max_time)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = [signal.SIGINT, signal.SIGTERM] if alone else [signal.SIGINT]
    current = {int(n): signal.getsignal(n) for n in numbers}
    before = {n: h for n, h in current.items() if h not in (None, signal.SIG_IGN)}

    def handle(number: int, frame: FrameType | None) -> None:
        for request, _ in _active:
            request.reason = INTERRUPTED
        outermost, handlers = _active[0]
        outermost.terminated = outermost.terminated or number == signal.SIGTERM
        if alone and number in handlers:
            signal.signal(number, handlers[number])

    for number in before:
        signal.signal(number, handle)
    _active.append((stop, before))
    try:
        yield stop
    finally:
        _active.pop()
        for number, handler in before.items():
            signal.signal(number, handler)
