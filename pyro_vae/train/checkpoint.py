"""Files that hold a run: tensors and JSON, written whole or not at all, never executed."""

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..errors import UserError
from .optimizer import is_plain
from .untrusted import Unsafe, check_archive, check_content, parse_json, read_text

KIND = "pyro_vae checkpoint"
FORMAT = f"{KIND} 4"
UNKNOWN = "unknown"  # the `stop_reason` of checkpoints that were written without one


# ---------------------------------------------------------------------- writing


def write_atomically(path: Path | str, write: Callable[[Path], object]) -> None:
    """`write(temporary path)`, then rename: a reader sees the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)  # a link in its place would be written through
        write(temporary)
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        if e.filename is not None:
            e.filename, e.filename2 = str(path), None  # the file that the caller named
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, value: object) -> None:
    write_atomically(path, lambda p: p.write_text(json.dumps(value, indent=2) + "\n"))


def save(path: Path | str, state: dict[str, Any]) -> None:
    """Write a dict of tensors, numbers and strings, with a digest of all of it.

    Raises:
        OSError: the file cannot be written (a full disk, a folder that is gone).
    """
    save_tensors(path, {"format": FORMAT, "version": __version__, **state})


def save_tensors(path: Path | str, content: dict[str, Any]) -> None:
    """Write a dict of tensors, numbers and strings, with a digest of all of it; see `load_tensors`.

    Raises:
        OSError: the file cannot be written (a full disk, a folder that is gone).
    """

    def write(temporary: Path) -> None:
        try:
            with open(temporary, "wb") as f:
                torch.save({**content, "digest": digest(content)}, f)
        except RuntimeError as e:  # torch's own words for a write that failed
            cause = e.__cause__ or e.__context__
            raise cause if isinstance(cause, OSError) else OSError(str(e).splitlines()[0]) from e

    write_atomically(path, write)


def digest(value: object) -> str:
    """The SHA-256 digest of nested dicts and lists of tensors, numbers, strings and None."""
    sha = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, torch.Tensor):
            sha.update(f"{value.dtype}{tuple(value.shape)}".encode())
            array = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            sha.update(array.data)
        elif isinstance(value, dict):
            sha.update(f"dict {len(value)}".encode())
            for key, item in value.items():
                sha.update(repr(key).encode())
                add(item)
        elif isinstance(value, (list, tuple)):
            sha.update(f"list {len(value)}".encode())
            for item in value:
                add(item)
        else:
            sha.update(repr(value).encode())

    add(value)
    return sha.hexdigest()


# ---------------------------------------------------------------------- reading


def read_json(path: Path | str) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: no such file, or no JSON.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: is this a run folder?")
    try:
        return parse_json(read_text(path))
    except UserError:
        raise
    except ValueError as e:
        raise UserError(f"{path} is not valid JSON: {e}") from e


def read_history(path: Path | str) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, one per epoch.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = Path(path)
    try:
        rows = [parse_json(line) for line in read_text(path).splitlines()]
    except ValueError:  # a UserError too
        rows = None
    if rows is None or not _is_rows(rows):
        raise UserError(f"{path} is missing or damaged: is this a run folder?")
    return rows


def load(path: Path | str) -> dict[str, Any]:
    """What `save` wrote. Nothing in the file is executed, and no more is read than its size.

    Raises:
        UserError: the file is missing, truncated, damaged, foreign, unsafe, or not whole.
    """
    state = _read(Path(path), "a checkpoint of this library")
    written_as = state.get("format")
    if written_as != FORMAT:
        if isinstance(written_as, str) and written_as.startswith(KIND):
            raise UserError(
                f"{path} is a {written_as!r}, and pyro_vae {__version__} reads {FORMAT!r}: use the "
                f"version that wrote it ({state.get('version', 'not recorded')})"
            )
        raise UserError(f"{path} is not a checkpoint of this library ({FORMAT!r} is not in it)")
    _check_digest(state, path)
    state.setdefault("stop_reason", UNKNOWN)
    for name, check in FIELDS.items():
        if name not in state:
            raise UserError(f"{path} is not a whole checkpoint: it lacks {name!r}")
        if not check(state[name]):
            raise UserError(f"{path} is not a whole checkpoint: its {name!r} is malformed")
    return state


def load_tensors(path: Path | str, kind: str) -> dict[str, Any]:
    """What `save_tensors` wrote. Nothing in the file is executed, and no more is read than its size.

    Args:
        path: of the file.
        kind: what the file should be, for errors.

    Raises:
        UserError: the file is missing, truncated, damaged, foreign or unsafe.
    """
    content = _read(Path(path), kind)
    _check_digest(content, path)
    return content


def _read(path: Path, kind: str) -> dict[str, Any]:
    """The dict in a file of tensors."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        check_content(content, path.stat().st_size)
    except Exception as e:  # torch raises many kinds for damaged files
        raise UserError(f"{path} is not {kind}: {_why_refused(e)}") from e
    return content if isinstance(content, dict) else {}


