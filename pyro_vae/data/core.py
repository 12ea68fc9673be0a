"""What a data set is here: tensors, split and binarized explicitly, with the seeds recorded."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..conditionals import likelihood as check_likelihood
from ..errors import UserError, check_int_at_least, unknown_name_error
from .arrays import as_floats, as_labels, as_named, as_tensor, check_classes, check_finite
from .conditions import Condition

BINARISE = ("none", "static", "dynamic")
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Split:
    """`x [N, ...]` float, `y [N]` int64 labels (-1: not labelled), `c [N, ...]` covariates.

    `others` are arrays `[N, ...]` of any shape and dtype, by the names that the program takes.
    """

    x: torch.Tensor
    y: torch.Tensor | None = None
    c: torch.Tensor | None = None
    others: dict = field(default_factory=dict)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        """Some rows, by a slice or an index tensor."""
        return self.map(lambda value: value[rows])

    def __repr__(self):
        shapes = (f"{name} {list(value.shape)}" for name, value in self.arrays().items())
        return f"Split({', '.join(shapes)})"

    def arrays(self):
        """`{name: [N, ...]}` of all that there is, `x` first."""
        found = {"x": self.x, "y": self.y, "c": self.c, **self.others}
        return {name: value for name, value in found.items() if value is not None}

    def map(self, function):
        """The split with every array put through `function`."""
        x, y, c = (None if v is None else function(v) for v in (self.x, self.y, self.c))
        return Split(x, y, c, {name: function(value) for name, value in self.others.items()})


@dataclass(frozen=True)
class Data:
    """Training, validation and test splits of one data set.

    `binarize` says what was done to grey values in [0, 1]:

    * `"none"`: nothing; use a likelihood that fits (`Binomial(16)` for digits).
    * `"static"`: every split was binarized once, `x ~ Bernoulli(grey)`, with `binarize_seed`.
    * `"dynamic"`: validation and test were, once; `train.x` holds the grey values, and each
      training batch is drawn anew (`Batches` does that).

    The three are different tasks; their likelihoods are not comparable.

    `condition` says what a conditional model is given: `Labels(...)`, `Quadrants(...)`, any function
    of `(x, y)` that returns `(x, c)`; it is applied to a batch after binarization. The splits hold
    the data before it; `observed` and the training batches, after.

    `names` are those under which the pair is given the arrays in training, where they were given by
    name: see `from_arrays`.
    """

    train: Split
    valid: Split | None = None
    test: Split | None = None
    name: str = "data"
    num_classes: int | None = None
    binarize: str = "none"
    binarize_seed: int = 0
    split_seed: int = 0
    likelihood: str = "normal"  # the name of one that fits x as it is, the command line's default
    condition: Callable | None = None
    scaling: tuple | None = None  # (mean, sd) that `standardize` took out
    withheld_labels: torch.Tensor | None = None  # training labels that `keep_labels` took away
    names: tuple | None = None
    source: dict | None = None  # arguments of `load` that reload these data; None: from arrays

    def __post_init__(self):
        if isinstance(self.condition, Condition):
            for split in self.splits().values():
                self.condition.check(split.y)

    def __repr__(self):
        sizes = ", ".join(f"{len(split)} {name}" for name, split in self.splits().items())
        parts = [f"x {list(self.x_shape)}"]
        parts += [
            f"{n} {list(v.shape[1:])}" for n, v in self.train.arrays().items() if n not in "xy"
        ]
        parts += [] if self.num_classes is None else [f"{self.num_classes} classes"]
        parts += [] if self.binarize == "none" else [f"{self.binarize} binarization"]
        parts += [] if self.condition is None else [f"condition {self.condition!r}"]
        parts += [] if self.scaling is None else ["standardized: data.unstandardize(x) undoes it"]
        return f"Data({self.name!r}: {sizes}; {', '.join(parts)})"

    def splits(self):
        """`{name: Split}` of those that there are."""
        return {name: split for name in SPLITS if (split := getattr(self, name)) is not None}

    def keep_labels(self, num_labels, seed=0):
        """The same data with `num_labels` training labels kept, the others -1; classes in balance.

        Chosen by `seed`: as many of each class as there are, or one fewer, or all that a class has.
        Validation and test labels stay, for scoring. What was taken away is in `withheld_labels [N]`, for
        scoring too.

        Raises:
            UserError: no labels, or not as many.
        """
        check_int_at_least(0, num_labels=num_labels)
        y = self.train.y
        known = 0 if y is None else int((y >= 0).sum())
        if not 0 < num_labels <= known:
            raise UserError(
                f"{num_labels} labels to keep, of {known} that {self.name} has to train on"
            )
        generator = torch.Generator().manual_seed(seed)
        classes = torch.randperm(int(y.max()) + 1, generator=generator).tolist()
        order = torch.randperm(len(y), generator=generator).to(y.device)
        rows = [order[y[order] == k].tolist() for k in classes]
        turns = max(map(len, rows))
        round_robin = [r[turn] for turn in range(turns) for r in rows if turn < len(r)]
        kept = torch.full_like(y, -1)
        kept[round_robin[:num_labels]] = y[round_robin[:num_labels]]
        train = dataclasses.replace(self.train, y=kept)
        return dataclasses.replace(self, train=train, withheld_labels=y)

    def with_condition(self, condition):
        """The same data, with a condition: `data.with_condition(pv.data.Labels(10))`."""
        return dataclasses.replace(self, condition=condition)

    def unstandardize(self, x):
        """Values `[N, *x_shape]`, data or samples, in the units that they had before `standardize`.

        A model knows nothing of the data that it was trained on: what it generates and reconstructs is
        in the units of these data, `data.unstandardize(pv.sample(model, 64))` in the original ones.
        """
        if self.scaling is None:
            return x
        mean, sd = (s.to(x) for s in self.scaling)
        return x * sd + mean

    def standardize_values(self, x):
        """New values `[N, *x_shape]` in the units of these data: the inverse of `original`."""
        x = as_floats(x)
        if self.scaling is None:
            return x
        mean, sd = (s.to(x) for s in self.scaling)
        return (x - mean) / sd

    def cast(self, dtype):
        """The same data, their floating-point arrays in `dtype`."""

        def to(value):
            if not value.is_floating_point() or value.dtype == dtype:
                return value
            new = value.to(dtype)
            check_finite(new, f"{self.name}, as {dtype}, an array")  # beyond its range
            return new

        parts = {name: split.map(to) for name, split in self.splits().items()}
        return dataclasses.replace(self, **parts)

    def observed_names(
        self, observes: Sequence[str], observed: Sequence[str] | None = None
    ) -> tuple[str, ...]:
        """The names of what a pair is given: `observed`, else those in the data, else the model's."""
        if observed or self.names is None:
            return tuple(observed or observes)
        return tuple(dict.fromkeys((*self.names, *(() if self.condition is None else ("c",)))))

    @property
    def x_shape(self):
        """Event shape of one data point, as a model sees it."""
        return tuple(conditioned(self.train[:1], self.condition).x.shape[1:])

    @property
    def c_shape(self):
        """Event shape of a data point's covariates; None where there are none."""
        c = conditioned(self.train[:1], self.condition).c
        return None if c is None else tuple(c.shape[1:])

    def describe(self):
        """What `config.json` records."""
        sizes = {name: len(split) for name, split in self.splits().items()}
        return {
            "name": self.name,
            "x_shape": list(self.x_shape),
            "sizes": sizes,
            "num_classes": self.num_classes,
            "binarize": self.binarize,
            "binarize_seed": self.binarize_seed,
            "split_seed": self.split_seed,
            **({} if self.condition is None else {"condition": repr(self.condition)}),
            **(
                {}
                if self.withheld_labels is None
                else {"num_labels": int((self.train.y >= 0).sum())}
            ),
            **({} if self.scaling is None else {"standardized": True}),
            **({} if self.names is None else {"names": list(self.names)}),
        }

    def observed_split(self, split):
        """A split as it is observed: binarized once where training does so, then conditioned."""
        if split not in SPLITS:
            raise unknown_name_error("split", split, SPLITS)
        chosen = getattr(self, split)
        if chosen is None:
            raise UserError(f"{self.name} has no {split} split")
        if self.binarize == "dynamic" and split == "train":
            chosen = dataclasses.replace(chosen, x=_draw(chosen.x, self.binarize_seed + 1))
        return conditioned(chosen, self.condition)


