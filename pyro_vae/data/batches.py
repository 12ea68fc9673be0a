"""Minibatches: one tensor on the device, shuffled and binarised there; or a user's loader."""

import math
from dataclasses import replace

import torch

from .core import Data, Split, conditioned


class Batches:
    """The training batches of a `Data`, `{"x", "y", "c", "index"}`, from tensors on the device.

    Epoch e's order depends on `(seed, e)` alone, so that training can stop and go on anywhere.
    Dynamic binarisation draws from torch's global stream.
    """

    def __init__(self, data: Data, batch_size, device, seed=0):
        parts = (data.train.x, data.train.y, data.train.c)
        self.train = Split(*(None if v is None else v.to(device) for v in parts))
        self.binarise, self.condition = data.binarise == "dynamic", data.condition
        self.batch_size, self.device, self.seed = batch_size, device, seed

    @property
    def num_data(self):
        return len(self.train)

    def __len__(self):
        return math.ceil(len(self.train) / self.batch_size)

    def epoch(self, epoch, start=0):
        """The batches of an epoch, from batch `start` on."""
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.train), generator=generator, device=self.device)
        for index in order.split(self.batch_size)[start:]:
            rows = self.train[index]
            if self.binarise:
                rows = replace(rows, x=torch.bernoulli(rows.x))
            rows = conditioned(rows, self.condition)
            batch = {"x": rows.x, "y": rows.y, "c": rows.c, "index": index}
            yield {name: value for name, value in batch.items() if value is not None}


class LoaderBatches:
    """The batches of a `DataLoader`, or of any iterable with a length of `x`, `(x, y)` or dicts."""

    def __init__(self, loader, device):
        self.loader, self.device = loader, device
        self.num_data = len(getattr(loader, "dataset", ())) or None

    def __len__(self):
        return len(self.loader)

    def epoch(self, epoch, start=0):
        for i, item in enumerate(self.loader):
            if i < start:
                continue
            if isinstance(item, dict):
                yield {name: value.to(self.device) for name, value in item.items()}
                continue
            x, y = item[:2] if isinstance(item, (tuple, list)) and len(item) > 1 else (item, None)
            x = x[0] if isinstance(x, (tuple, list)) else x
            batch = {"x": x.to(self.device)}
            if y is not None:
                batch["y"] = y.to(self.device)
            yield batch


def batches(data, batch_size, device, seed=0):
    """The training batches of whatever `as_data` returned."""
    if isinstance(data, Data):
        return Batches(data, batch_size, device, seed)
    return LoaderBatches(data, device)