def _check_digest(content: dict[str, Any], path: Path | str) -> None:
    """Take the digest out of the content, and raise unless it is that of the rest."""
    written = content.pop("digest", None)
    if digest(content) != written:
        raise UserError(f"{path} is damaged: its content does not match its digest")


def _why_refused(error: Exception) -> str:
    if isinstance(error, Unsafe):
        return str(error)
    if "weights_only" in str(error) or "Unsupported" in str(error):
        return "the file would execute code"
    return "the file is damaged"


def check_config(folder: Path | str, state: dict[str, Any] | None = None) -> None:
    """Raise unless a run folder's `config.json` is the one that the run was trained with.

    Args:
        folder: a run folder; one without a `config.json` passes.
        state: the folder's checkpoint, if it is loaded already.

    Raises:
        UserError: the configuration was edited since; the setting is named.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        return
    state = load(Path(folder) / "checkpoint.pt") if state is None else state
    present, trained = read_json(path), json.loads(state["config"])
    name = _first_difference(present, trained)
    if name is not None:
        raise UserError(
            f"{path} was edited since training: {name} is {_at(present, name)}, the run was trained "
            f"with {_at(trained, name)}; restore it, or train a run with the new setting"
        )


def load_state(
    module: torch.nn.Module, state: dict[str, torch.Tensor], what: str, path: object
) -> None:
    """`module.load_state_dict`, with a one-line error for a mismatch."""
    try:
        module.load_state_dict(state)
    except (RuntimeError, KeyError) as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        detail = lines[1] if len(lines) > 1 else lines[0]
        raise UserError(f"{path} does not fit this {what}: {detail}") from e


def _first_difference(a: object, b: object, prefix: str = "") -> str | None:
    """The dotted name of the first setting in which two configurations differ; None if none."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return None if a == b else prefix.removesuffix(".") or "its content"
    for name in dict.fromkeys([*b, *a]):
        if name not in a or name not in b:
            return prefix + name
        difference = _first_difference(a[name], b[name], f"{prefix}{name}.")
        if difference is not None:
            return difference
    return None


def _at(config: object, name: str) -> str:
    for part in name.split("."):
        if not isinstance(config, dict) or part not in config:
            return "absent"
        config = config[part]
    return repr(config)


# ---------------------------------------------------------------------- fields


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items()
    )


def _is_weights(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"modules", "free", "frozen"}
        and all(isinstance(part, list) for part in value.values())
        and all(map(_is_state_dict, value["modules"]))
        and all(isinstance(p, torch.Tensor) for p in value["free"])
        and all(isinstance(n, str) for names in value["frozen"] for n in names)
    )


PROGRESS: dict[str, Callable[[Any], bool]] = {
    "epoch": lambda v: _is_number(v, int) and v >= 0,
    "batch": lambda v: _is_number(v, int) and v >= 0,
    "total": lambda v: _is_number(v, float) and math.isfinite(v),
    "seen": lambda v: _is_number(v, int) and v >= 0,
    "seconds": lambda v: _is_number(v, float) and v >= 0,
    "best_elbo": lambda v: _is_number(v, float),
    "best_epoch": lambda v: v is None or _is_number(v, int),
}


def _is_progress(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == PROGRESS.keys()
        and all(check(value[name]) for name, check in PROGRESS.items())
    )


def _is_optimizer(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"state", "param_groups"}
        and isinstance(value["state"], dict)
        and all(map(_is_settings, value["state"].values()))
        and isinstance(value["param_groups"], list)
        and len(value["param_groups"]) > 0
        and all(map(_is_settings, value["param_groups"]))
    )


def _is_settings(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(k, str) and is_plain(v) for k, v in value.items()
    )


def _is_json(kind: Any) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        try:
            return isinstance(value, str) and isinstance(json.loads(value), kind)
        except (ValueError, RecursionError):
            return False

    return check


def _is_history(value: Any) -> bool:
    return _is_json(list)(value) and _is_rows(json.loads(value))


def _is_rows(rows: list[Any]) -> bool:
    return all(isinstance(row, dict) and _is_number(row.get("epoch"), int) for row in rows)


def _is_streams(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.uint8


FIELDS: dict[str, Callable[[Any], bool]] = {
    "weights": _is_weights,
    "best": lambda v: v is None or _is_weights(v),
    "optimizer": _is_optimizer,
    "rng": _is_streams,
    "rng_cuda": lambda v: v is None or _is_streams(v),
    "progress": _is_progress,
    "history": _is_history,
    "settings": _is_json(dict),
    "config": _is_json(dict),
    "schema": _is_json(dict | None),
    "stop_reason": lambda v: v is None or isinstance(v, str),
}
