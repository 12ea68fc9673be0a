"""`Data` from arrays: checked, split by a seed, and binarized if asked."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..conditionals import Family, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from ..conditionals import likelihood as check_likelihood
from ..conditionals.library_size import LibrarySize
from ..conditionals.likelihoods import LARGEST_MEAN
from ..conditionals.missing import without_missing
from ..errors import UserError, check_int_at_least, checked_seed, unknown_name_error
from .arrays import (
    are_gray_levels,
    as_floats,
    as_labels,
    as_named,
    check_classes,
    check_finite,
    masked_as_nan,
)
from .dataset import Data, Split, draw_binary
from .library_size import with_library_size
from .sparse import SparseRows, is_sparse, likelihood_of_counts, row_numbers

CHANNELS = (1, 3, 4)  # of images
BINARIZATIONS = ("none", "static", "dynamic")
OF_COUNTS = (Poisson, NegativeBinomial, ZeroInflatedNegativeBinomial, LibrarySize)
DARK = 64  # a table of 8-bit integers below it has hardly images in its rows


def binarized(data: Data, binarize: str) -> Data:
    """Data of gray values, binarized.

    Args:
        data: not binarized yet.
        binarize: none, static or dynamic; see `Data`.
    """
    if binarize not in BINARIZATIONS:
        raise unknown_name_error("binarization", binarize, BINARIZATIONS)
    if binarize == "none":
        return data
    if data.sparse is not None:
        raise UserError(f"{data.name} is sparse: pass x.toarray() to binarize gray values")
    values = data.train.x[~data.train.x.isnan()]
    low, high = (values.min().item(), values.max().item()) if len(values) else (0.0, 0.0)
    if low < 0 or high > 1:
        raise UserError(f"binarize needs values in [0, 1]; {data.name} has [{low:.3g}, {high:.3g}]")

    def drawn(split: Split | None, seed: int) -> Split | None:
        return split and dataclasses.replace(split, x=draw_binary(split.x, seed))

    seed, train = data.binarize_seed, data.train
    if binarize == "static":
        train = dataclasses.replace(train, x=draw_binary(train.x, seed + 1))
    return dataclasses.replace(
        data,
        train=train,
        valid=drawn(data.valid, seed),
        test=drawn(data.test, seed + 2),
        binarize=binarize,
        likelihood="bernoulli",
    )


def from_arrays(
    x: Any,
    y: Any = None,
    valid: float | int = 0.1,
    test: float | int = 0.1,
    binarize: str = "none",
    num_classes: int | None = None,
    name: str = "data",
    split_seed: int = 0,
    binarize_seed: int = 0,
    likelihood: str | Family | None = None,
    c: Any = None,
    missing: bool = False,
    library_size: bool = False,
    dtype: torch.dtype | None = None,
) -> Data:
    """`Data` from arrays, split by a seeded permutation that does not depend on labels.

    Arrays are tensors, numpy arrays, lists or DataFrames; the same numbers are the same data. The
    pair gets arrays that are passed by name under that name in training, `x` as the first argument.
    Of `y` and `c` that are passed separately, a pair gets what it observes (see `fit`).

    Example:
        >>> import torch, pyro_vae as pv
        >>> x, y = torch.randn(20, 3), torch.arange(20) % 2
        >>> pv.data.from_arrays(x, y, valid=0.25, test=0)  # labels, for evaluation or an objective
        Data('data': 15 train, 5 valid; x [3], 2 classes)
        >>> pv.data.from_arrays({"x": x, "ys": y}, valid=0, test=0)  # arrays by name
        Data('data': 20 train; x [3], ys [])

    Args:
        x: `[N, ...]`, converted to floats; uint8 is divided by 255, unless a `likelihood` of counts
            or `library_size` says that they are counts. A scipy sparse matrix of counts
            stays sparse, and batches become dense. Or `{name: [N, ...]}` of any shapes: `x` and `c`
            are converted to floats, the others keep integers and booleans.
        y: `[N]` labels, integers from 0; -1: not labeled.
        valid, test: fractions of the data, or counts; 0 for none.
        binarize: none, static or dynamic; see `Data`.
        num_classes: of the labels. Default: the highest label plus one.
        name: of the data set.
        split_seed, binarize_seed: of the splits and of the binarization.
        likelihood: the name of one that fits x, a method's default. Default: bernoulli for values
            0 and 1, negative-binomial for counts (non-negative integers), continuous-bernoulli for
            images `[N, C, H, W]` in [0, 1], else normal.
        c: `[N, ...]` covariates of a conditional model.
        missing: whether NaN in x, and the masked values of a numpy masked array, are missing values.
            A pair needs a likelihood that ignores them, `pv.conditionals.IgnoreMissing(...)`; a
            method wraps its likelihood so.
        library_size: whether the total count of a row is an offset of the model's mean; see
            `with_library_size`.
        dtype: of x and c. Default: that of a tensor; else torch's default, or float64 where float32
            cannot tell apart the values of a column, such as time stamps.

    Raises:
        UserError: NaN in x without `missing`, NaN in other arrays, labels out of range, shapes that
            do not match, arrays that cannot be converted without a loss (see `data.arrays`), an
            unknown likelihood, `library_size` of values that are no counts.
    """
    split_seed = checked_seed(split_seed, "split_seed")
    binarize_seed = checked_seed(binarize_seed, "binarize_seed")
    of_counts = library_size
    if likelihood is not None:
        of_counts |= isinstance(without_missing(check_likelihood(likelihood)), OF_COUNTS)
    if num_classes is not None:
        check_int_at_least(1, num_classes=num_classes)
    if isinstance(y, str):
        raise UserError(
            f"y must be an array of labels, not a name: pv.data.from_frame(df, labels={y!r}) takes the "
            "name of a column"
        )
    names = None
    others: dict[str, torch.Tensor] = {}
    if isinstance(x, dict):
        if y is not None or c is not None:
            raise UserError("pass arrays by name, {'x': x, 'y': y}, or separately, but not both")
        x, c, others = _arrays_by_name(x, name)
        names = ("x", *(("c",) if c is not None else ()), *others)
    sparse = SparseRows(x) if is_sparse(x) else None
    x = masked_as_nan(x) if missing else x
    x = row_numbers(x) if sparse is not None else x
    if likelihood is None and not of_counts:
        _check_bytes(x, name)
    x = _checked_floats(x, name, "x", 1 if names else 2, dtype, missing, gray=not of_counts)
    _check_channels(x, name)
    n = len(x)
    if y is not None:
        hint = "; arrays of any shape go by the names that the program takes: {'x': x, 'y': y}"
        y = as_labels(y, f"{name}: labels", hint)
        if len(y) != n:
            raise UserError(f"{name}: {list(y.shape)} labels for {n} data; expected [{n}]")
        num_classes = check_classes(y, num_classes, name)
    if c is not None:
        c = _checked_floats(c, name, "covariates c", 1, dtype)
        _check_rows(c, n, name, "c")
    if sparse is not None:  # the condition makes x, and selects the rows of c
        sparse.covariates, c = c, None
        likelihood = likelihood_of_counts(sparse.matrix) if likelihood is None else likelihood
    for label, value in others.items():
        check_finite(value, f"{name}: {label}")
        _check_rows(value, n, name, label)
    data = Data(
        *_split(Split(x, y, c, others), valid, test, split_seed, name),
        name=name,
        num_classes=num_classes,
        binarize_seed=binarize_seed,
        split_seed=split_seed,
        likelihood=likelihood_for(x) if likelihood is None else likelihood,
        names=names,
        missing=bool(x.isnan().any()),
        condition=sparse,
    )
    data = binarized(data, binarize)
    return with_library_size(data) if library_size else data


def _check_bytes(x: Any, name: str) -> None:
    """Warn of a table of small 8-bit integers: they are gray levels here, and would be nearly black."""
    if str(getattr(x, "dtype", "")).endswith("uint8") and x.ndim == 2 and 1 < x.max() < DARK:
        warnings.warn(
            f"{name}: x has 8-bit integers up to {int(x.max())}, which are taken as gray levels, over 255: "
            "likelihood='negative-binomial', or x as 32-bit integers, takes them as counts",
            stacklevel=3,
        )


def _check_channels(x: torch.Tensor, name: str) -> None:
    """Warn of images whose channels are last: here they are `[N, C, H, W]`."""
    if x.dim() == 4 and x.shape[-1] in CHANNELS and x.shape[1] not in CHANNELS:
        warnings.warn(
            f"{name}: x {list(x.shape)} looks like images with channels last, and here they are "
            "[N, C, H, W]: x.transpose(0, 3, 1, 2) of an array, x.permute(0, 3, 1, 2) of a tensor",
            stacklevel=3,
        )


def likelihood_for(x: torch.Tensor) -> str:
    """The name of a likelihood that fits values; NaN does not count.

    Images `[N, C, H, W]` of values in [0, 1] are gray levels: continuous-bernoulli. Integers with a
    mean above a million are real numbers.

    Example:
        >>> import torch
        >>> from pyro_vae.data.splitting import likelihood_for
        >>> likelihood_for(torch.tensor([[0.0, 3.0], [1.0, 12.0]]))
        'negative-binomial'
    """
    if (x < 0).any() or ((x != x.round()) & ~x.isnan()).any():
        images = x.dim() == 4 and x.shape[1] in CHANNELS
        return "continuous-bernoulli" if images and are_gray_levels(x) else "normal"
    if x.numel() and x.double().nanmean(0).nan_to_num().max() > LARGEST_MEAN:
        return "normal"
    return "negative-binomial" if (x > 1).any() else "bernoulli"


def _arrays_by_name(
    arrays: Mapping[str, Any], name: str
) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """`(x, c, others)` of a dict of arrays; c is None where there is none."""
    present = {k: v for k, v in arrays.items() if v is not None}
    if "x" not in present:
        listed = ", ".join(map(str, present)) or "none"
        raise UserError(f"arrays by name need 'x', the data themselves; there are {listed}")
    x, c = present.pop("x"), present.pop("c", None)
    return x, c, {k: as_named(v, f"{name}: {k}") for k, v in present.items()}


def _checked_floats(
    value: Any,
    name: str,
    label: str,
    least_dims: int,
    dtype: torch.dtype | None,
    missing: bool = False,
    gray: bool = True,
) -> torch.Tensor:
    """A finite floating-point tensor `[N, ...]`; raises one line that says what is wrong."""
    tensor = as_floats(value, label if name == "data" else f"{name}: {label}", dtype, gray)
    shape = list(tensor.shape)
    if tensor.dim() and not tensor.numel():
        raise UserError(f"{name}: {label} has shape {shape}: there are no values in it")
    if tensor.dim() < least_dims:
        raise UserError(
            f"{name}: {label} has shape {shape}; expected [N, ...], one row per data point "
            "(one number per data point goes by name: {'x': x})"
        )
    remedy = (
        "from_arrays(x, missing=True), or --missing true, takes NaN as missing values"
        if label == "x"
        else ""
    )
    check_finite(tensor, f"{name}: {label}", missing, remedy)
    return tensor


def _check_rows(value: torch.Tensor, n: int, name: str, label: str) -> None:
    if len(value) != n:
        raise UserError(f"{name}: {label} has {len(value)} rows, x has {n}")


def _split(
    whole: Split, valid: float | int, test: float | int, seed: int, name: str
) -> tuple[Split, Split | None, Split | None]:
    """Training, validation and test splits; None for one that is empty."""
    n = len(whole)
    counts = [round(s * n) if isinstance(s, float) else int(s) for s in (valid, test)]
    if min(counts) < 0 or sum(counts) >= n:
        raise UserError(f"{name}: valid + test = {sum(counts)} leaves nothing of {n} to train on")
    rows, valid_rows, test_rows = rows_of_splits((n - sum(counts), *counts), seed)
    held_out = [whole[i] if len(i) else None for i in (valid_rows, test_rows)]
    return whole[rows], held_out[0], held_out[1]


def rows_of_splits(sizes: Sequence[int], seed: int) -> tuple[torch.Tensor, ...]:
    """The rows of the whole data that splits of these sizes have: train, valid, test."""
    n = sum(sizes)
    order = torch.arange(n)  # nothing is held out: the caller's rows, in the caller's order
    if n > sizes[0]:
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order.split(list(sizes))
