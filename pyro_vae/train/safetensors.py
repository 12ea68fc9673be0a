"""Files in the safetensors format: named tensors and text, without code.

A file is the length N of a header (8 bytes, little-endian), N bytes of JSON, and the bytes of the
tensors, one after the other. See https://github.com/huggingface/safetensors#format.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from .checkpoint import write_atomically
from .untrusted import parse_json

MAX_HEADER = 10**8  # bytes, by the format
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_tensors(
    path: Path | str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Write named tensors and texts.

    Args:
        path: the file.
        tensors: of the types that the format has.
        metadata: texts by name.

    Raises:
        UserError: a tensor of another type.
        OSError: the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    arrays, position = [], 0
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES:
            raise UserError(f"{name} is {tensor.dtype}, which safetensors does not have")
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        array = flat.view(torch.uint8).numpy() if flat.numel() else flat.numpy()
        end = position + array.nbytes
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        arrays.append(array)
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for array in arrays:
                file.write(array.data)

    write_atomically(path, write)


def read_tensors(path: Path | str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """`(tensors, metadata)` of a file.

    Raises:
        UserError: the file is missing, truncated, damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, MAX_HEADER):
                raise ValueError("its header is longer than the file")
            header = parse_json(file.read(length).decode())
            content = file.read()
        return _parsed(header, content)
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e
    except (ValueError, struct.error, KeyError, TypeError) as e:
        reason = "" if isinstance(e, (struct.error, KeyError, TypeError)) else f": {e}"
        raise UserError(f"{path} is damaged, or not a safetensors file{reason}") from e


def _parsed(header: Any, content: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata are not texts")
    tensors: dict[str, torch.Tensor] = {}
    position = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        (begin, end), shape, dtype = entry["data_offsets"], entry["shape"], DTYPES[entry["dtype"]]
        if not all(type(n) is int and n >= 0 for n in (begin, end, *shape)):
            raise ValueError(f"the shape or the place of {name!r} is no list of integers")
        count = 1
        for length in shape:
            count *= length
        if begin != position or end > len(content) or end - begin != count * dtype.itemsize:
            raise ValueError(f"the size of {name!r} is not that of its shape")
        values = bytearray(content[begin:end])  # tensors own their memory, and can be written
        flat = torch.frombuffer(values, dtype=dtype) if count else torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(shape)
        position = end
    if position != len(content):
        raise ValueError("it has bytes that belong to no tensor")
    return tensors, metadata
