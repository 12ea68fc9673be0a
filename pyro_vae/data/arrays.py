"""Numbers in whatever carries them, as tensors: the same numbers give the same answer.

Tensors, numpy arrays, (nested) lists, DataFrames and Series are accepted, by data sets, `fit` and
every evaluator alike. What would lose something on the way (a mask, an imaginary part, digits) is
refused.
"""

import warnings
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError

MAX_CLASSES = 2**16  # a one-hot row per data point must fit in memory
# The error of rounding to float32, by the deviation of a column: above the first, values stay float64
# until they are standardized; above the second, training on them as they are is refused.
KEPT_ROUNDING, HIDDEN_BY_ROUNDING = 1e-3, 0.1


def as_tensor(value: Any, name: str = "x") -> torch.Tensor:
    """`value` as a dense tensor of numbers, its dtype as it is; memory is shared where possible.

    Raises:
        UserError: what is no array of numbers, or is not complete: sparse, quantized, complex or
            masked arrays, text, objects, rows of different lengths.
    """
    if isinstance(value, torch.Tensor):
        if value.is_quantized:
            raise UserError(f"{name} is a quantized tensor: pass {name}.dequantize()")
        if value.is_nested or value.layout != torch.strided:
            raise UserError(f"{name} is a sparse or nested tensor: pass a dense one")
        if value.is_complex():
            raise UserError(f"{name} has complex numbers: pass real ones, e.g. torch.view_as_real")
        return value.detach()  # data need no gradient; a graph behind them would be freed by a step
    if _holds_tensors(value):
        return _stacked([as_tensor(v, name) for v in value], name)
    array = _as_array(value, name)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def as_floats(
    value: Any, name: str = "x", dtype: torch.dtype | None = None, gray: bool = True
) -> torch.Tensor:
    """`value` as a floating-point tensor: 8-bit integers are gray levels, divided by 255.

    Numbers of numpy and Python become float32, torch's default, unless rounding hides how the values
    of a column vary, as of time stamps of one day: those stay float64.

    Example:
        >>> from pyro_vae.data.arrays import as_floats
        >>> as_floats([[0, 3], [2, 1]])
        tensor([[0., 3.],
                [2., 1.]])

    Args:
        value: the numbers.
        name: of the array, for messages.
        dtype: of the result. Default: that of a float32 or float64 tensor, else see above.
        gray: whether 8-bit integers are gray levels; else they are numbers.

    Raises:
        UserError: see `as_tensor`; 16-bit images; several rows of 8-bit integers that are all 0 or 1,
            which may be gray levels or numbers; whole numbers that `dtype` cannot hold.
    """
    tensor = as_tensor(value, name)
    if tensor.dtype == torch.uint16:
        raise UserError(
            f"{name} has 16-bit integers, and nothing says what they are: pass {name} / 65535 for "
            f"gray levels in [0, 1], or {name} as 32-bit integers for counts"
        )
    tensor = _signed(tensor)
    if dtype is None:
        keep = isinstance(value, torch.Tensor) and tensor.dtype in (torch.float32, torch.float64)
        is_double = tensor.dtype == torch.float64
        keep = keep or (is_double and _rounding(tensor, torch.float32) > KEPT_ROUNDING)
        dtype = tensor.dtype if keep else torch.get_default_dtype()
    if tensor.dtype == torch.uint8 and gray:
        # one row may be a nearly black image; on a GPU the check would wait for the device
        if tensor.dim() and len(tensor) > 1 and not tensor.is_cuda and int(tensor.max()) == 1:
            raise UserError(
                f"{name} has the 8-bit integers 0 and 1, and 8-bit integers are gray levels up to 255: "
                f"pass {name} as floats for the numbers 0 and 1, or {name} / 255 for nearly black images"
            )
        return tensor.to(dtype) / 255
    if not tensor.is_floating_point() and tensor.dtype != torch.bool and tensor.numel():
        largest = max(abs(int(v)) for v in tensor.aminmax())
        if largest > 2 / torch.finfo(dtype).eps:  # 2^24 in float32
            raise UserError(
                f"{name} has whole numbers up to {largest}, which {_short(dtype)} cannot tell from "
                "their neighbors: scale them, use a model in float64, or, of measurements such as time "
                f"stamps, pass {name} as float64 to be standardized"
            )
    return tensor.to(dtype)


