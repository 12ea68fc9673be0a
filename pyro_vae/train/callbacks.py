"""Callbacks: a user's code at the start of a run, after every epoch, and at its end."""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import UserError
from ..programs.contexts import fork_rng
from . import distributed

if TYPE_CHECKING:
    from .fit import Run

Metrics = dict[str, Any]


class Callback:
    """What `fit` calls in a run. A subclass overrides what it needs.

    Example:
        >>> import torch, pyro_vae as pv
        >>> class StopAt(pv.train.Callback):
        ...     def __init__(self, loss):
        ...         self.loss = loss
        ...     def on_epoch(self, run, metrics):
        ...         return metrics["loss"] < self.loss
        >>> model = pv.models.VAE((3,), 2, likelihood="normal")
        >>> guide, x = pv.guides.Guide(model), torch.randn(20, 3)
        >>> run = pv.fit(model, guide, x, epochs=9, callbacks=[StopAt(1e6)], progress=False)
        >>> len(run.history), run.stop_reason
        (1, 'callback')
    """

    def on_start(self, run: "Run") -> None:
        """Called before the first epoch of the run, or of its continuation.

        Args:
            run: the run so far; a resumed one has its earlier epochs in `run.history`.
        """

    def on_epoch(self, run: "Run", metrics: Metrics) -> bool | None:
        """Called after every epoch, its validation included.

        Args:
            run: the run so far. `run.model` and `run.guide` have the weights of this epoch.
            metrics: a copy of the epoch's row of `run.history`.

        Returns:
            True to stop the run.
        """
        return None

    def on_end(self, run: "Run") -> None:
        """Called when the run has ended, however it did, after a call of `on_start`.

        Args:
            run: the run. After an error it is what there was of it.
        """


class _EpochFunction(Callback):
    """A plain function as a callback."""

    def __init__(self, function: Callable[["Run", Metrics], bool | None]) -> None:
        self.function = function

    def on_epoch(self, run: "Run", metrics: Metrics) -> bool | None:
        return self.function(run, metrics)


def as_callbacks(callbacks: Iterable[object]) -> list[Callback]:
    """The callbacks of `fit`: each a `Callback`, or a function of `(run, metrics)`.

    Raises:
        UserError: something else.
    """
    is_one = isinstance(callbacks, Callback) or callable(callbacks)
    if is_one or not isinstance(callbacks, Iterable):
        raise UserError("callbacks must be a list, such as callbacks=[pv.train.TensorBoard()]")
    result: list[Callback] = []
    for callback in callbacks:
        if isinstance(callback, Callback):
            result.append(callback)
        elif callable(callback) and not isinstance(callback, type) and _takes_two(callback):
            result.append(_EpochFunction(callback))
        else:
            raise UserError(
                "a callback must be a pv.train.Callback or a function of (run, metrics), not "
                f"{callback!r}"
            )
    return result


def _takes_two(function: Callable[..., object]) -> bool:
    """Whether a function can be called with `(run, metrics)`, so far as its signature is known."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a builtin function without a signature
        pass
    return True


class Callbacks:
    """The callbacks of one run, called in the process of rank 0.

    What a callback draws is not taken from the random stream of the training: a run has the same
    numbers with and without callbacks.

    Args:
        callbacks: those of the run.
        device: of the run.
    """

    def __init__(self, callbacks: list[Callback], device: torch.device) -> None:
        self.callbacks, self.device = callbacks, device
        self._started: list[Callback] = []

    def start(self, run: "Run") -> None:
        """Call every `on_start`."""
        self._on_rank_zero(partial(self._start, run))

    def _start(self, run: "Run") -> None:
        for callback in self.callbacks:
            callback.on_start(run)
            self._started.append(callback)

    def epoch(self, run: "Run", metrics: Metrics) -> bool:
        """Call every `on_epoch`; returns whether one asked for a stop."""
        return bool(self._on_rank_zero(partial(self._epoch, run, metrics)))

    def _epoch(self, run: "Run", metrics: Metrics) -> bool:
        answers = [callback.on_epoch(run, dict(metrics)) for callback in self.callbacks]
        for answer in answers:
            if not (answer is None or isinstance(answer, (bool, np.bool_))):
                raise UserError(
                    "a callback must return True to stop the run, else False or None, not "
                    f"{answer!r}"
                )
        return any(answers)

    def end(self, run: "Run") -> None:
        """Call `on_end` of those that were started."""
        self._on_rank_zero(partial(self._end, run))

    def _end(self, run: "Run") -> None:
        while self._started:
            self._started.pop(0).on_end(run)

    def _on_rank_zero(self, call: Callable[[], Any]) -> Any:
        if not self.callbacks:
            return None
        with fork_rng(self.device), torch.enable_grad():
            return distributed.on_rank_zero(call)


class TensorBoard(Callback):
    """Writes the numbers of every epoch for TensorBoard.

    It needs the package tensorboard: `pip install "pyro-vae[tensorboard]"`.

    Args:
        folder: of the event files. Default: `tensorboard` in the run folder.

    Raises:
        UserError: tensorboard is not installed, or the run has no folder and none is named.

    Example:
        >>> import pyro_vae as pv
        >>> callbacks = [pv.train.TensorBoard("runs/tensorboard")]  # doctest: +SKIP
        >>> pv.fit(model, guide, data, callbacks=callbacks)  # doctest: +SKIP
    """

    def __init__(self, folder: Path | str | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                'TensorBoard needs the package tensorboard: pip install "pyro-vae[tensorboard]"'
            ) from None
        self.folder, self._make_writer = folder, SummaryWriter
        self._writer: Any = None

    def on_start(self, run: "Run") -> None:
        folder = self.folder
        if folder is None:
            if run.out is None:
                raise UserError("TensorBoard() needs a folder, or a run with out=")
            folder = run.out / "tensorboard"
        # what a stopped run has written beyond its checkpoint is replaced
        self._writer = self._make_writer(str(folder), purge_step=len(run.history) + 1)

    def on_epoch(self, run: "Run", metrics: Metrics) -> None:
        for name, value in metrics.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, metrics["epoch"])
        self._writer.flush()

    def on_end(self, run: "Run") -> None:
        self._writer.close()
