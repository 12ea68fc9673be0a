"""A run's folder: `config.json`, `metrics.jsonl`, `checkpoint.pt`, held by one run at a time."""

import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import UserError
from . import checkpoint

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows: a folder is then not locked
    fcntl = None

_descriptors: set[int] = set()  # of the locks that this process holds

if hasattr(os, "register_at_fork"):  # a worker must not hold a lock longer than its parent

    def _close_in_child() -> None:
        for descriptor in _descriptors:
            os.close(descriptor)
        _descriptors.clear()

    os.register_at_fork(after_in_child=_close_in_child)


class RunFolder:
    """The files of a run. Every write is whole or not at all, and can be repeated.

    `claim` locks the folder with `flock` on `.lock`, which the system releases when the process
    ends, however it ends. Where there is no `flock` (Windows, some network file systems), two runs
    on one folder are not detected.

    All data of the files are kept in memory: a folder that is removed while training is written
    again at the next write.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config: dict[str, Any] = {}
        self.files: dict[str, str] = {}
        self.rows: int | None = None  # rows of metrics.jsonl that are known to be written
        self.descriptor: int | None = None
        self.created = False  # whether `claim` made the folder

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        if self.descriptor is None:
            return
        if self._is_current(self.descriptor):
            (self.path / ".lock").unlink(missing_ok=True)
        self._let_go()
        if self.created and self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()

    # ------------------------------------------------------------------ the lock

    def claim(self) -> None:
        """Make the folder if need be, and lock it.

        Raises:
            UserError: another run holds it, or it cannot be written.
        """
        with self._one_line():
            self.created = self.created or not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            for name in ("config.json", "metrics.jsonl", "checkpoint.pt"):
                if (self.path / name).is_dir():
                    raise UserError(f"{self.path / name} is a folder, and the run needs that name")
            while self.descriptor is None or not self._is_current(self.descriptor):
                self._let_go()
                self.descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
                _descriptors.add(self.descriptor)
                self._lock(self.descriptor)

    def _lock(self, descriptor: int) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
            self._let_go()
            raise UserError(
                f"{self.path} is in use by another run{f' ({holder})' if holder else ''}: wait "
                "until it ends, or choose another folder"
            ) from None
        except OSError:
            return  # a file system without locks
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def _is_current(self, descriptor: int) -> bool:
        """Whether the file that is locked is still the one in the folder."""
        try:
            in_folder, locked = os.stat(self.path / ".lock"), os.fstat(descriptor)
        except OSError:
            return False
        return os.path.samestat(in_folder, locked)

    def _let_go(self) -> None:
        if self.descriptor is not None:
            _descriptors.discard(self.descriptor)
            os.close(self.descriptor)
            self.descriptor = None

    # ------------------------------------------------------------------ reading

    def check_free(
        self, hint: str = "use resume=True to continue it or choose another directory"
    ) -> None:
        """Raise if the folder already contains a run.

        Args:
            hint: what to do about it.

        Raises:
            UserError: it has a checkpoint, or epochs were trained here.
        """
        metrics = self.path / "metrics.jsonl"
        with self._one_line():
            trained = metrics.is_file() and metrics.stat().st_size > 0
            trained = trained or (self.path / "restarts").is_dir()  # of a method
            if trained or self.checkpoint.is_file():
                raise UserError(f"{self.path} already contains a run; {hint}")

    def can_resume(self) -> bool:
        """Whether the folder, claimed, has a checkpoint; one without has no epoch to lose.

        Raises:
            UserError: epochs were trained here, and their checkpoint is gone.
        """
        if self.checkpoint.exists():
            return True
        metrics = self.path / "metrics.jsonl"
        if metrics.exists() and metrics.stat().st_size:
            raise UserError(
                f"{self.path} has a run without its checkpoint.pt: restore the file, or start a "
                "new run in another folder"
            )
        return False

    # ------------------------------------------------------------------ writing

    def start(self, config: dict[str, Any]) -> None:
        """Begin a run in a folder that is free.

        Args:
            config: of `config.json`; `config["files"]` are further files, `{name: text}`.
        """
        self.config, self.rows = dict(config), 0
        self.files = self.config.pop("files", {})
        with self._one_line():
            self._write_config()
            (self.path / "metrics.jsonl").write_text("")

    def discard(self) -> None:
        """Remove the files of a run that has trained nothing."""
        names = ("checkpoint.pt", "metrics.jsonl", "config.json", *self.files)
        with self._one_line():
            for name in names:
                (self.path / name).unlink(missing_ok=True)

    def resume(self, config: dict[str, Any], history: list[dict[str, Any]]) -> None:
        """Continue a run: `metrics.jsonl` has the checkpoint's epochs, and no later ones."""
        self.config, self.rows = config, None
        yaml = self.path / "config.yaml"
        self.files = {yaml.name: yaml.read_text()} if yaml.exists() else {}
        self.write_metrics(history)

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        """Append the rows that `metrics.jsonl` lacks; write it anew where that is not known."""
        path = self.path / "metrics.jsonl"
        with self._one_line():
            self._ensure()
            known, self.rows = self.rows, None
            if known is None or not path.exists():
                checkpoint.write_atomically(path, lambda p: p.write_text(_lines(history)))
            else:
                with open(path, "a") as f:
                    f.write(_lines(history[known:]))
            self.rows = len(history)

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint; the old one stays where that fails."""
        with self._one_line():
            self._ensure()
            checkpoint.save(self.checkpoint, {**state, "config": json.dumps(self.config)})
        if self.rows is None or not (self.path / "metrics.jsonl").exists():
            self.write_metrics(json.loads(state["history"]))

    def _ensure(self) -> None:
        """The folder as it was, if it was removed."""
        if self.path.is_dir() and (self.path / "config.json").exists():
            return
        warnings.warn(f"{self.path} was removed while training; it is written again", stacklevel=2)
        self.rows = None
        self.claim()
        self._write_config()

    def _write_config(self) -> None:
        for name, text in self.files.items():
            checkpoint.write_atomically(self.path / name, partial(_write_text, text))
        checkpoint.write_json(self.path / "config.json", self.config)

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except (OSError, ValueError) as e:  # ValueError: a name with a null byte
            reason = getattr(e, "strerror", None) or str(e)
            raise UserError(f"cannot write to {str(self.path)[:60]!r}: {reason}") from e


def _write_text(text: str, path: Path) -> None:
    path.write_text(text)


def _lines(history: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in history)
