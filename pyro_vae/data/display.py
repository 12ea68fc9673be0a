"""How data are shown: whole data points, and the names and scales of the columns of a table."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import UserError, unknown_name_error
from .arrays import column_moments
from .conditions import Condition
from .dataset import Data


def joined(data: Data, x: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    """x as it is shown: the whole image, if c are pixels of the same image."""
    condition = data.dense_condition
    return condition.join(x, c) if isinstance(condition, Condition) and c is not None else x


def label_names(data: Data) -> list[str] | None:
    """The names of the labels as text; None if they have no names but their numbers."""
    return None if data.class_names is None else [str(name) for name in data.class_names]


def class_number(y: Any, class_names: Sequence[Any]) -> int:
    """The number of the class that a caller means: by its name, or by its number.

    Where names are whole numbers themselves, such as 1, 2 and 3, `y` is a name.

    Example:
        >>> from pyro_vae.data.display import class_number
        >>> class_number("dogs", ("cats", "dogs")), class_number(1, ("cats", "dogs"))
        (1, 1)
        >>> class_number(1, (1, 2, 3))
        0

    Raises:
        UserError: no such class; the nearest is named.
    """
    texts = [str(name) for name in class_names]
    y = int(y) if isinstance(y, Integral) else y
    for number, (name, text) in enumerate(zip(class_names, texts, strict=True)):
        if y == name or str(y) == text:
            return number
    if isinstance(y, str) and y.isdecimal() and str(int(y)) == y:
        y = int(y)  # of the command line; 01 is no number of a class
    is_number = isinstance(y, int) and 0 <= y < len(texts)
    if is_number and not any(text.lstrip("-").isdigit() for text in texts):
        return y
    raise unknown_name_error("class", y, texts)


class ShownColumns(NamedTuple):
    """The columns of data points as they are shown, in their original units.

    Example:
        >>> import pyro_vae as pv
        >>> from pyro_vae.data.display import shown_columns
        >>> frame = {"income": [25e3, 35e3], "married": [True, False]}
        >>> columns = shown_columns(pv.data.from_frame(frame, valid=0, test=0))
        >>> columns.names, columns.mean.tolist(), columns.sd.tolist()
        (['income', 'married'], [30000.0, 0.5], [5000.0, 0.5])
    """

    names: list[str] | None  #: `[D]`, those of the frame
    mean: torch.Tensor | None  #: `[D]` in the training split; None: the columns have one scale
    sd: torch.Tensor | None  #: `[D]`; 1 of a constant column


def named_columns(data: Data, x: torch.Tensor) -> dict[Any, np.ndarray]:
    """`{column: values [N]}` in original units: the columns of the frame, else `x_0`, `x_1`, ...

    Args:
        data: that a pair was trained on.
        x: `[N, D]`, as the pair takes it.

    Raises:
        UserError: x is no vector.

    Example:
        >>> import pyro_vae as pv
        >>> from pyro_vae.data.display import named_columns
        >>> data = pv.data.from_frame({"height": [1.5, 2.5], "sex": ["m", "f"]}, valid=0, test=0)
        >>> {name: values.tolist() for name, values in named_columns(data, data.train.x).items()}
        {'height': [1.5, 2.5], 'sex': ['m', 'f']}
    """
    original = data.unstandardize(x)
    if original.dim() != 2:
        raise UserError(f"x has shape {list(x.shape)}: columns are of vectors, [N, D]")
    if data.table is not None:
        return data.table.decode(original)
    return {f"x_{i}": column.cpu().numpy() for i, column in enumerate(original.unbind(1))}


def shown_columns(data: Data) -> ShownColumns:
    """The names of the columns, and the scale that makes them comparable.

    Counts alone, and values between 0 and 1 alone, are on one scale already. Other columns, and
    those of several kinds, are compared by their mean and standard deviation in the training split,
    of the values that are not missing.
    """
    table = data.table
    if data.sparse is not None:  # counts
        return ShownColumns(None if table is None else table.names, None, None)
    part = data.observed_split("train")
    x = data.unstandardize(joined(data, part.x, part.c)).flatten(1)
    names = None
    if table is not None and math.prod(x.shape[1:]) == len(table.names):
        names = table.names
    kinds = {column.kind for column in table.columns} if table is not None else set()
    known = x[~x.isnan()]
    one_scale = bool((known >= 0).all()) and (
        bool((known <= 1).all()) or bool((known == known.round()).all())
    )
    if one_scale and len(kinds) < 2:
        return ShownColumns(names, None, None)
    mean, sd = column_moments(x)
    return ShownColumns(names, mean, torch.where(sd > 0, sd, 1.0))
