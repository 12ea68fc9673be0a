"""Minibatches: one tensor on the device, shuffled and binarized there; or a user's loader."""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data.distributed import DistributedSampler

from ..errors import UserError
from .arrays import as_floats, as_named, check_finite
from .conversion import named_first
from .dataset import Data, conditioned

#: `(name, is_named)` to whether an entry of a batch is wanted.
TakesEntry = Callable[[str, bool], bool]


def row_slices(length: int, size: int) -> Iterator[slice]:
    """The slices of at most `size` rows that make up `length` rows."""
    return (slice(start, start + size) for start in range(0, length, size))


class Batches:
    """The training batches of a `Data`, `{"x", "y", "c", "index"}` and others by their names.

    They come from tensors on the device.

    Epoch e's order depends on `(seed, e)` alone, so that training can stop and resume at any batch.
    Dynamic binarization draws from torch's global stream.

    Of several processes, each takes its shard of every batch. One for which nothing is left of a
    short batch repeats a row of it, with `count` 0 in the batch.

    Args:
        data: the data.
        batch_size: data points per batch.
        device: where the batches are.
        seed: of the order.
        shard: `(rank, number of processes)`.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        device: torch.device | str,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.train = data.train.map(lambda value: value.to(device))
        self.binarize, self.condition = data.binarize == "dynamic", data.condition
        self.missing = data.missing
        self.batch_size, self.device, self.seed, self.shard = batch_size, device, seed, shard
        self.names = None  # those of `LoaderBatches`; the names of a `Data` are known
        self.shuffle = True  # False: the rows in their order

    def __len__(self) -> int:
        return math.ceil(len(self.train) / self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Any]]:
        """The batches of an epoch, from batch `start` on."""
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.train), generator=generator, device=self.device)
        order = order if self.shuffle else torch.arange(len(self.train), device=self.device)
        rank, size = self.shard
        for whole in order.split(self.batch_size)[start:]:
            index = whole.tensor_split(size)[rank]
            filler: dict[str, Any] = {} if len(index) else {"count": 0}
            index = index if len(index) else whole[:1]
            rows = self.train[index]
            if self.binarize:
                gray = rows.x
                x = torch.bernoulli(gray.nan_to_num() if self.missing else gray)
                rows = replace(rows, x=torch.where(gray.isnan(), gray, x) if self.missing else x)
            rows = conditioned(rows, self.condition)
            yield {**rows.arrays(), "index": index} | filler


class LoaderBatches:
    """The batches of a `DataLoader`, or of any iterable with a length of `x`, `(x, y)` or dicts.

    Batches hold what data sets hold, in arrays of any kind: uint8 is divided by 255, other numbers
    of x become floats. Entries that `takes` refuses, such as file names, are left out. Each batch is
    checked before it goes to the device, for NaN and by `check`, a function of the batch, if it is
    set. A batch that is on a GPU already is not checked, which avoids a host-device synchronization.

    An epoch is as many batches as the length says. What a loader draws in this process from the
    global streams of torch, numpy and Python (its shuffling, augmentations, and the seeds of its
    workers) depends on `(seed, epoch)` alone, and what it draws from a `generator=` of its own on
    the seed of that and the epoch. A run that stops within an epoch and continues skips the batches
    that it has had.

    Of several processes, each reads all batches and takes one in as many: a step is one batch of
    each process. A `DataLoader` with a `DistributedSampler` gives each process different data; then
    each takes all of its batches.

    Args:
        loader: the batches.
        device: where they go.
        seed: of what the loader draws from global streams.
        shard: `(rank, number of processes)`.
        dtype: of floats. Default: see `data.arrays.as_floats`.
        first: the name of the program's first argument.
        takes: as in `convert_batch`.
        missing: whether NaN in x is a missing value.

    Attributes:
        names: of the arrays in its dicts that are taken, once a batch was read.
        unused: of the other entries.
    """

    def __init__(
        self,
        loader: Any,
        device: torch.device | str,
        seed: int = 0,
        shard: tuple[int, int] = (0, 1),
        dtype: torch.dtype | None = None,
        first: str = "x",
        takes: TakesEntry | None = None,
        missing: bool = False,
    ) -> None:
        self.missing = missing
        self.loader, self.device, self.seed = loader, device, seed
        self.dtype, self.first, self.takes = dtype, first, takes
        self.check: Callable[[dict[str, torch.Tensor]], None] | None = None
        self.names: tuple[str, ...] | None = None
        self.unused: tuple[str, ...] = ()
        self.sampler: Any = getattr(loader, "sampler", None)
        sharded = isinstance(self.sampler, DistributedSampler)
        self.rank, self.size = (0, 1) if sharded else shard
        try:
            self.length = len(loader)
        except TypeError:
            raise UserError(
                f"this {type(loader).__name__} has no length: define __len__, its batches an epoch"
            ) from None
        if not self.length:
            raise UserError("the data are no batches: their length is 0")

    def __len__(self) -> int:
        return math.ceil(self.length / self.size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Any]]:
        """The batches of an epoch, from batch `start` on; a filler has `count` 0."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        items = _drawn_apart(self.loader, self.seed * 1_000_003 + epoch, epoch)
        count, item = 0, None
        for count, latest in enumerate(islice(items, self.length), 1):
            step, turn = divmod(count - 1, self.size)
            item = latest if turn == self.rank or item is None else item
            if step < start:
                continue
            if turn == self.size - 1:
                yield self._batch(item, epoch, count)
        if count < self.length:
            raise UserError(f"the data have a length of {self.length}, but gave {count} batches")
        if turn < self.size - 1 and step >= start:  # too few are left for everyone
            batch = self._batch(item, epoch, count)
            yield batch | ({} if self.rank <= turn else {"count": 0})

    def _batch(self, item: Any, epoch: int, number: int) -> dict[str, Any]:
        try:
            batch = convert_batch(item, self.dtype, self.first, self.takes)
            if isinstance(item, Mapping):
                self.names = tuple(batch)
                entries = named_first(item, self.first)
                self.unused = tuple(str(n) for n in entries if n not in batch)
            if not any(value.is_cuda for value in batch.values()):
                for name, value in batch.items():
                    check_finite(value, name, missing=self.missing and name == "x")
                if self.check is not None:
                    self.check(batch)
        except UserError as e:
            raise UserError(f"batch {number} of epoch {epoch + 1}: {e}") from e
        return {name: value.to(self.device) for name, value in batch.items()}


