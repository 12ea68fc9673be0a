"""What a data set is here: tensors, split and binarised explicitly, with the seeds recorded."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..errors import UserError, unknown, whole

BINARISE = ("none", "static", "dynamic")
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Split:
    """`x [N, ...]` float, `y [N]` int64 labels (-1: not labelled), `c [N, ...]` covariates."""

    x: torch.Tensor
    y: torch.Tensor | None = None
    c: torch.Tensor | None = None

    def __len__(self):
        return len(self.x)

    def __getitem__(self, rows):
        """Some rows, by a slice or an index tensor."""
        return Split(*(None if v is None else v[rows] for v in (self.x, self.y, self.c)))


@dataclass(frozen=True)
class Data:
    """Training, validation and test splits of one data set.

    `binarise` says what was done to grey values in [0, 1]:

    * `"none"`: nothing; use a likelihood that fits (`Binomial(16)` for digits).
    * `"static"`: every split was binarised once, `x ~ Bernoulli(grey)`, with `binarise_seed`.
    * `"dynamic"`: validation and test were, once; `train.x` holds the grey values, and each
      training batch is drawn anew (`Batches` does that).

    The three are different tasks; their likelihoods are not comparable.

    `condition` says what a conditional model is given: `Labels(...)`, `Quadrants(...)`, any function
    of `(x, y)` that returns `(x, c)`; it is applied to a batch after binarisation. The splits hold
    the data before it; `observed` and the training batches, after.
    """

    train: Split
    valid: Split | None = None
    test: Split | None = None
    name: str = "data"
    num_classes: int | None = None
    binarise: str = "none"
    binarise_seed: int = 0
    split_seed: int = 0
    likelihood: str = "normal"  # the name of one that fits x as it is, the command line's default
    condition: Callable | None = None
    scaling: tuple | None = None  # (mean, sd) that `standardise` took out
    hidden: torch.Tensor | None = None  # training labels that `keep_labels` took away, for scoring
    source: dict | None = None  # arguments of `load` that reload these data; None: from arrays

    def keep_labels(self, num_labels, seed=0):
        """The same data with `num_labels` training labels kept, the others -1; classes in balance.

        Chosen by `seed`: as many of each class as there are, or one fewer, or all that a class has.
        Validation and test labels stay, for scoring. What was taken away is in `hidden [N]`, for
        scoring too.

        Raises:
            UserError: no labels, or not as many.
        """
        whole(0, num_labels=num_labels)
        y = self.train.y
        known = 0 if y is None else int((y >= 0).sum())
        if not 0 < num_labels <= known:
            raise UserError(
                f"{num_labels} labels to keep, of {known} that {self.name} has to train on"
            )
        generator = torch.Generator().manual_seed(seed)
        classes = torch.randperm(int(y.max()) + 1, generator=generator).tolist()
        order = torch.randperm(len(y), generator=generator)
        rows = [order[y[order] == k].tolist() for k in classes]
        turns = max(map(len, rows))
        dealt = [r[turn] for turn in range(turns) for r in rows if turn < len(r)]
        kept = torch.full_like(y, -1)
        kept[dealt[:num_labels]] = y[dealt[:num_labels]]
        train = dataclasses.replace(self.train, y=kept)
        return dataclasses.replace(self, train=train, hidden=y)

    def given(self, condition):
        """The same data, with a condition: `data.given(pv.data.Labels(10))`."""
        return dataclasses.replace(self, condition=condition)

    def original(self, x):
        """Values `[N, *x_shape]`, data or samples, in the units that they had before `standardise`."""
        if self.scaling is None:
            return x
        mean, sd = (s.to(x) for s in self.scaling)
        return x * sd + mean

    @property
    def x_shape(self):
        """Event shape of one datum, as a model sees it."""
        return tuple(conditioned(self.train[:1], self.condition).x.shape[1:])

    @property
    def c_shape(self):
        """Event shape of a datum's covariates; None where there are none."""
        c = conditioned(self.train[:1], self.condition).c
        return None if c is None else tuple(c.shape[1:])

    def describe(self):
        """What `config.json` records."""
        sizes = {n: len(s) for n in SPLITS if (s := getattr(self, n))}
        return {
            "name": self.name,
            "x_shape": list(self.x_shape),
            "sizes": sizes,
            "num_classes": self.num_classes,
            "binarise": self.binarise,
            "binarise_seed": self.binarise_seed,
            "split_seed": self.split_seed,
            **({} if self.condition is None else {"condition": repr(self.condition)}),
            **({} if self.hidden is None else {"num_labels": int((self.train.y >= 0).sum())}),
            **({} if self.scaling is None else {"standardised": True}),
        }

    def observed(self, split):
        """A split as it is observed: binarised once where training does so, then conditioned."""
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        chosen = getattr(self, split)
        if chosen is None:
            raise UserError(f"{self.name} has no {split} split")
        if self.binarise == "dynamic" and split == "train":
            chosen = dataclasses.replace(chosen, x=_draw(chosen.x, self.binarise_seed + 1))
        return conditioned(chosen, self.condition)


