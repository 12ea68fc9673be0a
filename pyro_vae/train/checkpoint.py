"""Files that hold a run: tensors and JSON, written whole or not at all, never executed."""

import json
import os
from pathlib import Path

import torch

from ..errors import UserError

FORMAT = "pyro_vae checkpoint 1"


def write_atomically(path, write):
    """`write(temporary path)`, then rename: a reader sees the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path, value):
    write_atomically(path, lambda p: p.write_text(json.dumps(value, indent=2) + "\n"))


def read_json(path):
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: is this a run folder?") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is not valid JSON: {e}") from e


def save(path, state):
    """A dict of tensors, numbers and strings."""
    write_atomically(path, lambda p: torch.save({"format": FORMAT, **state}, p))


def load(path):
    """What `save` wrote, loaded with `weights_only=True`: a pickle that would run code is refused.

    Raises:
        UserError: the file is missing, truncated, foreign or unsafe.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many kinds for damaged files
        kind = (
            "would execute code"
            if "weights_only" in str(e) or "Unsupported" in str(e)
            else "is damaged"
        )
        raise UserError(f"{path} is not a checkpoint of this library: the file {kind}") from e
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this library ({FORMAT!r} is not in it)")
    missing = {"weights", "best", "optimiser", "rng", "progress", "history", "settings"} - set(
        state
    )
    if missing:
        raise UserError(f"{path} is not a whole checkpoint: it lacks {sorted(missing)[0]!r}")
    return state


def load_state(module, state, what, path):
    """`module.load_state_dict`, with a mismatch told in one line."""
    try:
        module.load_state_dict(state)
    except (RuntimeError, KeyError) as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        detail = lines[1] if len(lines) > 1 else lines[0]
        raise UserError(f"{path} does not fit this {what}: {detail}") from e
