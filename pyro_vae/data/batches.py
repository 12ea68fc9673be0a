"""Minibatches: one tensor on the device, shuffled and binarised there; or a user's loader."""

import math

import torch

from .core import Data


class Batches:
    """The training batches of a `Data`, `{"x", "y", "index"}`, from tensors on the device.

    Epoch e's order depends on `(seed, e)` alone, so that training can stop and go on anywhere.
    Dynamic binarisation draws from torch's global stream.
    """

    def __init__(self, data: Data, batch_size, device, seed=0):
        self.x = data.train.x.to(device)
        self.y = None if data.train.y is None else data.train.y.to(device)
        self.binarise = data.binarise == "dynamic"
        self.batch_size, self.device, self.seed = batch_size, device, seed

    @property
    def num_data(self):
        return len(self.x)

    def __len__(self):
        return math.ceil(len(self.x) / self.batch_size)

    def epoch(self, epoch, start=0):
        """The batches of an epoch, from batch `start` on."""
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.x), generator=generator, device=self.device)
        for index in order.split(self.batch_size)[start:]:
            x = self.x[index]
            if self.binarise:
                x = torch.bernoulli(x)
            batch = {"x": x, "index": index}
            if self.y is not None:
                batch["y"] = self.y[index]
            yield batch


class LoaderBatches:
    """The batches of a `DataLoader`, or of any iterable of `x` or `(x, y)` with a length."""

    def __init__(self, loader, device):
        self.loader, self.device = loader, device
        self.num_data = len(getattr(loader, "dataset", ())) or None

    def __len__(self):
        return len(self.loader)

    def epoch(self, epoch, start=0):
        for i, item in enumerate(self.loader):
            if i < start:
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