def conditioned(split, condition):
    """The split as a condition leaves it."""
    if condition is None:
        return split
    x, c = condition(split.x, split.y)
    return dataclasses.replace(split, x=x, c=c)


def _draw(grey, seed):
    # drawn in one precision and on the CPU: the same numbers have the same draw everywhere
    draw = torch.bernoulli(grey.cpu().float(), generator=torch.Generator().manual_seed(seed))
    return draw.to(grey)


def build_splits(
    train,
    valid,
    test,
    *,
    name,
    num_classes,
    binarize,
    binarize_seed=0,
    split_seed=0,
    likelihood,
    names=None,
):
    """`Data` from grey splits, binarized as said."""
    if binarize not in BINARISE:
        raise unknown_name_error("binarization", binarize, BINARISE)
    if binarize != "none":
        likelihood = "bernoulli"
        low, high = train.x.min().item(), train.x.max().item()
        if low < 0 or high > 1:
            raise UserError(f"binarize needs values in [0, 1]; {name} has [{low:.3g}, {high:.3g}]")
        valid = valid and dataclasses.replace(valid, x=_draw(valid.x, binarize_seed))
        test = test and dataclasses.replace(test, x=_draw(test.x, binarize_seed + 2))
        if binarize == "static":
            train = dataclasses.replace(train, x=_draw(train.x, binarize_seed + 1))
    return Data(
        train,
        valid,
        test,
        name,
        num_classes,
        binarize,
        binarize_seed,
        split_seed,
        likelihood,
        names=names,
    )


