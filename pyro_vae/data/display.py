"""How data are shown: whole data points, and the names and scales of the columns of a table."""

import math
from typing import NamedTuple

import torch

from .arrays import column_moments
from .conditions import Condition
from .dataset import Data


def joined(data: Data, x: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    """x as it is shown: the whole image, if c are pixels of the same image."""
    condition = data.dense_condition
    return condition.join(x, c) if isinstance(condition, Condition) and c is not None else x


def label_names(data: Data) -> list[str] | None:
    """The names of the labels, those of the frame's column; None if the data came from no frame."""
    labels = None if data.table is None else data.table.labels
    return None if labels is None else [str(value) for value in labels.categories]


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