def convert_batch(
    item: Any,
    dtype: torch.dtype | None = None,
    first: str = "x",
    takes: TakesEntry | None = None,
) -> dict[str, torch.Tensor]:
    """What a loader yields as tensors by name, `{"x": [B, ...], ...}`, on its device.

    Args:
        item: `x`, `(x, y)`, a longer tuple, or a dict, of arrays.
        dtype: of floats. Default: see `data.arrays.as_floats`.
        first: the name of the program's first argument, which takes the x of a dict without "x".
        takes: `(name, is_named)` to whether an entry is wanted; `is_named` if it is one of a dict.
            Default: all are.

    Raises:
        UserError: no x, an empty batch, an entry that is no array, or has other rows than x.
    """
    is_named = isinstance(item, Mapping)
    if is_named:
        item = named_first(item, first)
        if "x" not in item:
            raise UserError(f"a dict of arrays needs 'x', the data themselves; it has {[*item]}")
    else:
        x, y = item[:2] if isinstance(item, (tuple, list)) and len(item) > 1 else (item, None)
        item = {"x": x[0] if isinstance(x, (tuple, list)) else x, "y": y}
    batch: dict[str, torch.Tensor] = {}
    for name, value in item.items():
        if value is None or (name != "x" and takes is not None and not takes(name, is_named)):
            continue
        convert = as_floats if name in ("x", "c") else as_named
        batch[name] = convert(value, name, dtype)
    if "x" not in batch:
        raise UserError("x is None")
    for name, array in batch.items():
        if array.dim() == 0 or len(array) != len(batch["x"]):
            shapes = f"{list(array.shape)}, x {list(batch['x'].shape)}"
            raise UserError(
                f"{name} has shape {shapes}: a batch has one row per data point in each array"
            )
    if not len(batch["x"]):
        raise UserError("it is empty")
    return batch


