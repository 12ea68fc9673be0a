"""Columns of x with mean zero and standard deviation one."""

import dataclasses

import torch

from ..errors import UserError
from .arrays import column_moments
from .dataset import Data


def standardize(data: Data) -> Data:
    """The same data, every column of x less its mean and divided by its standard deviation.

    Of a table with columns of several kinds, only those with real numbers are. Mean and deviation are those of the training split, of values that are not missing. A column that is constant
    there is only centered.

    Likelihoods of the pair are then those of the standardized values: a log-density in the original
    units is less by `Data.log_abs_det_jacobian`. A run reports the original units.

    The units of a pair are those of the data that it was trained on: `Data.unstandardize` takes its
    samples, reconstructions and means to the original units, `Data.standardize_values` takes new data
    to the pair's units.

    Example:
        >>> import torch, pyro_vae as pv
        >>> data = pv.data.from_arrays(100 + 15 * torch.randn(50, 2))
        >>> data = pv.data.standardize(data)
        >>> bool(data.train.x.mean().abs() < 1e-5)
        True

    Raises:
        UserError: data that are binarized or standardized already.
    """
    if data.sparse is not None:
        raise UserError(f"{data.name} is sparse: pass x.toarray() to standardize its columns")
    if data.binarize != "none" or data.scaling is not None:
        raise UserError(f"{data.name} is binarized or standardized already")
    mean, sd = column_moments(data.train.x)
    scaled = sd > 0
    mixed = data.table is not None and not isinstance(data.likelihood, str)
    if mixed and data.table is not None:
        scaled = scaled & data.table.is_real
        mean = torch.where(data.table.is_real, mean, 0.0)
    sd = torch.where(scaled, sd, 1.0)
    source = None if data.source is None else {**data.source, "standardize": True}
    return data.map_splits(
        lambda split: dataclasses.replace(split, x=((split.x - mean) / sd).to(split.x.dtype)),
        scaling=(mean, sd),
        source=source,
    )
