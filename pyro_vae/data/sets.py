"""Data sets by name or from a file, prepared as a method needs them."""

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, checked_seed, reason_of, unknown_name_error
from .conditions import Labels, Quadrants
from .dataset import Data, Split
from .files import read_file
from .registry import DATASETS, data_set
from .scaling import standardize as standardized
from .splitting import binarized, from_arrays

CONDITIONS = ("data", "quadrants", "labels")
#: Data sets by torchvision: the names of its classes.
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}


def _digits(split_seed: int) -> Data:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    return from_arrays(
        x,
        torch.tensor(bunch.target),
        valid=180,
        test=360,
        name="digits",
        num_classes=10,
        likelihood="binomial",
        split_seed=split_seed,
    )


def _arcs(split_seed: int) -> Data:
    """10,000 points in five arcs, as in the GMVAE paper (arXiv 1611.02648); here a pinwheel's."""
    n, arms = 10_000, 5
    generator = torch.Generator().manual_seed(split_seed)
    arm = torch.arange(n) % arms
    radius = 1 + 0.3 * torch.randn(n, generator=generator)
    across = 0.05 * torch.randn(n, generator=generator)
    angle = 2 * math.pi * arm / arms + 0.25 * radius.exp()
    x = torch.stack(
        [radius * angle.cos() + across * angle.sin(), across * angle.cos() - radius * angle.sin()],
        1,
    )
    return from_arrays(x, arm, name="arcs", num_classes=arms, split_seed=split_seed)


