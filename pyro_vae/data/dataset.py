"""A data set: tensors in splits, binarized explicitly, with the seeds recorded."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ..conditionals import Family
from ..errors import UserError, check_int_at_least, checked_seed, unknown_name_error
from .arrays import are_gray_levels, as_floats, as_tensor, check_finite, check_rounding
from .conditions import Condition
from .fingerprint import column_digest, column_means, scaling_means, sparse_column_means
from .sparse import SparseRows
from .tables import Table, is_frame

SPLITS = ("train", "valid", "test")
MEAN_OF_X = "mean of x"  # in a fingerprint
VALUES = "values of "  # x, y or c, in a fingerprint: they tell an edited or reordered file

#: A `Condition`, or any function of `(x, y)` that returns `(x, c)`.
AnyCondition = Callable[
    [torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor | None]
]


@dataclass(frozen=True)
class Split:
    """The arrays of one split.

    Example:
        >>> import torch, pyro_vae as pv
        >>> split = pv.data.Split(torch.zeros(5, 3), torch.arange(5))
        >>> split[:2]
        Split(x [2, 3], y [2])

    Args:
        x: `[N, ...]` floats.
        y: `[N]` int64 labels; -1: not labeled.
        c: `[N, ...]` covariates.
        others: `{name: [N, ...]}` of any shape and dtype, by the names that the program takes.
    """

    x: torch.Tensor
    y: torch.Tensor | None = None
    c: torch.Tensor | None = None
    others: dict[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice | torch.Tensor) -> "Split":
        """Some rows, by a slice or an index tensor."""
        return self.map(lambda value: value[rows])

    def __repr__(self) -> str:
        shapes = (f"{name} {list(value.shape)}" for name, value in self.arrays().items())
        return f"Split({', '.join(shapes)})"

    def arrays(self) -> dict[str, torch.Tensor]:
        """`{name: [N, ...]}` of the arrays that there are, `x` first."""
        named = {"x": self.x, "y": self.y, "c": self.c, **self.others}
        return {name: value for name, value in named.items() if value is not None}

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Split":
        """The split with `function` applied to every array."""
        y, c = (None if v is None else function(v) for v in (self.y, self.c))
        others = {name: function(value) for name, value in self.others.items()}
        return Split(function(self.x), y, c, others)


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """The first entry in which two descriptions of data differ, as `"name: 1, not 2"`; None if equal.

    Args:
        a, b: as `Data.describe` returns them.
    """
    name = next((name for name in {**b, **a} if a.get(name) != b.get(name)), None)
    if name is None or name.startswith(VALUES):
        return name
    return f"{name}: {a.get(name)}, not {b.get(name)}"


def is_of_numbers(name: str) -> bool:
    """Whether an entry of a fingerprint is one that `Data.describe` has not."""
    return name.startswith(VALUES) or name == MEAN_OF_X


class AbsentRows(NamedTuple):
    """What is known of data whose rows are not here; see `train/schema.py`."""

    schema: dict[str, Any]  #: how new data are read as these were
    reason: str  #: why they are not here

    def error(self, name: str) -> UserError:
        """For what needs the rows."""
        return UserError(
            f"this needs the training data {name!r}, which are not here ({self.reason}): in Python, "
            "pv.load(run, data=) takes them; new data can be encoded, evaluated and imputed"
        )


@dataclass(frozen=True)
class Data:
    """Training, validation and test splits of one data set.

    `binarize` says what was done to gray values in [0, 1]:

    * `"none"`: nothing; use a likelihood that fits (`Binomial(16)` for digits).
    * `"static"`: every split was binarized once, `x ~ Bernoulli(gray)`, with `binarize_seed`.
    * `"dynamic"`: validation and test were binarized once. `train.x` holds the gray values, and
      every training batch is drawn anew.

    The three are different tasks; their likelihoods are not comparable.

    Example:
        >>> import torch, pyro_vae as pv
        >>> data = pv.data.from_arrays(torch.randn(100, 3), name="noise")
        >>> data
        Data('noise': 80 train, 10 valid, 10 test; x [3])
        >>> data.train.x.shape
        torch.Size([80, 3])

    Args:
        train, valid, test: the splits, before the condition is applied.
        name: of the data set.
        num_classes: of the labels.
        binarize: see above.
        binarize_seed: of the binarization.
        split_seed: of the splits.
        likelihood: one that fits x as it is, by name or as a family; the default of a method.
        condition: the covariates of a conditional model: `Labels(...)`, `Quadrants(...)`, or any
            function of `(x, y)` that returns `(x, c)`. It is applied after binarization.
        scaling: `(mean, sd)` of the columns of x that `standardize` removed, in float64.
        c_scaling: those of the columns of c.
        withheld_labels: `[N]` training labels before `keep_labels` removed some.
        names: those under which the pair gets the arrays in training, if they were passed by name;
            see `from_arrays`.
        source: arguments of `load` that reload these data. Default: they come from arrays.
        missing: whether x has missing values, which are NaN.
        table: the columns of the frame that x came from; see `from_frame`.
        absent: of data without rows: a run was loaded where the data that it was trained on are not.
            Such data read new data and know their units.
        class_names: of the labels, in the order of their numbers: the values of the frame's column, or
            the subfolders of an image folder. None: labels have no names but their numbers.
    """

    train: Split
    valid: Split | None = None
    test: Split | None = None
    name: str = "data"
    num_classes: int | None = None
    binarize: str = "none"
    binarize_seed: int = 0
    split_seed: int = 0
    likelihood: str | Family = "normal"
    condition: AnyCondition | None = None
    scaling: tuple[torch.Tensor, torch.Tensor] | None = None
    c_scaling: tuple[torch.Tensor, torch.Tensor] | None = None
    withheld_labels: torch.Tensor | None = None
    names: tuple[str, ...] | None = None
    source: dict[str, Any] | None = None
    missing: bool = False
    table: Table | None = None
    absent: AbsentRows | None = field(default=None, repr=False)
    class_names: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.dense_condition, Condition):
            for split in self.splits().values():
                self.dense_condition.check(split.y)
        if self.missing and self.condition is not None:
            for split in self.splits().values():
                covariates = conditioned(split, self.condition).c
                if covariates is not None and covariates.isnan().any():
                    raise UserError(
                        f"{self.name}: covariates c of {self.condition!r} have missing values: "
                        "covariates must be complete"
                    )

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(split)} {name}" for name, split in self.splits().items())
        sizes = sizes if self.absent is None else "rows are not here"
        parts = [f"x {list(self.x_shape)}"]
        parts += [
            f"{n} {list(v.shape[1:])}" for n, v in self.train.arrays().items() if n not in "xy"
        ]
        if self.sparse is not None:
            c = self.sparse.covariates
            parts += ["sparse"] if c is None else [f"c {list(c.shape[1:])}", "sparse"]
        parts += [] if self.num_classes is None else [f"{self.num_classes} classes"]
        parts += [] if self.binarize == "none" else [f"{self.binarize} binarization"]
        condition = self.dense_condition
        parts += [] if condition is None else [f"condition {condition!r}"]
        parts += [] if self.table is None else [f"{len(self.table.columns)} columns"]
        parts += ["missing values"] if self.missing else []
        parts += [] if self.scaling is None else ["standardized: data.unstandardize(x) undoes it"]
        parts += [] if self.c_scaling is None else ["standardized c"]
        return f"Data({self.name!r}: {sizes}; {', '.join(parts)})"

    def splits(self) -> dict[str, Split]:
        """`{name: Split}` of the splits that there are."""
        return {name: split for name in SPLITS if (split := getattr(self, name)) is not None}

    @property
    def sparse(self) -> SparseRows | None:
        """The sparse matrix of counts whose row numbers x holds; None for dense data."""
        return self.condition if isinstance(self.condition, SparseRows) else None

    @property
    def dense_condition(self) -> AnyCondition | None:
        """The condition of data points that are dense: of a sparse matrix, that of its dense rows."""
        return self.condition if self.sparse is None else self.sparse.condition

    def observed_split(self, split: str, rows: slice | torch.Tensor | None = None) -> Split:
        """A split as a model observes it: binarized once where training does so, then conditioned.

        Args:
            split: train, valid or test.
            rows: some of its rows. Default: all; of a sparse matrix, all become dense.
        """
        if split not in SPLITS:
            raise unknown_name_error("split", split, SPLITS)
        part = self.splits().get(split)
        if self.absent is not None and (part is None or not len(part)):
            raise self.absent.error(self.name)
        if part is None:
            raise UserError(f"{self.name} has no {split} split")
        if self.binarize == "dynamic" and split == "train":
            part = dataclasses.replace(part, x=draw_binary(part.x, self.binarize_seed + 1))
        return conditioned(part if rows is None else part[rows], self.condition)

    def observed_names(
        self, observes: Sequence[str], observed: Sequence[str] | None = None
    ) -> tuple[str, ...]:
        """The names of the arrays that a pair gets: `observed`, else the data's, else the model's."""
        if observed or self.names is None:
            return tuple(observed or observes)
        return tuple(
            dict.fromkeys((*self.names, *(() if self.dense_condition is None else ("c",))))
        )

    @property
    def num_labels(self) -> int:
        """The number of training labels."""
        if self.absent is not None:
            return self.absent.schema["num_labels"]
        return 0 if self.train.y is None else int((self.train.y >= 0).sum())

    @property
    def labeled_in_part(self) -> bool:
        """Whether some training data have labels and others have none, or withheld ones."""
        is_whole = self.withheld_labels is None and self.num_labels == self.num_train
        return self.num_labels > 0 and not is_whole

    @property
    def num_train(self) -> int:
        """The number of training data points."""
        return self.describe()["sizes"]["train"] if self.absent is not None else len(self.train)

    def keep_labels(self, num_labels: int, seed: int = 0) -> "Data":
        """The same data with `num_labels` training labels kept, in balanced classes, the others -1.

        Every class keeps the same number, or one fewer, or all that it has. Validation and test
        labels stay, for evaluation. All training labels are in `withheld_labels [N]`, for
        evaluation too.

        Example:
            >>> import torch, pyro_vae as pv
            >>> data = pv.data.from_arrays(torch.zeros(6, 2), torch.arange(6) % 2, valid=0, test=0)
            >>> (data.keep_labels(2).train.y >= 0).sum()
            tensor(2)

        Args:
            num_labels: how many.
            seed: of the choice.

        Raises:
            UserError: no labels, or not as many.
        """
        check_int_at_least(0, num_labels=num_labels)
        y = self.train.y
        known = 0 if y is None else int((y >= 0).sum())
        if y is None or not 0 < num_labels <= known:
            raise UserError(
                f"{num_labels} labels to keep, of {known} that {self.name} has to train on"
            )
        rows = _balanced_rows(y, seed)[:num_labels]
        labels = torch.full_like(y, -1)
        labels[rows] = y[rows]
        train = dataclasses.replace(self.train, y=labels)
        return dataclasses.replace(self, train=train, withheld_labels=y)

    def with_condition(self, condition: AnyCondition | None) -> "Data":
        """The same data, with a condition: `data.with_condition(pv.data.Labels(10))`.

        Rows of a sparse matrix stay sparse; the condition is of those that become dense.
        """
        if self.sparse is not None:
            condition = self.sparse.with_condition(condition)
        return dataclasses.replace(self, condition=condition)

    def unstandardize(self, x: torch.Tensor) -> torch.Tensor:
        """Values `[N, *x_shape]`, data or samples, in the units before `standardize`.

        A model does not know the units of its data: what it generates and reconstructs has the units
        of the data that it was trained on. `data.unstandardize(pv.sample(model, 64))` has the
        original units.

        Args:
            x: `[..., *x_shape]`, as a model observes it; or whole data points, before the condition.
        """
        if self.scaling is None:
            return x
        observed = self.observed_scaling
        shape = observed[0].shape
        is_observed = x.shape[x.dim() - len(shape) :] == shape
        scaling = observed if is_observed else self.scaling
        mean, sd = (s.to(x.device) for s in scaling)
        return (x * sd + mean).to(torch.promote_types(x.dtype, self.train.x.dtype))

    def standardize_values(self, x: Any) -> torch.Tensor:
        """New values `[N, *x_shape]` in the units of these data: the inverse of `unstandardize`.

        A frame, of data that come from a frame, becomes numbers first.
        """
        if self.table is not None and (is_frame(x) or isinstance(x, Mapping)):
            x = self.table.encode(x, self.original_dtype)
        else:
            x = as_floats(x, dtype=self.original_dtype)
        if self.scaling is None:
            return x
        mean, sd = (s.to(x.device) for s in self.scaling)
        return ((x - mean) / sd).to(self.train.x.dtype)

    @property
    def own_covariates(self) -> torch.Tensor | None:
        """The covariates `[N, ...]` of the training data that came with them; None if there are none."""
        return self._own_c(self.train)

    def standardize_covariates(self, c: Any) -> torch.Tensor:
        """New covariates `[N, ...]` in the units of those of these data.

        Args:
            c: an array, or of data from a frame: a frame or `{name: values}` with their columns.
        """
        c = self._as_array_of_covariates(c)
        if self.c_scaling is None:
            return c
        mean, sd = self.c_scaling
        gray = c.dtype != torch.uint8 or self.has_gray_levels("c")
        values = as_floats(c, "c", torch.float64, gray)
        if values.shape[1:] != mean.shape:
            raise UserError(
                f"c has shape {list(values.shape)}, but the covariates of these data have [N, "
                f"{', '.join(map(str, mean.shape))}]"
            )
        return ((values - mean.to(values.device)) / sd.to(values.device)).to(self.train.x.dtype)

    def _as_array_of_covariates(self, c: Any) -> torch.Tensor:
        if not (is_frame(c) or isinstance(c, Mapping)):
            return as_tensor(c, "c")
        encoded = None if self.table is None else self.table.encode_covariates(c)
        if encoded is None:
            raise UserError(
                "the covariates of these data are no columns of a frame: pass an array c"
            )
        return encoded

    def unstandardize_covariates(self, c: torch.Tensor) -> torch.Tensor:
        """Covariates `[N, ...]` of these data in the units before `standardize`."""
        if self.c_scaling is None:
            return c
        mean, sd = (each.to(c.device) for each in self.c_scaling)
        return c * sd + mean

    def has_gray_levels(self, name: str = "x") -> bool:
        """Whether 8-bit integers in new x, or in new c, are gray levels, as those of these data were.

        They are where the values are, or were before they were binarized, in [0, 1] and not all 0 and 1.
        """
        if self.absent is not None:
            return name in self.absent.schema["gray_levels"]
        if name == "x":
            if self.sparse is not None or self.binarize != "none":
                return self.sparse is None
            return are_gray_levels(self.unstandardize(self.train.x))
        own = self.own_covariates
        if own is None:
            return True
        return are_gray_levels(self.unstandardize_covariates(own))

    @property
    def original_dtype(self) -> torch.dtype | None:
        """The dtype in which values in the original units are standardized; None: they are not."""
        return None if self.scaling is None else torch.float64

    def log_abs_det_jacobian(self, x: torch.Tensor) -> torch.Tensor:
        """`[N]`: the log volume by which `unstandardize` scales the observed values of x.

        A log-density of standardized values less this number is one in the original units. It is the
        sum of log sd over the values that are not missing, and zero for data that are not standardized.

        Args:
            x: `[N, *x_shape]`, as a model observes it: standardized, and after the condition.
        """
        if self.scaling is None:
            return x.new_zeros(len(x))
        log_sd = self.observed_scaling[1].log().to(x)
        return torch.where(x.isnan(), 0.0, log_sd).flatten(1).sum(1)

    @property
    def observed_scaling(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`(mean, sd)` of standardized data, of the values that a model observes: a condition may
        take some of them."""
        assert self.scaling is not None
        rows = (dataclasses.replace(self.train[:1], x=row.unsqueeze(0)) for row in self.scaling)
        mean, sd = (conditioned(row, self.condition).x.squeeze(0) for row in rows)
        return mean, sd

    def cast(self, dtype: torch.dtype) -> "Data":
        """The same data, their floating-point arrays in `dtype`."""

        def to(value: torch.Tensor) -> torch.Tensor:
            if not value.is_floating_point() or value.dtype == dtype:
                return value
            new = value.to(dtype)
            # beyond its range
            check_finite(new, f"{self.name}, as {dtype}, an array", self.missing)
            return new

        for name, value in (("x", self.train.x), ("c", self.train.c)):
            if value is not None and value.is_floating_point():
                argument = "" if name == "x" else ', "c"'
                remedy = f"pv.data.standardize(data{argument}), or subtract a constant from it"
                check_rounding(value, f"{self.name}: {name}", dtype, remedy)
        return self.map_splits(lambda split: split.map(to))

    def map_splits(self, function: Callable[[Split], Split], **changes: Any) -> "Data":
        """The same data with `function` applied to every split, and further fields changed."""
        splits: dict[str, Any] = {name: function(s) for name, s in self.splits().items()}
        return dataclasses.replace(self, **splits, **changes)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Event shape of one data point, as a model sees it."""
        return tuple(conditioned(self.train[:1], self.condition).x.shape[1:])

    @property
    def c_shape(self) -> tuple[int, ...] | None:
        """Event shape of a data point's covariates; None where there are none."""
        c = conditioned(self.train[:1], self.condition).c
        return None if c is None else tuple(c.shape[1:])

    def describe(self) -> dict[str, Any]:
        """What `config.json` records."""
        if self.absent is not None:
            return {n: v for n, v in self.fingerprint().items() if not is_of_numbers(n)}
        result: dict[str, Any] = {
            "name": self.name,
            "x_shape": list(self.x_shape),
            "sizes": {name: len(split) for name, split in self.splits().items()},
            "num_classes": self.num_classes,
            "binarize": self.binarize,
            "binarize_seed": self.binarize_seed,
            "split_seed": self.split_seed,
        }
        if self.condition is not None:
            result["condition"] = repr(self.condition)
        if self.withheld_labels is not None and self.train.y is not None:
            result["num_labels"] = self.num_labels
        if self.scaling is not None:
            result["standardized"] = True
        if self.c_scaling is not None:
            result["standardized_c"] = True
        if self.names is not None:
            result["names"] = list(self.names)
        if self.missing:
            result["missing"] = True
        return result

    def fingerprint(self) -> dict[str, Any]:
        """`describe`, with what other data of the same name and shape have not."""
        if self.absent is not None:
            return dict(self.absent.schema["fingerprint"])
        means: dict[str, list[torch.Tensor]] = {}
        for split in self.splits().values():
            arrays = dataclasses.replace(split, c=self._own_c(split)).arrays()
            if self.sparse is not None:
                means.setdefault("x", []).extend(sparse_column_means(self.sparse, arrays.pop("x")))
            for name, value in arrays.items():
                means.setdefault(name, []).extend(column_means(value))
        for name, scaling in (("x", self.scaling), ("c", self.c_scaling)):
            if name in means:
                means[name].extend(scaling_means(scaling))
        values = {f"{VALUES}{name}": column_digest(parts) for name, parts in means.items()}
        return {**self.describe(), MEAN_OF_X: self.mean_of_x(), **values}

    def _own_c(self, split: Split) -> torch.Tensor | None:
        """The covariates of a split that came with the data, also those of sparse rows."""
        if self.sparse is None or self.sparse.covariates is None:
            return split.c
        return self.sparse.covariates[split.x[:, 0].long()]

    def _dense_or_totals(self, x: torch.Tensor) -> torch.Tensor:
        """x of a split; of sparse data the totals of its rows."""
        return x if self.sparse is None else self.sparse.totals(x)

    def mean_of_x(self) -> str:
        """The mean of the training x to six digits, with the shift of a standardization.

        It tells other data of the same name and shape apart.
        """
        x = self._dense_or_totals(self.train.x)
        mean = (x.nanmean if self.missing else x.mean)(dtype=torch.float64)
        if self.scaling is not None:
            mean = mean + self.scaling[0].double().mean().to(mean)
        return f"{mean:.6g}"


def _balanced_rows(y: torch.Tensor, seed: int) -> list[int]:
    """The labeled rows in a random order in which the classes take turns."""
    generator = torch.Generator().manual_seed(checked_seed(seed))
    classes = torch.randperm(int(y.max()) + 1, generator=generator).tolist()
    order = torch.randperm(len(y), generator=generator).to(y.device)
    rows = [order[y[order] == k].tolist() for k in classes]
    return [r[turn] for turn in range(max(map(len, rows))) for r in rows if turn < len(r)]


def conditioned(split: Split, condition: AnyCondition | None) -> Split:
    """The split after a condition is applied."""
    if condition is None:
        return split
    x, c = condition(split.x, split.y)
    return dataclasses.replace(split, x=x, c=c)


def draw_binary(gray: torch.Tensor, seed: int) -> torch.Tensor:
    """Bernoulli draws of gray values, in their dtype and on their device; of NaN, NaN.

    They are drawn in one precision and on the CPU: equal numbers have equal draws everywhere.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = torch.bernoulli(gray.cpu().float().nan_to_num(), generator=generator)
    return torch.where(gray.isnan(), gray, draw.to(gray))
