"""Ctrl-C, heard between two steps."""

import signal
import threading
from contextlib import contextmanager


@contextmanager
def interrupt_event(twice=True):
    """An event that the first Ctrl-C sets; a second one interrupts at once, if `twice`.

    Not so under torchrun: it passes the signal on that its processes may have had already.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def handler(number, frame):
        stop.set()
        if twice:
            signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handler)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
