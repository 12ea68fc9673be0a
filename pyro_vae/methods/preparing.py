"""The data of a method: loaded, binarized, standardized, conditioned; what they determine is filled in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import data as datasets
from ..conditionals import Bernoulli, LibrarySize, likelihood
from ..conditionals.library_size import COUNTS
from ..conditionals.support import real_columns
from ..data import DATASETS, Data, Quadrants
from ..data.registry import DataSet
from ..data.sets import default_condition
from ..errors import UserError
from ..programs.program import plain_value
from .advice import advise
from .building import part
from .groups import is_conditional
from .sizes import epochs_for, latent_dim_for
from .table import METHODS

#: Options of `load` that say how a source is read.
READING = (
    "split_seed", "binarize_seed", "missing", "labels", "index", "layer", "library_size",
    "image_size", "drop", "kinds", "covariates",
)  # fmt: skip
#: Names that other libraries and spreadsheets give to rows without a label, in lower case.
NO_LABEL = (
    "unknown", "unlabeled", "unlabelled", "unassigned", "missing", "none", "nan", "na", "n/a",
)  # fmt: skip
Shapes = tuple[
    tuple[int, ...],  # of a data point x
    int,  # training data
    tuple[int, ...] | None,  # of its covariates c
    int | None,  # classes
]


def shapes(data: Data) -> Shapes:
    """`(x_shape, num_data, c_shape, num_classes)`: what `build` needs to know of the data."""
    return data.x_shape, data.num_train, data.c_shape, data.num_classes


def prepare(config: dict[str, Any], data: Data | None, root: Path | str | None) -> Data:
    """The data of a configuration. Options that the data determine are filled in, in place.

    Args:
        config: a complete configuration.
        data: the data. Default: those that the configuration names.
        root: folder of the torchvision data sets.
    """
    name, conditional = config["data"], is_conditional(config["method"])
    condition, quadrants = _condition(config), config.get("quadrants")
    is_by_default = condition is None
    data = _read(config, data, root)
    if config["objective"] == "SemiSupervised" and data.train.y is None and name is not None:
        raise UserError(
            f"{config['method']} needs labels y, and {data.name} has none: --labels COLUMN "
            "(labels='COLUMN' in Python) names their column in a table; an .npz file has the array y"
        )
    _note_classes_without_labels(data)
    if config["objective"] == "SemiSupervised":
        _note_class_of_unlabeled(data)
    if not conditional:
        _note_unused_covariates(config["method"], data)
    config["binarize"] = data.binarize
    config["missing"] = None if name in DATASETS else data.missing
    if config["library_size"] or isinstance(data.likelihood, LibrarySize):
        data = _with_library_size(data, config)
    if config["model.likelihood"] is None:
        config["model.likelihood"] = plain_value(data.likelihood)
    if conditional:
        if is_by_default:
            condition, quadrants = default_condition(data)
        # raises before any notice
        datasets.prepare(data, condition=condition, quadrants=quadrants)
    if config["standardize"] is None:
        data = _standardize(data, name, config["model.likelihood"])
        config["standardize"] = data.scaling is not None
    if conditional:
        if is_by_default and condition == "quadrants":
            _note_unused_classes(data)
        data = _with_condition(data, config, condition, quadrants)
    if "model.num_classes" in config and config["model.num_classes"] is None:
        config["model.num_classes"] = data.num_classes or 10
    if "model.latent_dim" in config and config["model.latent_dim"] is None:
        config["model.latent_dim"] = latent_dim_for(config["method"], data.x_shape)
    config["epochs"] = epochs_for(data.num_train, config["batch_size"], config["epochs"])
    return data


def _read(config: dict[str, Any], data: Data | None, root: Path | str | None) -> Data:
    """The data as the configuration has them read and binarized; the arguments are those of `prepare`."""
    if data is None and config["data"] is None:
        raise UserError("this run was trained on arrays: pass data=")
    is_binary = data is not None and data.binarize != "none"
    binarize = config["binarize"] if is_binary else binarization(config)
    options = {n: config[n] for n in ("num_labels", "label_seed")}
    options |= {n: bool(config.get(n)) for n in ("standardize", "standardize_c")}
    if data is None:
        reading = {n: config[n] for n in READING if n in config}
        return datasets.load(config["data"], binarize or "none", root, **reading, **options)
    data = datasets.prepare(data, binarize, **options)
    config |= {n: getattr(data, n) for n in ("split_seed", "binarize_seed")}
    if data.withheld_labels is not None and data.train.y is not None:
        config["num_labels"] = data.num_labels
    return data


def _with_condition(
    data: Data, config: dict[str, Any], condition: str | None, quadrants: int | None
) -> Data:
    """The data with their covariates c, standardized if they are numbers; for a conditional method."""
    data = datasets.prepare(data, condition=condition, quadrants=quadrants)
    if condition == "quadrants":
        own = data.dense_condition
        quadrants = own.observed if isinstance(own, Quadrants) else None
    config |= {"condition": condition, "quadrants": quadrants}
    if config["standardize_c"] is None and has_numeric_covariates(data):
        data = datasets.standardize(data, "c")
        advise(
            "the covariates c are standardized: run.encode(x, c=c) and run.sample(c=c) do so with new "
            "ones; standardize_c=False leaves c as it is"
        )
    config["standardize_c"] = data.c_scaling is not None
    return data


def _note_unused_classes(data: Data) -> None:
    """Advise of classes that could be the covariates, where quadrants are by default."""
    if data.num_classes and data.name not in DATASETS:
        advise(
            "the covariates are a quadrant of each image; condition='labels' (--condition labels) "
            "takes the classes"
        )


def _note_classes_without_labels(data: Data) -> None:
    """Advise of classes of which no label was kept."""
    y, kept = data.withheld_labels, data.train.y
    if y is None or kept is None:
        return
    without = sorted(set(y[y >= 0].unique().tolist()) - set(kept[kept >= 0].unique().tolist()))
    if without:
        names = data.class_names or range(max(without) + 1)
        listed = ", ".join(str(names[k]) for k in without)
        advise(
            f"no label is kept of the classes {listed}: num_labels= (--num-labels) needs at least one "
            "for each class"
        )


def _note_class_of_unlabeled(data: Data) -> None:
    """Advise of a class whose name says that its rows have no label, as other libraries write it."""
    for name in data.class_names or ():
        if str(name).strip().lower() in NO_LABEL:
            advise(
                f"{name!r} is trained as one of the {data.num_classes} classes: rows without a label have "
                "a missing one (NaN, None; an empty cell of a CSV file)"
            )


def _note_unused_covariates(name: str, data: Data) -> None:
    """Advise of covariates that a method without them does not see."""
    if data.own_covariates is None:
        return
    columns = () if data.table is None else data.table.covariates
    which = ", ".join(str(column.name) for column in columns) or "c"
    methods = ", ".join(method for method in METHODS if is_conditional(method))
    advise(f"{name} does not use the covariates {which}; the conditional methods do: {methods}")


def _condition(config: Mapping[str, Any]) -> str | None:
    """The condition that the configuration states; None: the data determine it."""
    condition = config.get("condition")
    return "quadrants" if condition is None and config.get("quadrants") else condition


def binarization(config: Mapping[str, Any]) -> str | None:
    """What is done to gray values: what the configuration says, else what a named data set needs.

    Args:
        config: a complete configuration.
    """
    name = config["data"]
    if config["binarize"] is not None or name not in DATASETS:
        return config["binarize"]
    of_quadrants = is_conditional(config["method"]) and _condition(config) in (None, "quadrants")
    return default_binarization(DATASETS[name], config["model.likelihood"], of_quadrants)


def _with_library_size(data: Data, config: dict[str, Any]) -> Data:
    """Counts with a library size; the configuration may name the likelihood of the counts."""
    of_counts = config["model.likelihood"]
    if of_counts is None or isinstance(likelihood(part(of_counts)), LibrarySize):
        return datasets.with_library_size(data)
    if of_counts in COUNTS:
        config["model.likelihood"] = None  # it is wrapped
        return datasets.with_library_size(data, of_counts)
    if config["library_size"]:
        raise UserError(
            f"library_size is for counts: the likelihood is one of {', '.join(COUNTS)}, "
            f"not {of_counts}"
        )
    return data


def _standardize(data: Data, name: str | None, of_likelihood: object) -> Data:
    """The data, standardized if they are a table of numbers for a normal likelihood.

    The learned scale of a normal likelihood starts at one value for all columns, and a column in
    large units would have all of the bound.
    """
    if data.scaling is not None or not is_standardized_by_default(data, name, of_likelihood):
        return data
    data = datasets.standardize(data)
    advise(
        f"{_columns(data)} standardized, because the likelihood is normal; a run takes and "
        "returns values in original units; standardize=False (--standardize false) leaves x as it is"
    )
    return data


def _columns(data: Data) -> str:
    """The columns of x that are standardized: in a table of several kinds the real ones."""
    table = data.table
    assert data.scaling is not None
    mean, sd = data.scaling
    is_scaled = (mean != 0) | (sd != 1)
    if table is None or bool(is_scaled.all()):
        return "the columns of x are"
    real = [name for name, scaled in zip(table.names, is_scaled.tolist(), strict=True) if scaled]
    shown = ", ".join(real[:3]) + (f" and {len(real) - 3} others" if len(real) > 3 else "")
    return f"the columns {shown} of x are" if len(real) > 1 else f"the column {shown} of x is"


def has_numeric_covariates(data: Data) -> bool:
    """Whether the covariates that came with the data are columns of numbers, not of classes alone."""
    c = data.own_covariates
    return (
        c is not None
        and data.c_scaling is None
        and c.dim() <= 2
        and bool(((c != 0) & (c != 1)).any())
    )


def is_standardized_by_default(data: Data, name: str | None, of_likelihood: object) -> bool:
    """Whether these data are a table, and the likelihood takes columns of it as real numbers."""
    if name in DATASETS or len(data.x_shape) != 1 or data.binarize != "none":
        return False
    return bool(real_columns(likelihood(part(of_likelihood)), data.x_shape[0]).any())


def default_binarization(known: DataSet, of_likelihood: object, of_quadrants: bool) -> str:
    """What is done to gray values, for the likelihood: binary pixels for a Bernoulli."""
    default = of_likelihood is None
    bernoulli = not default and type(likelihood(part(of_likelihood))) is Bernoulli
    if of_quadrants and known.images and (default or bernoulli):
        return "static"  # the task's pixels are binary, also those of the condition
    return "dynamic" if bernoulli or (default and known.binarize == "dynamic") else "none"