def _drawn_apart(loader: Iterable[Any], seed: int, epoch: int) -> Iterator[Any]:
    """The items of a loader, drawn with separate random streams; between two items they are the caller's.

    The streams of numpy and Python take longer to set than a small batch to make. A loader whose first
    item does not draw from them is taken not to do so in this epoch.

    Args:
        seed: of the global streams.
        epoch: with the seed of a generator of the loader's own, the seed of what that draws.
    """
    items: Iterator[Any] | None = None
    generators = [torch.default_generator, *_own_generators(loader)]
    seeds = [seed, *((g.initial_seed() * 1_000_003 + epoch) % 2**63 for g in generators[1:])]
    within = [torch.Generator().manual_seed(s).get_state() for s in seeds]
    others: _States | None = (
        np.random.RandomState(seed % 2**32).get_state(),
        random.Random(seed).getstate(),
    )
    while True:
        outside = [g.get_state() for g in generators]
        others_outside = None if others is None else _states()
        try:
            _set_generators(generators, within)
            _set_states(others)
            is_first = items is None
            items = iter(loader) if items is None else items
            item = next(items)
            within = [g.get_state() for g in generators]
            if others is not None:
                before, others = others, _states()
                others = None if is_first and _are_equal(before, others) else others
        except StopIteration:
            return
        finally:
            _set_generators(generators, outside)
            _set_states(others_outside)
        yield item


def _set_generators(generators: Iterable[torch.Generator], states: Iterable[torch.Tensor]) -> None:
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)


_States = tuple[Any, Any]  # of the global streams of numpy and Python


def _states() -> _States:
    return np.random.get_state(), random.getstate()


def _set_states(states: _States | None) -> None:
    if states is not None:
        np.random.set_state(states[0])
        random.setstate(states[1])


def _are_equal(a: _States, b: _States) -> bool:
    """Whether nothing was drawn from one state to the other."""
    numpys = all(np.array_equal(one, other) for one, other in zip(a[0], b[0], strict=True))
    return numpys and a[1] == b[1]


def _own_generators(loader: Any) -> list[torch.Generator]:
    """The generators that a `DataLoader` and its samplers have been given."""
    sampler, batch_sampler = (getattr(loader, n, None) for n in ("sampler", "batch_sampler"))
    holders = (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    found = (getattr(holder, "generator", None) for holder in holders)
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def batches(
    data: Any,
    batch_size: int,
    device: torch.device | str,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    dtype: torch.dtype | None = None,
    first: str = "x",
    takes: TakesEntry | None = None,
    missing: bool = False,
) -> Batches | LoaderBatches:
    """The training batches of `Data`, or of a stream of batches.

    Example:
        >>> import torch, pyro_vae as pv
        >>> data = pv.data.from_arrays(torch.zeros(10, 3), valid=0, test=0)
        >>> [len(batch["x"]) for batch in pv.data.batches(data, 4, "cpu").epoch(0)]
        [4, 4, 2]

    Args:
        data: what `as_data` returned.
        batch_size: data points per batch; a stream has its own.
        device: where the batches are.
        seed: of the order.
        shard: `(rank, number of processes)`: which part of the batches this process takes.
        dtype: of a stream's floats.
        first: the name of the program's first argument.
        takes: which entries of a stream's batches are wanted; see `convert_batch`. Default: all.
        missing: whether NaN in a stream's x is a missing value.
    """
    if isinstance(data, Data):
        return Batches(data, batch_size, device, seed, shard)
    return LoaderBatches(data, device, seed, shard, dtype, first, takes, missing)
