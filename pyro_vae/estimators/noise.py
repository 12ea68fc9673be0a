"""Monte Carlo noise that does not depend on the other rows of a batch.

An evaluation by Monte Carlo draws noise for all rows of a batch. The answer for a row would then
depend on the rows beside it. Here every row has the same noise: each row has the answer that it has
alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch.distributions import Independent

from ..programs.calling import as_wrapper

Shape = torch.Size | list[int] | tuple[int, ...]


def with_common_noise(
    guide: Callable[..., Any], seed: int
) -> tuple[Callable[..., Any], Callable[[], None]]:
    """The guide, its normal latents drawn with noise that all rows have in common.

    Args:
        guide: a guide whose latents have one batch dimension of rows.
        seed: of the noise. Successive calls continue its stream.

    Returns:
        The guide, and a function that starts the stream anew.
    """
    noise = _CommonNoise(seed)
    return as_wrapper(noise(guide), guide), noise.streams.clear


class _CommonNoise(Messenger):
    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.streams: dict[str, np.random.Generator] = {}

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        base = fn.base_dist if isinstance(fn, Independent) else fn
        if msg["is_observed"] or type(base) is not dist.Normal:
            return
        name = msg["name"]
        if name not in self.streams:
            # a stream per latent: the draws of one do not move those of another
            self.streams[name] = np.random.default_rng([self.seed, len(self.streams)])
        noisy = _CommonNoiseNormal(base.loc, base.scale, validate_args=False)
        noisy.stream, noisy.event_dims = self.streams[name], len(fn.event_shape)
        msg["fn"] = noisy.to_event(len(fn.event_shape))


class _CommonNoiseNormal(dist.Normal):
    """A normal distribution whose draws have the same noise in all rows, the last batch dimension."""

    stream: np.random.Generator
    event_dims: int

    def expand(self, batch_shape: Shape, _instance: Any = None) -> "_CommonNoiseNormal":
        new: _CommonNoiseNormal = super().expand(batch_shape, _instance)
        new.stream, new.event_dims = self.stream, self.event_dims
        return new

    def rsample(self, sample_shape: Shape = ()) -> torch.Tensor:
        shape = list(self._extended_shape(torch.Size(sample_shape)))
        row = len(shape) - 1 - self.event_dims
        if row >= 0:
            shape[row] = 1
        noise = torch.from_numpy(self.stream.standard_normal(shape)).to(self.loc)
        return self.loc + noise * self.scale

    sample = rsample