def _checked_x(x, name, label="x", least_dims=2):
    """A floating-point tensor `[N, ...]`, or one line that says what is wrong."""
    x = as_floats(x, label if name == "data" else f"{name}: {label}")
    if x.dim() and not x.numel():
        raise UserError(f"{name}: {label} has shape {list(x.shape)}: there are no values in it")
    if x.dim() < least_dims:
        raise UserError(
            f"{name}: {label} has shape {list(x.shape)}; expected [N, ...], a row per data point "
            "(one number per data point goes by name: {'x': x})"
        )
    check_finite(x, f"{name}: {label}")
    return x


def _rows_match(value, n, name, label):
    if len(value) != n:
        raise UserError(f"{name}: {label} has {len(value)} rows, x has {n}")


def from_arrays(
    x,
    y=None,
    valid=0.1,
    test=0.1,
    binarize="none",
    num_classes=None,
    name="data",
    split_seed=0,
    binarize_seed=0,
    likelihood="normal",
    c=None,
):
    """`Data` from arrays, split by a seeded permutation that looks at no label.

        from_arrays(x, y)                    # y: labels, for scoring, or for an objective
        from_arrays({"x": x, "ys": y})       # any arrays, by the names that the program takes

    Arrays are tensors, numpy arrays, lists or DataFrames; the same numbers are the same data. Those
    that are given by name are given to the pair in training under that name, `x` as the first
    argument; of `y` and `c` given apart, a pair gets what it observes (see `fit`).

    Args:
        x: `[N, ...]`, made floats; uint8 is divided by 255. Or `{name: [N, ...]}` of any shapes:
            `x` and `c` are made floats; the others keep whole numbers and booleans as they are.
        y: `[N]` labels, whole numbers from 0 (-1: not labelled), or None.
        c: `[N, ...]` covariates, what a conditional model is given, or None.
        valid, test: shares of the data (or counts); 0 for none.
        num_classes: of the labels. Default: the highest label and one.

    Raises:
        UserError: NaN in x, labels out of range, shapes that do not match, arrays that cannot be
            converted without a loss (see `data.arrays`), an unknown likelihood.
    """
    check_likelihood(likelihood)
    if num_classes is not None:
        check_int_at_least(1, num_classes=num_classes)
    others, names = {}, None
    if isinstance(x, dict):
        if y is not None or c is not None:
            raise UserError("arrays are given by name, {'x': x, 'y': y}, or apart, but not both")
        others = {k: v for k, v in x.items() if v is not None}
        if "x" not in others:
            found = ", ".join(map(str, others)) or "none"
            raise UserError(f"arrays by name need 'x', the data themselves; there are {found}")
        x, c = others.pop("x"), others.pop("c", None)
        names = ("x", *(("c",) if c is not None else ()), *others)
        others = {k: as_named(v, f"{name}: {k}") for k, v in others.items()}
    x = _checked_x(x, name, least_dims=1 if names else 2)
    n = len(x)
    if y is not None:
        hint = "; arrays of any shape go by the names that the program takes: {'x': x, 'y': y}"
        y = as_labels(y, f"{name}: labels", hint)
        if len(y) != n:
            raise UserError(f"{name}: {list(y.shape)} labels for {n} data; expected [{n}]")
        num_classes = check_classes(y, num_classes, name)
    if c is not None:
        c = _checked_x(c, name, "covariates c", least_dims=1)
        _rows_match(c, n, name, "c")
    for label, value in others.items():
        check_finite(value, f"{name}: {label}")
        _rows_match(value, n, name, label)
    counts = [round(s * n) if isinstance(s, float) else int(s) for s in (valid, test)]
    if min(counts) < 0 or sum(counts) >= n:
        raise UserError(f"{name}: valid + test = {sum(counts)} leaves nothing of {n} to train on")
    order = torch.arange(n)  # nothing held out: the caller's rows, in the caller's order
    if sum(counts):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(split_seed))
    parts = order.split([n - sum(counts), *counts])
    train, valid, test = (Split(x, y, c, others)[i] if len(i) else None for i in parts)
    return build_splits(
        train,
        valid,
        test,
        name=name,
        num_classes=num_classes,
        binarize=binarize,
        binarize_seed=binarize_seed,
        split_seed=split_seed,
        likelihood=likelihood,
        names=names,
    )


