"""Ctrl-C, handled between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupt_event(twice: bool = True) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one interrupts at once, if `twice`.

    `twice` is False under torchrun, which forwards a signal that its processes may have received.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def handler(number: int, frame: FrameType | None) -> None:
        stop.set()
        if twice:
            signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handler)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
