"""The inputs of a pair and its objective: training batches, and the validation split."""

import dataclasses
import functools
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch.utils.data.distributed import DistributedSampler

from ..data import Data, as_data, batches
from ..data.minibatches import Batches, LoaderBatches, row_slices
from ..errors import UserError
from ..evaluate.inputs import (
    accepts_entry,
    check_missing,
    check_shapes,
    check_unused,
    select_inputs,
    split_inputs,
)
from ..evaluate.support import Support
from ..programs import layout_of
from ..programs.calling import accepts_argument, first_argument
from ..programs.contexts import fork_rng
from ..programs.inspection import ignores_missing, one_hot_labels, takes_index
from ..programs.interfaces import ModelInterface, interface_of
from ..programs.modules import find_modules
from . import distributed
from .schema import schema_of

DTYPES = (torch.float32, torch.float64)
ROWS_PER_CHECK = 10_000  # rows whose support is checked at once
VALUES_PER_CHECK = 2**24  # of a sparse matrix that are dense for it


class Inputs:
    """The data as a pair takes them, in the pair's floating-point type and on its device.

    Args:
        model, guide: the pair.
        data: what `as_data` returned.
        objective: which arrays it needs too.
        observed: names of the arrays that the pair gets. Default: the model's.
        batch_size: data points per batch, of all processes together.
        device: where the batches are.
        seed: of their order.
        valid: a stream of validation batches. Default: the validation split of `data`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        data: Any,
        objective: Any,
        observed: Sequence[str] | str | None,
        batch_size: int,
        device: torch.device,
        seed: int,
        valid: Any = None,
    ) -> None:
        self.model, self.guide, self.device = model, guide, device
        self.needs = objective.needs
        self.takes_index = takes_index(model, guide)
        observed = (observed,) if isinstance(observed, str) else observed
        self.named = not observed  # names of a stream's dicts are seen with its first batch
        observes = interface_of(model, ModelInterface).observes
        self.observed = tuple(observed or observes)
        self.dtype, self.batch_size = _dtype(model, guide), batch_size
        if isinstance(data, Data):
            check_missing(model, data)
            data = data if self.dtype is None else data.cast(self.dtype)
            self.observed = data.observed_names(observes, observed)
        self.data = data
        shard, first = (distributed.rank(), distributed.size()), first_argument(model)
        self.batches = batches(
            data, batch_size, device, seed, shard, self.dtype, first, self._takes,
            ignores_missing(model),
        )  # fmt: skip
        self.valid_stream: LoaderBatches | None = None
        if valid is not None:
            self.valid_stream = LoaderBatches(
                valid, device, seed, dtype=self.dtype, first=first, takes=self._takes,
                missing=ignores_missing(model),
            )  # fmt: skip
        self.all_rows = False  # whether the pair has a row for each data point, and no index
        self.labels_checked = self._check_labels()  # else every step would synchronize

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[dict[str, torch.Tensor], int]]:
        """`(batch, count)` from batch `start` on; `count` is the size of this process's part."""
        for batch in self.batches.epoch(epoch, start=start):
            yield self.for_objective(batch), batch.get("count", len(batch["x"]))

    def first(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """`(for the objective, for the pair)`: the first batch; the random stream is left alone."""
        with fork_rng(self.device):
            batch = next(iter(self.batches.epoch(0)))
        names = self.batches.names
        if names is not None and self.named:
            self.observed = tuple(name for name in names if name not in self.needs)
        if isinstance(self.batches, LoaderBatches) and self.batches.unused:
            check_unused(self.model, self.guide, self.batches.unused, batch)
            warnings.warn(
                f"the batches have {', '.join(map(repr, self.batches.unused))}, which neither model "
                "nor guide takes: not used",
                stacklevel=2,
            )
        return self.for_objective(batch), self.for_pair(batch)

    def _takes(self, name: str, is_named: bool) -> bool:
        """Whether an entry of a stream's batch is used; `is_named` if it is one of a dict."""
        if name in self.observed or name in self.needs:
            return True
        return is_named and self.named and accepts_entry(self.model, self.guide, name)

    def for_pair(
        self, batch: Mapping[str, torch.Tensor], check: bool = False
    ) -> dict[str, torch.Tensor]:
        """The pair's inputs in a batch; labels are checked if asked, or if they were not before."""
        inputs = {n: self._cast(v) for n, v in select_inputs(batch, self.observed).items()}
        if not self.takes_index:
            inputs.pop("index", None)
        return one_hot_labels(self.model, inputs, check or not self.labels_checked)

    def for_objective(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The objective's inputs in a batch: the pair's, and the arrays that it needs itself."""
        for name in self.needs:
            if batch.get(name) is None:
                raise UserError(f"the objective needs {name!r}, which the data do not have")
            if name in self.observed:
                raise UserError(f"the objective takes {name!r}: observed= cannot name it too")
        return {**self.for_pair(batch), **{name: batch[name] for name in self.needs}}

    @property
    def has_valid(self) -> bool:
        """Whether there are validation data."""
        in_data = isinstance(self.data, Data) and self.data.valid is not None
        return in_data or self.valid_stream is not None

    def valid(self) -> Iterator[dict[str, torch.Tensor]]:
        """The pair's inputs in the validation data: the whole split, or batch by batch."""
        if self.valid_stream is None:
            yield self.for_pair(self._split("valid"), check=True)
            return
        for batch in self.valid_stream.epoch(0):
            yield self.for_pair(batch, check=True)

    def _split(self, split: str) -> dict[str, torch.Tensor]:
        return split_inputs(self.model, self.guide, self.data, split, self.observed)

    def check_all(self, first: dict[str, torch.Tensor]) -> None:
        """Check every training data point, not only the first batch.

        Each lies in its likelihood's support; of a stream, batch by batch. A pair with a row for
        each data point meets all of them at once, in their order.
        """
        self._keep_order(first)
        observes = layout_of(self.model, self.guide, first).observes
        if observes:
            warnings.warn(
                f"the guide observes {', '.join(map(repr, observes))}: that is no draw, and no part of "
                "the objective; train it by a separate loss",
                stacklevel=2,
            )
        support = Support(self.model, self.guide, first)
        if isinstance(self.data, Data):
            for part in self._train_parts(support.divisible):
                inputs = split_inputs(self.model, self.guide, part, "train", self.observed)
                support.check(self.for_pair(inputs, check=True))
        else:
            stream = self.batches
            assert isinstance(stream, LoaderBatches)
            stream.check = partial(self._check_batch, support)

    def _check_batch(self, support: Support, batch: dict[str, torch.Tensor]) -> None:
        inputs = self.for_pair(batch, check=True)
        check_shapes(self.model, inputs)
        support.check(inputs)

    def _train_parts(self, divisible: bool) -> Iterator[Data]:
        """The training data, in parts if a condition makes x: not all x exist at once."""
        assert isinstance(self.data, Data)
        if self.data.condition is None or not divisible:
            yield self.data
            return
        size = ROWS_PER_CHECK
        if self.data.sparse is not None:
            size = max(1, min(size, VALUES_PER_CHECK // math.prod(self.data.x_shape)))
        for rows in row_slices(len(self.data.train), size):
            yield dataclasses.replace(self.data, train=self.data.train[rows])

    def _keep_order(self, first: dict[str, torch.Tensor]) -> None:
        """Refuse minibatches of a pair with a row for each data point; else keep the rows in order."""
        fixed = layout_of(self.model, self.guide, first).fixed
        if not fixed or any(accepts_argument(p, "index") for p in (self.model, self.guide)):
            return
        size = len(self.data.train) if isinstance(self.data, Data) else None
        if size is None or self.batch_size < size:
            name = type(self.guide).__name__
            hint = "give it an argument index"
            if isinstance(self.guide, AutoGuide):
                hint = f"pv.guides.PerDatumAutoGuide({name}, model, num_data=N) has them by index"
            count = "N" if size is None else size
            raise UserError(
                "the pair has a row for each of all data, and minibatches would not meet theirs: "
                f"batch_size={count}, or {hint}"
            )
        assert isinstance(self.batches, Batches)
        self.all_rows, self.batches.shuffle = True, False

    def describe(self) -> dict[str, Any]:
        """The data as a checkpoint records them: a run resumes on the same."""
        if not isinstance(self.data, Data):
            return {"name": "stream", "batches": len(self.batches)}
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> dict[str, Any]:
        """That of the data, which every checkpoint records."""
        assert isinstance(self.data, Data)
        return self.data.fingerprint()

    @functools.cached_property
    def schema(self) -> str:
        """How new data are read as these were, as JSON; null of a stream."""
        return json.dumps(schema_of(self.data) if isinstance(self.data, Data) else None)

    def _check_labels(self) -> bool:
        """Check all training labels once; returns whether that is possible (not of a stream)."""
        observed = "y" in self.observed and "y" not in self.needs
        if not isinstance(self.data, Data) or self.data.train.y is None or not observed:
            return False
        one_hot_labels(self.model, {"y": self.data.train.y})
        return True

    def _cast(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self.dtype) if self.dtype and value.is_floating_point() else value


def with_validation(data: Any, valid: Any, first: str) -> tuple[Any, Any]:
    """`(data, stream)`: validation arrays as the validation split of `data`, or a stream of batches.

    Args:
        data: what `as_data` returned.
        valid: what `fit` takes as `valid`; None without.
        first: the name of the program's first argument.

    Raises:
        UserError: the data have a validation split already, or `valid` cannot be used.
    """
    if valid is None:
        return data, None
    if isinstance(data, Data) and data.valid is not None:
        raise UserError("the data have a validation split already: leave valid= out")
    valid = as_data(valid, first)
    if not isinstance(valid, Data):
        if isinstance(getattr(valid, "sampler", None), DistributedSampler):
            raise UserError(
                "one process validates on all of valid=: pass a loader without DistributedSampler"
            )
        return data, valid
    if len(valid.splits()) > 1:
        raise UserError("valid takes arrays or a loader: of Data pass one split, its .valid.x")
    if not isinstance(data, Data):
        return data, [valid.train.arrays()]
    if valid.train.x.shape[1:] != data.train.x.shape[1:]:  # a program may broadcast it
        raise UserError(
            f"the validation data have shape {list(valid.train.x.shape)}, and the training data "
            f"{list(data.train.x.shape)}"
        )
    return dataclasses.replace(data, valid=valid.train), None


def _dtype(model: Callable[..., Any], guide: Callable[..., Any]) -> torch.dtype | None:
    """The floating-point type of a pair's parameters; None where it has several, or none."""
    dtypes = {p.dtype for m in find_modules(model, guide) for p in m.parameters()}
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise UserError(
                f"the pair has {dtype} parameters: train it in torch.float32 (model.float()); "
                "precision='bf16' computes its networks in bfloat16"
            )
    return dtypes.pop() if len(dtypes) == 1 else None
