"""Columns of x, or of covariates c, with mean zero and standard deviation one."""

import copy
import dataclasses
from typing import Any

import torch

from ..conditionals import Columns
from ..conditionals.missing import without_missing
from ..conditionals.support import real_columns
from ..errors import UserError, unknown_name_error
from .arrays import column_moments
from .dataset import Data


def standardize(data: Data, name: str = "x") -> Data:
    """The same data, every column of x less its mean and divided by its standard deviation.

    Of a table with columns of several kinds, only those with real numbers are. Mean and deviation are those of the training split, of values that are not missing. A column that is constant
    there is only centered. They are computed in float64.

    Likelihoods of the pair are then those of the standardized values: a log-density in the original
    units is less by `Data.log_abs_det_jacobian`. A run reports the original units.

    The units of a pair are those of the data that it was trained on: `Data.unstandardize` takes its
    samples, reconstructions and means to the original units, `Data.standardize_values` takes new data
    to the pair's units, and `Data.standardize_covariates` new covariates.

    Args:
        data: the data.
        name: x, or c: the covariates of a conditional model. Columns of c that hold only 0 and 1, as
            classes do, stay as they are.

    Raises:
        UserError: data that are binarized or standardized already; no covariates.

    Example:
        >>> import torch, pyro_vae as pv
        >>> data = pv.data.from_arrays(100 + 15 * torch.randn(50, 2))
        >>> data = pv.data.standardize(data)
        >>> bool(data.train.x.mean().abs() < 1e-5)
        True
    """
    if name == "c":
        return _standardize_covariates(data)
    if name != "x":
        raise unknown_name_error("array to standardize", name, ("x", "c"))
    if data.sparse is not None:
        raise UserError(f"{data.name} is sparse: pass x.toarray() to standardize its columns")
    if data.binarize != "none" or data.scaling is not None:
        raise UserError(f"{data.name} is binarized or standardized already")
    mean, sd = column_moments(data.train.x)
    scaled = sd > 0
    real = _real_columns(data)
    if real is not None:
        scaled, mean = scaled & real, torch.where(real, mean, 0.0)
    sd = torch.where(scaled, sd, 1.0)
    source = None if data.source is None else {**data.source, "standardize": True}
    return data.map_splits(
        lambda split: dataclasses.replace(split, x=_scaled(split.x, mean, sd)),
        scaling=(mean, sd),
        source=source,
    )


def _real_columns(data: Data) -> torch.Tensor | None:
    """`[D]`: which columns are real numbers, of a table of several kinds; None for all of x."""
    if isinstance(data.likelihood, str):
        return None
    if data.table is not None:
        return data.table.is_real
    family = without_missing(data.likelihood)
    return real_columns(family, data.x_shape[0]) if isinstance(family, Columns) else None


def _standardize_covariates(data: Data) -> Data:
    c = data.own_covariates
    if c is None:
        raise UserError(f"{data.name} has no covariates c to standardize")
    if data.c_scaling is not None:
        raise UserError(f"the covariates of {data.name} are standardized already")
    mean, sd = column_moments(c)
    is_class = ((c == 0) | (c == 1)).all(0)
    mean, sd = torch.where(is_class, 0.0, mean), torch.where(is_class | (sd == 0), 1.0, sd)
    source = None if data.source is None else {**data.source, "standardize_c": True}
    changes: dict[str, Any] = {"c_scaling": (mean, sd), "source": source}
    if data.sparse is not None and data.sparse.covariates is not None:
        condition = copy.copy(data.sparse)
        condition.covariates = _scaled(data.sparse.covariates, mean, sd)
        return dataclasses.replace(data, condition=condition, **changes)
    return data.map_splits(
        lambda split: dataclasses.replace(
            split, c=None if split.c is None else _scaled(split.c, mean, sd)
        ),
        **changes,
    )


def _scaled(values: torch.Tensor, mean: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    return ((values - mean) / sd).to(values.dtype)