def conditioned(split, condition):
    """The split as a condition leaves it."""
    if condition is None:
        return split
    x, c = condition(split.x, split.y)
    return dataclasses.replace(split, x=x, c=c)


def _draw(grey, seed):
    return torch.bernoulli(grey, generator=torch.Generator().manual_seed(seed))


def make(
    train, valid, test, *, name, num_classes, binarise, binarise_seed=0, split_seed=0, likelihood
):
    """`Data` from grey splits, binarised as said."""
    if binarise not in BINARISE:
        raise unknown("binarisation", binarise, BINARISE)
    if binarise != "none":
        likelihood = "bernoulli"
        low, high = train.x.min().item(), train.x.max().item()
        if low < 0 or high > 1:
            raise UserError(f"binarise needs values in [0, 1]; {name} has [{low:.3g}, {high:.3g}]")
        valid = valid and dataclasses.replace(valid, x=_draw(valid.x, binarise_seed))
        test = test and dataclasses.replace(test, x=_draw(test.x, binarise_seed + 2))
        if binarise == "static":
            train = dataclasses.replace(train, x=_draw(train.x, binarise_seed + 1))
    return Data(
        train, valid, test, name, num_classes, binarise, binarise_seed, split_seed, likelihood
    )


def _checked(x, y=None, num_classes=None, name="data"):
    """Tensors of the right kind, or one line that says what is wrong."""
    keep_dtype = isinstance(x, torch.Tensor) and x.dtype in (torch.float32, torch.float64)
    x = torch.as_tensor(np.asarray(x) if not isinstance(x, torch.Tensor) else x)
    if x.dtype == torch.uint8:
        x = x.float() / 255
    x = x if keep_dtype else x.to(torch.get_default_dtype())
    if x.dim() < 2:
        raise UserError(f"{name}: x has shape {list(x.shape)}; expected [N, ...], a row per datum")
    bad = ~torch.isfinite(x)
    if bad.any():
        rows = bad.flatten(1).any(1)
        raise UserError(
            f"{name}: x has {int(bad.sum())} NaN or infinite values, in {int(rows.sum())} rows "
            f"(first: row {int(rows.nonzero()[0])})"
        )
    if y is None:
        return x, None, None
    y = torch.as_tensor(np.asarray(y) if not isinstance(y, torch.Tensor) else y)
    if y.shape != x.shape[:1]:
        raise UserError(f"{name}: {list(y.shape)} labels for {len(x)} data; expected [{len(x)}]")
    if y.is_floating_point() and (y != y.round()).any():
        raise UserError(f"{name}: labels must be whole numbers 0, 1, ... (or -1: not labelled)")
    y = y.long()
    top = num_classes if num_classes is not None else int(y.max()) + 1
    if len(y) and (y.min() < -1 or y.max() >= top):
        raise UserError(
            f"{name}: labels must lie in 0..{top - 1} (or -1: not labelled); "
            f"found {int(y.min())}..{int(y.max())}"
        )
    return x, y, top