def standardize(data):
    """The same data, every column of x less its mean and over its standard deviation.

    Both are of the training split; a column that is constant there is only centerd. Likelihoods
    are then those of the standardized values: a density in the original units is less by the sum
    of log sd. Never done unasked.

    A pair that is trained on these data is a pair of their units: samples, reconstructions and means
    are standardized, `Data.original` puts them into the original units; new data go through
    `Data.standardized` before they are encoded.

    Raises:
        UserError: binarized data, or data standardized already.
    """
    if data.binarize != "none" or data.scaling is not None:
        raise UserError(f"{data.name} is binarized or standardized already")
    sd, mean = torch.std_mean(data.train.x, 0, correction=0)
    sd = torch.where(sd > 0, sd, torch.ones_like(sd))

    def scaled(split):
        return split and dataclasses.replace(split, x=(split.x - mean) / sd)

    parts = {name: scaled(getattr(data, name)) for name in ("train", "valid", "test")}
    return dataclasses.replace(data, **parts, scaling=(mean, sd))


def from_dataset(dataset, **options):
    """`Data` from a map-style torch `Dataset` of `x`, `(x, y)` or dicts; see `from_arrays`."""
    items = [dataset[i] for i in range(len(dataset))]
    if not items:
        raise UserError(f"this {type(dataset).__name__} is empty")
    first = items[0]
    if isinstance(first, dict):
        return from_arrays({k: _column([i.get(k) for i in items], k) for k in first}, **options)
    if isinstance(first, (tuple, list)):
        if len(first) == 1:
            return from_arrays(_column([i[0] for i in items], "x"), **options)
        y = [i[1] for i in items]
        return from_arrays(_column([i[0] for i in items], "x"), _column(y, "labels y"), **options)
    return from_arrays(_column(items, "x"), **options)


def _column(items, name):
    """`[N, ...]` of N items, of one shape."""
    if isinstance(items[0], (str, bytes)):
        as_labels(items, name)  # raises what to do about text
    if isinstance(items[0], Real):
        return as_tensor(items, name)
    return as_tensor([as_tensor(item, name) for item in items], name)


def as_data(data, first="x"):
    """What `fit` accepts: `Data`, arrays, `(x, y)`, `{name: array}`, a `Dataset`, or batches.

    Bare arrays and datasets are all training data: nothing is held out behind the caller's back.
    Arrays are tensors, numpy arrays, lists of numbers or DataFrames. Batches are a `DataLoader`, or
    any iterable with a length.

    Args:
        first: the name of the program's first argument, which takes the data of a dict without "x".
    """
    if isinstance(data, (Data, DataLoader)):
        return data
    if isinstance(data, IterableDataset):
        raise UserError(
            "an IterableDataset gives one data point at a time: DataLoader(it, batch_size=...)"
        )
    if isinstance(data, Dataset) and hasattr(data, "__len__"):
        return from_dataset(data, valid=0, test=0)
    if isinstance(data, dict):
        return from_arrays(named_first(data, first), valid=0, test=0)
    if isinstance(data, (torch.Tensor, np.ndarray)) or hasattr(data, "to_numpy"):
        return from_arrays(data, valid=0, test=0)
    if isinstance(data, str):
        raise UserError(f"cannot train on a name: pass pv.data.load({data!r}), or arrays")
    if isinstance(data, tuple):
        if len(data) != 2:
            raise UserError(
                f"a tuple of {len(data)}: pass (x, y), or arrays by the names that the program takes, "
                "{'x': x, ...}"
            )
        return from_arrays(*data, valid=0, test=0)
    if hasattr(data, "toarray"):
        raise UserError(f"cannot train on a sparse {type(data).__name__}: pass its .toarray()")
    if isinstance(data, list) and (not data or _is_row(data[0])):
        return from_arrays(data, valid=0, test=0)
    batched = hasattr(data, "__iter__") and hasattr(data, "__len__")
    if batched and not isinstance(data, (bytes, set, frozenset)):
        return data  # batches, their number stated
    raise UserError(
        f"cannot train on {type(data).__name__}: pass pv.data.load(...), a tensor, (x, y), "
        "{'x': x, ...}, a torch Dataset, or an iterable of batches with a length"
    )


def named_first(arrays, first):
    """The dict, with the array of the program's first argument under "x"."""
    if "x" in arrays or first not in arrays:
        return arrays
    return {"x": arrays[first], **{k: v for k, v in arrays.items() if k != first}}


def _is_row(item):
    """Whether an item of a list is a number, or (nested) lists of them: a row, and no batch."""
    if isinstance(item, (list, tuple)):
        return bool(item) and _is_row(item[0])
    return isinstance(item, (Real, np.bool_, str))
