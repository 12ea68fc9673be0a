"""A run's folder: `config.json`, `metrics.jsonl`, `checkpoint.pt`, held by one run at a time."""

import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import checkpoint
from .first_parts import remove_parts
from .lock import FolderLock
from .untrusted import read_text

FILES = (".lock", "config.json", "config.yaml", "metrics.jsonl", "checkpoint.pt")


class RunFolder:
    """The files of a run. Every write is whole or not at all, and can be repeated.

    The content of the files is kept in memory: a folder that is removed while training is written
    again at the next write.

    Args:
        path: the folder; `claim` makes it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config: dict[str, Any] = {}
        self.files: dict[str, str] = {}
        self.rows: int | None = None  # rows of metrics.jsonl that are known to be written
        self.lock = FolderLock(self.path)
        self.created = False  # whether `claim` made the folder

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint.pt"

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self.lock.release()
        if self.created and self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()

    def claim(self) -> None:
        """Make the folder if need be, and lock it.

        Raises:
            UserError: another run holds it, or it cannot be written.
        """
        with self._one_line():
            self.created = self.created or not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            for path in map(self.path.joinpath, FILES):
                if path.is_dir():
                    raise UserError(f"{path} is a folder, and the run needs that name")
                if path.is_symlink():  # what it points to would be changed
                    raise UserError(
                        f"{path} is a symbolic link, and a run writes files of its folder alone: "
                        "copy the folder"
                    )
            self.lock.acquire()

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

    def check_writable(self) -> None:
        """Raise unless the folder can be made or written to; nothing is left there."""
        try:
            with suppress(FileNotFoundError):
                self.path.lstat()  # raises for a name that cannot be
            parent = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
            with tempfile.TemporaryDirectory(dir=parent):
                pass
        except (OSError, ValueError) as e:
            reason = getattr(e, "strerror", None) or e
            raise UserError(f"cannot write to {str(self.path)[:60]!r}: {reason}") from None

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

    def record(self, more: dict[str, Any]) -> None:
        """Add to `config.json`; the checkpoint that is written next has it too."""
        self.config |= more
        with self._one_line():
            self._write_config()

    def discard(self) -> None:
        """Remove the files of a run that has trained nothing."""
        names = ("checkpoint.pt", "metrics.jsonl", "config.json", *self.files)
        with self._one_line():
            for name in names:
                (self.path / name).unlink(missing_ok=True)
        remove_parts(self.path)

    def resume(
        self, config: dict[str, Any], history: list[dict[str, Any]], files: dict[str, str]
    ) -> None:
        """Continue a run: `metrics.jsonl` has the checkpoint's epochs, and no later ones.

        Args:
            config, history: those of the checkpoint.
            files: texts by name, written anew. Default, {}: `config.yaml` stays.
        """
        self.config, self.rows = config, None
        yaml = self.path / "config.yaml"
        self.files = files or ({yaml.name: read_text(yaml)} if yaml.exists() else {})
        with self._one_line():
            self._write_config()
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
