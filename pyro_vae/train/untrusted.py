"""Files that anyone may have written: read within bounds, and checked before they are used.

A small file can stand for a large object: a compressed archive, a tensor that repeats one number, a
list that contains another one many times. What is read here has at most the size of its file.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError

MAX_TEXT = 2**28  # bytes of a JSON or YAML file
MAX_ITEMS = 2_000_000  # of nested dicts and lists, together
MAX_DEPTH = 32


class Unsafe(ValueError):
    """Why the content of a file is not used."""


def read_text(path: Path) -> str:
    """The text of a regular file of bounded size.

    Raises:
        UserError: not a file, too large, not UTF-8, or it cannot be read.
    """
    try:
        if not path.is_file():
            raise UserError(f"{path} is not a file")
        size = path.stat().st_size
        if size > MAX_TEXT:
            raise UserError(f"{path} is too large for its kind: {size:,} bytes")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not text in UTF-8: {e}") from e
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON, nested too deeply, or with a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError as e:
        raise ValueError("it is nested too deeply") from e


def check_archive(path: Path) -> None:
    """Check that a file is a zip archive without compression, as `torch.save` writes them.

    Raises:
        Unsafe: it is not, or its parts are larger than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as e:
        raise Unsafe("the file is damaged, or of another kind") from e
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise Unsafe("the file has compressed parts")
    if sum(part.file_size for part in parts) > path.stat().st_size:
        raise Unsafe("the file has parts larger than itself")


def check_content(value: object, max_bytes: int) -> None:
    """Check that a loaded value consists of tensors, numbers and strings, and is as large as its file.

    Args:
        value: nested dicts, lists and tuples.
        max_bytes: of all tensors together.

    Raises:
        Unsafe: something else, too deep nesting, too many items, or tensors that are larger.
    """
    items, num_bytes = 0, 0
    pending: list[tuple[object, int]] = [(value, 0)]
    while pending:
        value, depth = pending.pop()
        items += 1
        if items > MAX_ITEMS or depth > MAX_DEPTH:
            raise Unsafe("the file has too many nested items")
        if isinstance(value, torch.Tensor):
            num_bytes += value.numel() * value.element_size()
            _check_tensor(value)
            if num_bytes > max_bytes:
                raise Unsafe("the file has tensors larger than itself")
        elif isinstance(value, dict):
            if len(value) + items > MAX_ITEMS:
                raise Unsafe("the file has too many nested items")
            pending += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, (list, tuple)):
            if len(value) + items > MAX_ITEMS:
                raise Unsafe("the file has too many nested items")
            pending += [(part, depth + 1) for part in value]
        elif isinstance(value, int) and not isinstance(value, bool):
            if value.bit_length() > 64:
                raise Unsafe("the file has an integer of more than 64 bits")
        elif not (value is None or isinstance(value, (bool, float, str))):
            raise Unsafe(f"the file has a {type(value).__name__}")


def _check_tensor(tensor: torch.Tensor) -> None:
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise Unsafe("the file has a tensor that is not dense")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise Unsafe("the file has a tensor larger than its memory")
