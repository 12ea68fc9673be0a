"""Arrays as JSON values, which the scripts of a page read."""

import base64
from collections.abc import Mapping, Sequence
from typing import TypedDict, Union

import torch

from ..data.display import ShownColumns
from ..generate.decoder_arrays import DecoderArrays

JsonValue = Union[
    str, int, float, bool, None, Sequence["JsonValue"], Mapping[str, "JsonValue"], "Packed"
]


class Packed(TypedDict):
    """An array: its type (f4: float32, u1: bytes), its shape, and its values in base64."""

    dtype: str
    shape: list[int]
    data: str


def pack(values: torch.Tensor) -> Packed:
    """An array of floats as float32, or of bytes.

    Example:
        >>> import torch
        >>> from pyro_vae.exploration.payload import pack
        >>> pack(torch.tensor([1, 2], dtype=torch.uint8))
        {'dtype': 'u1', 'shape': [2], 'data': 'AQI='}
    """
    is_bytes = values.dtype == torch.uint8
    array = values.detach().cpu().to(torch.uint8 if is_bytes else torch.float32).numpy()
    content = base64.b64encode(array.astype("u1" if is_bytes else "<f4").tobytes()).decode()
    return {"dtype": "u1" if is_bytes else "f4", "shape": list(values.shape), "data": content}


def as_bytes(images: torch.Tensor, white: float) -> torch.Tensor:
    """Images as bytes: 0 is black, `white` becomes 255; missing values (NaN) are black."""
    return (255 * images / white).nan_to_num().round().clamp(0, 255).to(torch.uint8)


def described_columns(columns: ShownColumns) -> dict[str, JsonValue]:
    """The names of the columns of x, and their mean and standard deviation; None where there are none."""
    return {
        "names": columns.names,
        "mean": None if columns.mean is None else columns.mean.tolist(),
        "sd": None if columns.sd is None else columns.sd.tolist(),
    }


def packed_decoder(arrays: DecoderArrays) -> dict[str, JsonValue]:
    """The layers, the activation and the map to the mean of a decoder."""
    layers = [[pack(weight), pack(bias)] for weight, bias in arrays.layers]
    return {"layers": layers, "activation": arrays.activation, "mean": arrays.mean}