def from_arrays(
    x,
    y=None,
    valid=0.1,
    test=0.1,
    binarise="none",
    num_classes=None,
    name="data",
    split_seed=0,
    binarise_seed=0,
    likelihood="normal",
    c=None,
):
    """`Data` from arrays or tensors, split by a seeded permutation that looks at no label.

    Args:
        x: `[N, ...]`; uint8 is divided by 255.
        y: `[N]` labels, whole numbers from 0 (-1: not labelled), or None.
        c: `[N, ...]` covariates, what a conditional model is given, or None.
        valid, test: shares of the data (or counts); 0 for none.

    Raises:
        UserError: NaN in x, labels out of range, shapes that do not match.
    """
    x, y, num_classes = _checked(x, y, num_classes, name)
    n = len(x)
    if c is not None:
        c, _, _ = _checked(c, name=f"{name}, covariates c")
        if len(c) != n:
            raise UserError(f"{name}: c has {len(c)} rows, x has {n}")
    counts = [round(s * n) if isinstance(s, float) else int(s) for s in (valid, test)]
    if min(counts) < 0 or sum(counts) >= n:
        raise UserError(f"{name}: valid + test = {sum(counts)} leaves nothing of {n} to train on")
    order = torch.arange(n)  # nothing held out: the caller's rows, in the caller's order
    if sum(counts):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(split_seed))
    parts = order.split([n - sum(counts), *counts])
    train, valid, test = (Split(x, y, c)[i] if len(i) else None for i in parts)
    return make(
        train,
        valid,
        test,
        name=name,
        num_classes=num_classes,
        binarise=binarise,
        binarise_seed=binarise_seed,
        split_seed=split_seed,
        likelihood=likelihood,
    )


def standardise(data):
    """The same data, every column of x less its mean and over its standard deviation.

    Both are of the training split; a column that is constant there is only centred. Likelihoods
    are then those of the standardised values: a density in the original units is less by the sum
    of log sd. `Data.original` undoes it. Never done unasked.

    Raises:
        UserError: binarised data, or data standardised already.
    """
    if data.binarise != "none" or data.scaling is not None:
        raise UserError(f"{data.name} is binarised or standardised already")
    sd, mean = torch.std_mean(data.train.x, 0, correction=0)
    sd = torch.where(sd > 0, sd, torch.ones_like(sd))

    def scaled(split):
        return split and dataclasses.replace(split, x=(split.x - mean) / sd)

    parts = {name: scaled(getattr(data, name)) for name in ("train", "valid", "test")}
    return dataclasses.replace(data, **parts, scaling=(mean, sd))


def from_dataset(dataset, **options):
    """`Data` from a map-style torch `Dataset` of `x` or `(x, y)`; see `from_arrays`."""
    items = [dataset[i] for i in range(len(dataset))]
    if isinstance(items[0], (tuple, list)):
        x = torch.stack([torch.as_tensor(i[0]) for i in items])
        return from_arrays(x, torch.as_tensor([int(i[1]) for i in items]), **options)
    return from_arrays(torch.stack([torch.as_tensor(i) for i in items]), **options)


def as_data(data):
    """What `fit` accepts: `Data`, a tensor or array, `(x, y)`, a `Dataset`, or a `DataLoader`.

    Bare arrays and datasets are all training data: nothing is held out behind the caller's back.
    """
    if isinstance(data, (Data, DataLoader)):
        return data
    if isinstance(data, IterableDataset):
        raise UserError(
            "an IterableDataset gives one datum at a time: DataLoader(it, batch_size=...)"
        )
    if isinstance(data, Dataset) and hasattr(data, "__len__"):
        return from_dataset(data, valid=0, test=0)
    if isinstance(data, (torch.Tensor, np.ndarray)):
        return from_arrays(data, valid=0, test=0)
    if isinstance(data, tuple) and len(data) == 2:
        return from_arrays(*data, valid=0, test=0)
    if hasattr(data, "__iter__") and hasattr(data, "__len__"):
        return data  # batches, their number stated
    raise UserError(
        f"cannot train on {type(data).__name__}: pass pv.data.load(...), a tensor, (x, y), "
        "a torch Dataset, or an iterable of batches with a length"
    )
