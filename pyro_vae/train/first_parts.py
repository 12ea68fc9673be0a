"""Where the parts that an initialization trains first are kept, until the run has a checkpoint.

An interruption during an initialization loses nothing then: the run that continues finds the parts
that have finished, and the checkpoint of those that have not.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ..data import Data
from ..programs.identity import identity
from . import distributed

FOLDER = "initialization"  # in a run's folder

_kept_in: ContextVar[Path | None] = ContextVar("kept_in", default=None)


@contextmanager
def parts_kept_in(run_folder: Path | None) -> Iterator[None]:
    """Within, initializations keep their parts in the folder of a run.

    Args:
        run_folder: of the run; None: nothing is kept. Of several processes that train one run none
            keeps its parts.
    """
    alone = distributed.size() == 1
    token = _kept_in.set(run_folder / FOLDER if run_folder is not None and alone else None)
    try:
        yield
    finally:
        _kept_in.reset(token)


def remove_parts(run_folder: Path | None) -> None:
    """Remove the parts that are kept in the folder of a run, which no longer needs them."""
    if run_folder is not None and distributed.rank() == 0:
        with suppress(OSError):
            shutil.rmtree(run_folder / FOLDER)


def folder_of_parts(options: Any, model: Any, guide: Any, data: Any, seed: int) -> Path | None:
    """The folder of an initialization's parts, another one for everything that they depend on.

    Args:
        options: of the initialization.
        model, guide: the pair, with the weights from which it is initialized.
        data: what it is trained on.
        seed: of the initialization.

    Returns:
        A folder, which may not exist; None where nothing is kept.
    """
    parent = _kept_in.get()
    if parent is None or not isinstance(data, Data):
        return None
    return parent / identity(options, data, seed, model, guide)[:16]
