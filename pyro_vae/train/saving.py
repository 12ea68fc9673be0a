"""The files of a run while it trains: written by one process, and again after a write that failed."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..data import Data
from ..errors import UserError
from . import distributed
from .folder import RunFolder
from .inputs import Inputs

History = list[dict[str, Any]]


class Saving:
    """A run's folder, or none, as the training loop uses it. All processes take part.

    A write that fails costs a warning, and is tried again with the next one. Only the failure of the
    last checkpoint is an error.
    """

    def __init__(self, folder: RunFolder | None) -> None:
        self.folder = folder
        self._begun = False  # whether the folder's files are those of this run
        self.has_progress = False  # whether its checkpoint has training steps that would be lost
        self._unsaved: UserError | None = None  # of the last checkpoint

    @property
    def path(self) -> Path | None:
        """The checkpoint's path; None without a folder."""
        return None if self.folder is None else self.folder.checkpoint

    @property
    def folder_path(self) -> Path | None:
        """The folder's path; None without a folder."""
        return None if self.folder is None else self.folder.path

    def start(self, config: dict[str, Any], inputs: Inputs) -> None:
        """Lock the folder, and write the files of a new run.

        Args:
            config: for `config.json`.
            inputs: the `Inputs` of the pair; their data are described there too.
        """
        if self.folder is not None:
            distributed.on_rank_zero(partial(self._start, self.folder, config, inputs))
            self._begun = True

    @staticmethod
    def _start(folder: RunFolder, config: dict[str, Any], inputs: Inputs) -> None:
        folder.claim()
        folder.check_free()
        data = inputs.data
        described = data.describe() if isinstance(data, Data) else {"name": "stream"}
        count = distributed.processes()
        many = {"processes": count} if count > 1 else {}
        folder.start({**config, **many, "data": described})

    def record(self, **more: Any) -> None:
        """Add to `config.json` what is known once the run has begun."""
        if self.folder is not None:
            distributed.on_rank_zero(partial(self.folder.record, more))

    def resume(self, config: dict[str, Any], history: History, files: dict[str, str]) -> None:
        """Continue a run: the folder's files become those of its checkpoint."""
        if self.folder is not None:
            distributed.on_rank_zero(partial(self.folder.resume, config, history, files))
            self._begun = self.has_progress = True

    def write_metrics(self, history: History) -> None:
        """Write the history, a row per epoch."""
        if self.folder is not None and distributed.rank() == 0:
            self._try(partial(self.folder.write_metrics, history))

    def write_checkpoint(self, captured: dict[str, Any], final: bool) -> None:
        """Write what `state.capture` returned; `final` if there is no later one."""
        if self.folder is not None:
            save = partial(self.folder.save, captured)
            self._unsaved = distributed.on_rank_zero(lambda: self._try(save, final))
            if self._unsaved is None:
                at = captured["progress"]
                self.has_progress = at["epoch"] > 0 or at["batch"] > 0

    def raise_if_unsaved(self) -> None:
        """Raise the error of the last checkpoint, if it could not be written."""
        if self._unsaved is not None:
            raise self._unsaved

    def discard_start(self) -> None:
        """Remove the files of a run that failed before it had any progress: they would block the next.

        A checkpoint that could not be written keeps the files: the run can continue from its start.
        """
        if self.folder is None or self.has_progress or self._unsaved is not None:
            return
        if self._begun and distributed.rank() == 0:
            self.folder.discard()

    @staticmethod
    def _try(write: Callable[[], None], final: bool = False) -> UserError | None:
        """The error of a write that failed, or None; all but the last one are only warned of."""
        try:
            write()
        except UserError as e:
            if not final:
                warnings.warn(f"{e}; training continues, and writes again later", stacklevel=2)
            return e
        return None
