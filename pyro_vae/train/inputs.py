"""What a pair and its objective are given of the data: training batches, and the validation split."""

import dataclasses

import torch

from ..data import Data, batches
from ..errors import UserError
from ..evaluate.check import check_support
from ..pair import eval_mode, modules, one_hot_labels, untouched
from ..traces import run
from . import distributed

DTYPES = (torch.float32, torch.float64)


class Inputs:
    """The data as a pair takes them, in the pair's floating-point type and on its device.

    Args:
        data: what `as_data` returned.
        observe: names of the data that the pair is given; None: what the model says.
    """

    def __init__(self, model, guide, data, objective, observe, batch_size, device, seed):
        self.model, self.guide, self.device = model, guide, device
        self.needs = tuple(getattr(objective, "needs", ()))
        observe = (observe,) if isinstance(observe, str) else observe
        self.observe = tuple(observe or getattr(model, "observes", ("x",)))
        self.dtype = _dtype(model, guide)
        self.data = data = _in_dtype(data, self.dtype)
        part = distributed.rank(), distributed.size()
        self.batches = batches(data, batch_size, device, seed, part)
        self.labels_checked = self._check_labels()  # else every step would wait for a GPU to tell

    def __len__(self):
        """Steps in an epoch."""
        return len(self.batches)

    def epoch(self, epoch, start=0):
        """`(batch, count)` from batch `start` on; `count` is the size of this process's part."""
        for batch in self.batches.epoch(epoch, start=start):
            yield self.for_objective(batch), batch.get("count", len(batch["x"]))

    def first(self):
        """`(for the objective, for the pair)`: the first batch; the random stream is left alone."""
        with untouched(self.device):
            batch = next(iter(self.batches.epoch(0)))
            return self.for_objective(batch), self.for_pair(batch)

    def for_pair(self, batch, check=False):
        """Of a batch, what the pair is given; its labels checked if asked, or not checked before."""
        missing = [n for n in self.observe if batch.get(n) is None]
        if missing:
            raise UserError(f"the pair observes {missing[0]!r}, which the data do not have")
        given = {n: self._cast(v) for n, v in batch.items() if n in (*self.observe, "index")}
        return one_hot_labels(self.model, given, check or not self.labels_checked)

    def for_objective(self, batch):
        """Of a batch, what the objective is given: the pair's data, and what it needs itself."""
        for name in self.needs:
            if batch.get(name) is None:
                raise UserError(f"the objective needs {name!r}, which the data do not have")
            if name in self.observe:
                raise UserError(f"the objective takes {name!r}: observe= cannot name it too")
        return {**self.for_pair(batch), **{name: batch[name] for name in self.needs}}

    def valid(self):
        """The validation split, as the pair is given it."""
        split = self.data.observed("valid")
        return self.for_pair({"x": split.x, "y": split.y, "c": split.c}, check=True)

    def check_all(self, first):
        """Every training datum, not only the first batch, lies in its likelihood's support."""
        if not isinstance(self.data, Data):
            return
        with torch.no_grad(), eval_mode(self.model, self.guide), untouched(self.device):
            traces = run(self.model, self.guide, {k: v[:1] for k, v in first.items()})
        site = traces.model.get("x")
        if site is not None and site["is_observed"]:
            check_support(site, "x", self.data.observed("train").x)

    def describe(self):
        """The data as a checkpoint records them: a run resumes on the same."""
        if not isinstance(self.data, Data):
            return {"name": "stream", "batches": len(self.batches)}
        mean = self.data.train.x.mean(dtype=torch.float64)
        return {**self.data.describe(), "mean of x": f"{mean:.6g}"}

    def _check_labels(self):
        """All training labels, once; a stream's are checked batch by batch. True if it is done."""
        observed = "y" in self.observe and "y" not in self.needs
        if not isinstance(self.data, Data) or self.data.train.y is None or not observed:
            return False
        one_hot_labels(self.model, {"y": self.data.train.y})
        return True

    def _cast(self, value):
        return value.to(self.dtype) if self.dtype and value.is_floating_point() else value


def _dtype(model, guide):
    """The floating-point type of a pair's parameters; None where it has several, or none."""
    found = {p.dtype for m in modules(model, guide) for p in m.parameters()}
    for dtype in found:
        if dtype not in DTYPES:
            raise UserError(
                f"the pair has {dtype} parameters: train it in torch.float32 (model.float()); "
                "precision='bf16' computes its networks in bfloat16"
            )
    return found.pop() if len(found) == 1 else None


def _in_dtype(data, dtype):
    """The same `Data`, its floats of another type; what is not `Data` is cast batch by batch."""
    if dtype is None or not isinstance(data, Data):
        return data

    def cast(split):
        values = {n: v for n in ("x", "c") if (v := getattr(split, n, None)) is not None}
        floats = {n: v.to(dtype) for n, v in values.items() if v.is_floating_point()}
        return dataclasses.replace(split, **floats) if floats else split

    splits = {n: cast(getattr(data, n)) for n in ("train", "valid", "test")}
    return dataclasses.replace(data, **splits)
