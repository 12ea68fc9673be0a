"""The files of a run folder that say how the run was configured and how it went."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..train import checkpoint
from ..train.settings import EXTENDABLE
from .files import as_json

CONFIG = "config.yaml"
RECORD = "config.json"
RESTARTS = "restarts"  # folder of the restarts, in the run folder
FILES = (CONFIG, RECORD, "metrics.jsonl", "checkpoint.pt", "report.html")


def check_unedited(config: Mapping[str, Any], record: Mapping[str, Any], folder: Path) -> None:
    """Raise unless the configuration is the one that the run was started with."""
    started = record.get("config")
    if not isinstance(started, dict):
        raise UserError(f"{folder / RECORD} does not say which configuration the run had")
    present = as_json(config)
    for key, value in started.items():
        if key not in EXTENDABLE and present.get(key) != value:
            raise UserError(
                f"{folder / CONFIG} was edited: {key}={present.get(key)}, and the run had {value}"
            )


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The history that a run folder holds."""
    return checkpoint.read_history(folder / "metrics.jsonl")


def best_epoch(history: list[dict[str, Any]]) -> int | None:
    """The epoch with the best validation ELBO; the last one without validation."""
    validated = [row for row in history if "elbo" in row]
    if validated:
        return max(validated, key=lambda row: row["elbo"])["epoch"]
    return history[-1]["epoch"] if history else None
