"""Ctrl-C, handled between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_active: list[tuple[threading.Event, Any]] = []  # events and the handlers before, innermost last


@contextmanager
def interrupt_event(twice: bool = True) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one interrupts at once, if `twice`.

    `twice` is False under torchrun, which forwards a signal that its processes may have received.
    """
    stop = threading.Event()  # an enclosing one is set with it: a run in a run ends both
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def handler(number: int, frame: FrameType | None) -> None:
        for event, _ in _active:
            event.set()
        if twice:
            signal.signal(signal.SIGINT, _active[0][1])

    signal.signal(signal.SIGINT, handler)
    _active.append((stop, before))
    try:
        yield stop
    finally:
        _active.pop()
        signal.signal(signal.SIGINT, before)
