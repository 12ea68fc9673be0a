"""The progress of a run: a bar, or a function that is called instead."""

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

from tqdm import std as standard
from tqdm.auto import tqdm

#: Called with the history's row of each epoch that ends; bars are then not shown.
_listener: ContextVar[Callable[[dict[str, Any]], None] | None] = ContextVar(
    "listener", default=None
)
_label: ContextVar[str] = ContextVar("label", default="")


@contextmanager
def bars_labeled(text: str) -> Iterator[None]:
    """Within, the bars of runs begin with a label."""
    token = _label.set(text)
    try:
        yield
    finally:
        _label.reset(token)


@contextmanager
def epochs_reported_to(listener: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Within, runs with a visible bar call `listener` after each epoch instead of showing it."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class _LogBar(standard.tqdm):
    """A bar for a log file, which keeps every update: a line every ten seconds, and the last one."""

    seconds = 10.0
    _written = -math.inf

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        return lambda text: print(text, file=file, flush=True)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        now, last = time.monotonic(), pos is not None  # only `close` gives a position
        if last or now - self._written >= self.seconds:
            self._written = now
            super().display(msg, pos)


def make_bar(visible: bool, **options: Any) -> standard.tqdm:
    """A bar of tqdm, which a log file has as few lines."""
    # A notebook's output is no terminal, but replaces the bar as one does.
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    replaced = in_notebook or sys.stderr is None or sys.stderr.isatty()
    kind = tqdm if replaced else _LogBar
    return kind(disable=not visible, dynamic_ncols=True, **options)


class EpochBar:
    """A bar of epochs, which is closed at the end of the context."""

    def __init__(self, label: str | None, total: int, done: int, visible: bool) -> None:
        self._bar = make_bar(visible, desc=label, total=total, initial=done, unit="epoch")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def _show_numbers(self, row: Mapping[str, Any], **others: object) -> None:
        """Show the numbers of an epoch: a row of the history; the count stays."""
        numbers = {**others, "loss": f"{row['loss']:.2f}"}
        if "elbo" in row:
            numbers["valid ELBO"] = f"{row['elbo']:.2f}"
        numbers["data/s"] = f"{row['data_per_second']:,}"
        self._bar.set_postfix(numbers, refresh=False)


class ProgressBar(EpochBar):
    """A bar that counts epochs and shows the latest epoch's numbers."""

    def __init__(self, epochs: int, done: int, visible: bool) -> None:
        self._listener, self._label = _listener.get() if visible else None, _label.get()
        super().__init__(
            self._label or None, epochs, done, visible=visible and self._listener is None
        )

    def show_status(self, text: str) -> None:
        """Show what is being done, e.g. that a step is compiled."""
        self._bar.set_description(f"{self._label}, {text}" if self._label else text)

    def show_epoch(self, row: dict[str, Any]) -> None:
        """Show the numbers of an epoch that has ended: a row of the history."""
        if self._listener is not None:
            self._listener(row)
        self._show_numbers(row)
        self._bar.update()


class PartsBar(EpochBar):
    """A bar that counts the epochs of parts which are trained alike: restarts, or first VAEs.

    Args:
        label: after "2 of 4": "restarts finished".
        part: what a part is called.
        epochs: of one part.
        count: number of parts.
        finished: how many have finished already.
        visible: whether to show the bar.
    """

    def __init__(
        self, label: str, part: str, epochs: int, count: int, finished: int, visible: bool
    ) -> None:
        self._listener = _listener.get() if visible else None
        self.visible = visible
        self._label, self._part, self._epochs = label, part, epochs
        self._count, self._finished = count, finished
        self._shown: Counter[int] = Counter()
        super().__init__(
            self._description(), count * epochs, finished * epochs,
            visible and self._listener is None,
        )  # fmt: skip

    def show_epoch(self, index: int, row: Mapping[str, Any]) -> None:
        """Count an epoch of a part, and show its numbers."""
        if self._listener is not None:
            self._listener(dict(row))
        self._show_numbers(row, **{self._part: index})
        if self._shown[index] < self._epochs:
            self._shown[index] += 1
            self._bar.update()

    def finish(self, index: int) -> None:
        """Count a part as finished, with the epochs that it did not need."""
        self._finished += 1
        self._bar.set_description(self._description(), refresh=False)
        self._bar.update(self._epochs - self._shown[index])

    def _description(self) -> str:
        return f"{self._finished} of {self._count} {self._label}"