def _torchvision(name: str, root: Path | str | None, split_seed: int) -> Data:
    import torchvision

    kind = TORCHVISION[name]
    root = Path(root or os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae").expanduser()
    try:
        raw = [getattr(torchvision.datasets, kind)(root, train, download=True) for train in (1, 0)]
    except (OSError, RuntimeError) as e:
        reason = reason_of(e)
        raise UserError(
            f"{kind} is not in {root} and could not be downloaded ({reason}); "
            "set PYRO_VAE_DATA or root= to a folder that has it"
        ) from e
    (x, y), (test_x, test_y) = ((d.data.unsqueeze(1).float() / 255, d.targets) for d in raw)
    return Data(
        Split(x[:-10_000], y[:-10_000]),
        Split(x[-10_000:], y[-10_000:]),
        Split(test_x, test_y),
        name=name,
        num_classes=10,
        split_seed=split_seed,
        likelihood="continuous-bernoulli",
    )


def _read(
    name: str, root: Path | str | None, split_seed: int, missing: bool | None, **options: Any
) -> Data:
    """A data set as it is in its source: not binarized, not conditioned."""
    if name not in DATASETS:
        return read_file(Path(name), split_seed, bool(missing), **options)
    for option, value in {"missing": missing, **options}.items():
        if value not in (None, False):
            hint = ": num_labels= (--num-labels) keeps so many labels" if option == "labels" else ""
            raise UserError(f"{option}= is of files, and {name} is not one{hint}")
    if name == "digits":
        return _digits(split_seed)
    if name == "arcs":
        return _arcs(split_seed)
    return _torchvision(name, root, split_seed)


def load(
    name: str,
    binarize: str | None = None,
    root: Path | str | None = None,
    split_seed: int = 0,
    binarize_seed: int = 0,
    num_labels: int | None = None,
    label_seed: int = 0,
    standardize: bool | None = None,
    standardize_c: bool | None = None,
    condition: str | None = None,
    quadrants: int | None = None,
    missing: bool | None = None,
    labels: str | None = None,
    index: str | None = None,
    layer: str | None = None,
    library_size: bool = False,
    image_size: int | None = None,
    drop: list[str] | None = None,
    kinds: dict[str, str] | None = None,
    covariates: list[str] | None = None,
) -> Data:
    """A data set by name, or from a file or an image folder, as `Data`: `.train .valid .test`, ...

    * `digits`: scikit-learn's 1,797 images `(1, 8, 8)` of 17 gray levels, no download; 1,257 to
      train on, 180 for validation, 360 for test, by a permutation seeded with `split_seed`.
    * `mnist`, `fashion-mnist`, `kmnist`: by torchvision, `(1, 28, 28)`; the last 10,000 of the
      60,000 training images are for validation, in file order.
    * `arcs`: 10,000 points of five arcs in the plane; 8,000 / 1,000 / 1,000.
    * a file `*.npz` with arrays x and, where there are any, y (labels) and c (covariates); `*.npy`
      with x.
    * a table `*.csv`, `*.tsv` or `*.parquet`: see `from_frame`.
    * an AnnData object `*.h5ad`: see `from_anndata`.
    * a folder of images: see `from_images`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.data.load("arcs")
        Data('arcs': 8000 train, 1000 valid, 1000 test; x [2], 5 classes)

    Args:
        name: of the data set, or the path of the file or folder.
        binarize: whether gray values become draws of 0 and 1: none, static (drawn once) or dynamic
            (anew in every training batch). Default: dynamic for the MNIST family, else none.
        root: folder of the torchvision data sets. Default: $PYRO_VAE_DATA, else ~/.cache/pyro_vae.
        split_seed: seed of the splits.
        binarize_seed: seed of the binarization.
        num_labels: keep this many training labels, in balanced classes, and hide the others.
            Default: all.
        label_seed: seed of the choice of those labels.
        standardize: center and scale every column of x by the training split. Default: a method does
            so with a table for a normal likelihood; `load` does not.
        standardize_c: center and scale every column of the covariates c that holds other numbers than
            0 and 1. Default: a method does so; `load` does not.
        condition: the covariates c of a conditional model: quadrants (of an image), labels, or data
            (the array c).
        quadrants: how many quadrants are the condition: 1, 2 or 3. Default: 1.
        missing: whether NaN in the x of an .npz or .npy file is a missing value. Default: false;
            in tables it is.
        labels: the column of a table, or of an AnnData object's obs, with labels. Default: none.
        index: the column of a table that names the rows. Default: none.
        layer: the layer of an AnnData object with x. Default: its X.
        library_size: whether the total count of a row is an offset of the mean of counts, as in scVI.
        image_size: resize the images of a folder to image_size x image_size. Default: all have one
            size.
        drop: columns of a table to leave out.
        kinds: {column: kind} of a table: real, count, binary, boolean or category, where the values of
            a column do not say what it is. A category of a CSV file is text, as it is written.
        covariates: columns of a table, or of an AnnData object's obs, that are the covariates c of a
            conditional model, and no part of x. Default: none.

    Raises:
        UserError: an unknown name, a data set that is not available, or a file that is not one.
    """
    known = data_set(name)
    split_seed = checked_seed(split_seed, "split_seed")
    binarize_seed = checked_seed(binarize_seed, "binarize_seed")
    label_seed = checked_seed(label_seed, "label_seed")
    options = {
        "labels": labels,
        "index": index,
        "layer": layer,
        "library_size": library_size,
        "image_size": image_size,
        "drop": drop,
        "kinds": kinds,
        "covariates": covariates,
    }
    data = _read(name, root, split_seed, missing, **options)
    if data.missing and missing is False:
        raise UserError(
            f"{name} has missing values (NaN): missing=True (--missing true) scores the observed ones"
        )
    data = dataclasses.replace(data, binarize_seed=binarize_seed)
    data = prepare(
        data,
        known.binarize if binarize is None else binarize,
        num_labels,
        label_seed,
        standardize,
        condition,
        quadrants,
        standardize_c,
    )
    source = {
        "data": name if name in DATASETS else str(Path(name).resolve()),
        "split_seed": split_seed,
        "binarize_seed": binarize_seed,
        "num_labels": num_labels,
        "label_seed": label_seed,
        "standardize": standardize,
        "standardize_c": standardize_c,
        "missing": data.missing if name not in DATASETS else None,
        **options,
    }
    return dataclasses.replace(data, source=source)


def prepare(
    data: Data,
    binarize: str | None = None,
    num_labels: int | None = None,
    label_seed: int = 0,
    standardize: bool | None = None,
    condition: str | None = None,
    quadrants: int | None = None,
    standardize_c: bool | None = None,
) -> Data:
    """Data as a method needs them; the arguments are those of `load`, and None changes nothing.

    Example:
        >>> import torch, pyro_vae as pv
        >>> data = pv.data.from_arrays(torch.rand(20, 3), valid=0, test=0)
        >>> pv.data.prepare(data, binarize="static")
        Data('data': 20 train; x [3], static binarization)

    Raises:
        UserError: data that are binarized otherwise already, or have no such labels or condition.
    """
    if binarize is not None and binarize != data.binarize:
        if data.binarize != "none":
            raise UserError(f"{data.name} is binarized already: {data.binarize}, not {binarize}")
        data = binarized(data, binarize)
    if standardize and data.scaling is None:
        data = standardized(data)
    if standardize_c and data.c_scaling is None:
        data = standardized(data, "c")
    if num_labels is not None and data.withheld_labels is None:
        data = data.keep_labels(num_labels, label_seed)
    if quadrants is not None and condition is None:
        condition = "quadrants"
    return data if condition is None else _conditioned(data, condition, quadrants)


def default_condition(data: Data) -> tuple[str, int | None]:
    """`(condition, quadrants)` of data for a conditional model: their own c, quadrants, or labels."""
    if isinstance(data.dense_condition, Quadrants):
        return "quadrants", data.dense_condition.observed
    if isinstance(data.dense_condition, Labels):
        return "labels", None
    if data.c_shape is not None:
        return "data", None
    if len(data.x_shape) == 3:
        return "quadrants", 1
    if data.num_classes:
        return "labels", None
    raise UserError(
        f"a conditional model needs something to be given, and {data.name} has neither covariates c, "
        "nor images to take quadrants of, nor labels: name columns of a table, covariates=['NAME'] "
        "(--covariates NAME) or labels='NAME' (--labels NAME), or save an array c in an .npz file"
    )


def _conditioned(data: Data, condition: str, quadrants: int | None) -> Data:
    if quadrants and condition != "quadrants":
        raise UserError(f"quadrants={quadrants} is of the condition quadrants, not {condition}")
    if condition != "data" and data.table is not None and data.table.covariates:
        names = ", ".join(str(column.name) for column in data.table.covariates)
        raise UserError(
            f"{data.name} has covariates, {names}, which condition={condition!r} would not take: leave "
            "one of them out"
        )
    if condition == "data":
        if data.c_shape is None:
            raise UserError(
                f"{data.name} has no covariates c, which are columns of a table, covariates=['NAME'] "
                "(--covariates NAME), or an array c in an .npz file"
            )
        return data
    if condition == "labels":
        if not data.num_classes or data.train.y is None or (data.train.y < 0).any():
            raise UserError(
                f"{data.name} has no label for every data point to condition on: a column of a table "
                "is named by labels='NAME' (--labels NAME)"
            )
        wanted: Labels | Quadrants = Labels(data.num_classes)
    elif condition == "quadrants":
        if isinstance(data.dense_condition, Quadrants):
            wanted = Quadrants(quadrants or 1, data.dense_condition.shape)
        else:
            wanted = Quadrants(quadrants or 1, data.x_shape)
    else:
        raise unknown_name_error("condition", condition, CONDITIONS)
    if data.dense_condition not in (None, wanted):
        raise UserError(f"{data.name} has the condition {data.dense_condition!r} already")
    return data.with_condition(wanted)