def are_gray_levels(values: torch.Tensor) -> bool:
    """Whether numbers lie in [0, 1], up to rounding, and are not all 0 and 1; NaN does not count."""
    values = values[~values.isnan()]
    in_range = (values > -1e-6) & (values < 1 + 1e-6)
    return bool(in_range.all() and ((values - values.round()).abs() > 1e-4).any())


def as_named(value: Any, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
    """An array that a program takes by its own name: floats as `dtype`, all else as it is.

    Raises:
        UserError: see `as_tensor`; 8-bit integers of more than one dimension, which may be gray
            levels or one-hot rows.
    """
    tensor = as_tensor(value, name)
    if tensor.dim() == 0:
        raise UserError(f"{name} is a single number; expected [N, ...], one row per data point")
    if tensor.dtype == torch.uint8:
        if tensor.dim() > 1:
            raise UserError(
                f"{name} has 8-bit integers, which may be gray levels or one-hot rows: pass "
                f"{name} / 255, or {name} as floats"
            )
        return tensor.long()
    if not tensor.is_floating_point():
        return _signed(tensor)
    keep = isinstance(value, torch.Tensor) and tensor.dtype in (torch.float32, torch.float64)
    return tensor.to(dtype or (tensor.dtype if keep else torch.get_default_dtype()))


def as_labels(value: Any, name: str = "labels", hint: str = "") -> torch.Tensor:
    """`[N]` int64 labels: whole numbers, whatever carries them.

    Raises:
        UserError: text, fractions, NaN, or more than one dimension.
    """
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    first = next(iter(value), None) if kind in (None, "O") and hasattr(value, "__iter__") else None
    if kind in ("U", "S") or isinstance(first, (str, bytes)):
        raise UserError(f"{name} are text: number them, e.g. np.unique(y, return_inverse=True)[1]")
    tensor = as_tensor(value, name)
    if tensor.dim() != 1:
        raise UserError(
            f"{name} have shape {list(tensor.shape)}; expected [N], whole numbers{hint}"
        )
    if tensor.is_floating_point() and (tensor != tensor.round()).any():
        raise UserError(f"{name} must be whole numbers 0, 1, ... (or -1: not labeled)")
    return tensor.long()


def check_finite(tensor: torch.Tensor, name: str, missing: bool = False, remedy: str = "") -> None:
    """Raise unless every number is finite; the message counts those that are not.

    Args:
        tensor: `[N, ...]`.
        name: of the array, for messages.
        missing: whether NaN is allowed, as a missing value.
        remedy: what to do about NaN, for messages.
    """
    if not tensor.is_floating_point():
        return
    bad = torch.isinf(tensor) if missing else ~torch.isfinite(tensor)
    if bad.any():
        rows = bad.reshape(len(bad), -1).any(1)
        kind = "infinite" if missing else "NaN or infinite"
        only_nan = not torch.isinf(tensor).any()
        hint = f"; {remedy}" if remedy and only_nan else ""
        raise UserError(
            f"{name} has {int(bad.sum())} {kind} values, in {int(rows.sum())} rows "
            f"(first: row {int(rows.nonzero()[0])}){hint}"
        )


def masked_as_nan(value: Any) -> Any:
    """A numpy masked array with NaN for its masked values; another value as it is."""
    if not isinstance(value, np.ma.MaskedArray):
        return value
    scale = 255.0 if value.dtype == np.uint8 else 1.0  # gray levels, as in `as_floats`
    return np.where(np.ma.getmaskarray(value), np.nan, value.data / scale)


def column_means(x: torch.Tensor) -> torch.Tensor:
    """The mean `[...]` over the rows of `x [N, ...]`, of values that are not NaN; 0 without any."""
    return torch.nan_to_num(x.nanmean(0))


def column_moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean and the standard deviation `[...]` over the rows of `x [N, ...]`, in float64.

    NaN does not count. The deviation of a column that is constant up to rounding is 0, exactly.
    """
    mean = torch.nan_to_num(x.nanmean(0, dtype=torch.float64))
    sd = torch.nan_to_num(((x - mean) ** 2).nanmean(0)).sqrt()
    return mean, torch.where(is_constant(mean, sd, x.dtype), 0.0, sd)


def is_constant(mean: torch.Tensor, sd: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Whether columns in `dtype` vary by no more than rounding does; their moments are in float64."""
    rounding = max(torch.finfo(dtype).eps, 10 * torch.finfo(torch.float64).eps)
    return sd <= rounding * mean.abs()


def check_rounding(tensor: torch.Tensor, name: str, dtype: torch.dtype, remedy: str) -> None:
    """Raise if the rounding of `dtype` hides how a column of `tensor [N, ...]` varies."""
    if torch.finfo(dtype).bits < torch.finfo(tensor.dtype).bits:
        if _rounding(tensor, dtype) > HIDDEN_BY_ROUNDING:
            raise UserError(
                f"{name} has a column of large values that differ little, which {_short(dtype)} cannot "
                f"tell apart: {remedy}"
            )


def fill_missing(x: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """`x [N, ...]` with `means [...]` for its NaN."""
    return torch.where(x.isnan(), means.to(x), x)


def rows_for_baselines(
    reference: torch.Tensor, *parts: torch.Tensor, standardize: bool
) -> list[NDArray[np.float64]]:
    """Each of `parts [N, ...]` as rows `[N, D]` for scikit-learn, with the scale of `reference [M, ...]`.

    Missing values are replaced by the mean of their column in `reference`. With `standardize`, every
    column is centered and divided by its standard deviation there, if that is not zero.
    """
    filled = [fill_missing(part, column_means(reference)) for part in parts]
    if standardize:
        mean, sd = (moment.to(reference.device) for moment in column_moments(reference))
        filled = [(part - mean) / torch.where(sd > 0, sd, 1.0) for part in filled]
    return [part.flatten(1).double().cpu().numpy() for part in filled]


def warn_of_signs(name: str) -> None:
    """Warn of labels -1 and 1: one class would be left, and no row be misclassified."""
    warnings.warn(
        f"{name} are -1 and 1, and -1 means not labeled: number the two classes 0 and 1",
        stacklevel=3,
    )


def check_classes(
    labels: torch.Tensor, num_classes: int | None = None, name: str = "data"
) -> int | None:
    """The number of classes of labels `[N]` (-1: not labeled): `num_classes`, else the highest + 1.

    None if there are no labels.

    Raises:
        UserError: labels out of range, or numbers too large to number classes.
    """
    low, high = (int(v) for v in labels.aminmax()) if len(labels) else (-1, -1)
    count = high + 1 if num_classes is None else int(num_classes)
    if num_classes is None and (low, high) == (-1, 1) and not bool((labels == 0).any()):
        warn_of_signs(f"{name}: labels")
    if count > MAX_CLASSES:
        distinct = len(labels[labels >= 0].unique())
        raise UserError(
            f"{name}: labels go up to {count - 1}, of {distinct} distinct values: number the classes "
            "0, 1, ..., e.g. np.unique(y, return_inverse=True)[1]"
        )
    if low < -1 or high >= count:
        allowed = f"lie in 0..{count - 1}" if count > 0 else "be whole numbers from 0"
        raise UserError(f"{name}: labels must {allowed} (or -1: not labeled); found {low}..{high}")
    return count or None


def _as_array(value: Any, name: str) -> np.ndarray:
    kind = type(value).__name__
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise UserError(
                f"{name} is a masked array with {int(np.ma.getmaskarray(value).sum())} masked "
                "values: fill them, or leave their rows out"
            )
        value = value.data
    if isinstance(value, (str, bytes, dict, set, frozenset)) or value is None:
        raise UserError(f"{name} must be an array of numbers, not {kind}")
    if type(value).__module__.split(".")[0] == "PIL":
        raise UserError(
            f"{name} is a PIL image: give the data set transform=torchvision.transforms.ToTensor()"
        )
    if isinstance(value, (Dataset, DataLoader)):  # its items have several arrays, or one in a tuple
        raise UserError(
            f"{name} must be an array of numbers, not a {kind}: pv.data.as_data(dataset).train.x is "
            "the array of a Dataset; pv.evaluate.mean_over_batches takes a DataLoader"
        )
    if type(value).__module__ == "pyro_vae.data.dataset":  # which imports this module
        raise UserError(
            f"{name} must be an array of numbers, not a {kind} of pv.data: pass the x of a split, such "
            "as data.test.x"
        )
    if hasattr(value, "toarray"):
        raise UserError(f"{name} is a sparse {kind}: pass {name}.toarray()")
    if hasattr(value, "to_numpy"):  # a DataFrame or Series, of whatever library
        value = value.to_numpy()
    try:
        array = np.asarray(value)
    except ValueError:
        raise UserError(f"{name} has rows of different lengths; expected [N, ...]") from None
    if array.dtype.kind == "O" and array.ndim:
        numbers = all(isinstance(v, (Real, np.bool_)) for v in array.ravel())
        array = array.astype(np.float64) if numbers and array.size else array
    if array.dtype.kind == "c":
        raise UserError(f"{name} has complex numbers: pass real ones")
    if array.dtype.kind not in "biuf":
        what = "text" if array.dtype.kind in "US" else f"{array.dtype} values"
        what = f"a {kind}" if array.dtype.kind == "O" and not array.ndim else what
        hint = (
            "; pv.data.from_frame takes tables with text and categories" if array.ndim == 2 else ""
        )
        raise UserError(f"{name} must be an array of numbers; it has {what}{hint}")
    return array


def _holds_tensors(value: object) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(v, torch.Tensor) for v in value)


def _stacked(rows: list[torch.Tensor], name: str) -> torch.Tensor:
    for i, row in enumerate(rows):
        if row.shape != rows[0].shape:
            raise UserError(
                f"{name} has rows of different shapes: {list(rows[0].shape)} in row 0, "
                f"{list(row.shape)} in row {i}"
            )
    return torch.stack(rows)


def _rounding(tensor: torch.Tensor, dtype: torch.dtype) -> float:
    """The error of `dtype` by the deviation of the values, in the worst column of `tensor [N, ...]`."""
    if tensor.dim() == 0 or not tensor.numel():
        return 0.0
    array = tensor.detach().cpu().numpy().reshape(len(tensor), -1)
    low, high = np.fmin.reduce(array, 0), np.fmax.reduce(array, 0)  # NaN does not count
    with np.errstate(invalid="ignore", over="ignore"):
        spacing = np.maximum(np.abs(low), np.abs(high)) * torch.finfo(dtype).eps
        suspects = torch.from_numpy(array[:, (high > low) & (high - low < spacing / KEPT_ROUNDING)])
    if not suspects.numel():
        return 0.0
    mean, sd = column_moments(suspects)
    error = column_moments(suspects - suspects.to(dtype).double())
    rms = (error[0] ** 2 + error[1] ** 2).sqrt()
    return float((rms / sd).nan_to_num(posinf=0.0).max())  # a constant has no values to tell apart


def _signed(tensor: torch.Tensor) -> torch.Tensor:
    """Torch computes little with unsigned integers of more than 8 bits."""
    return tensor.long() if tensor.dtype in (torch.uint16, torch.uint32, torch.uint64) else tensor


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
