"""One value for a distribution, its center, in place of draws; draws whose noise all rows share."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch.distributions import TransformedDistribution

from .._torch_internals import TorchDispatchMode, written_arguments
from .contexts import fork_rng
from .sites import Site, base_distribution, is_subsample, mean_of

NUM_DRAWS = 32  # for the mean of a distribution that has it in no closed form
# of common noise: a number that nobody chooses. Of a seed, torch's generator on the CPU takes 32 bits.
FIRST_SEED = 0x9E3779B9
SEED_STEP = 0x85EBCA6B  # odd: every seed below 2**32 has noise of its own


def center_of(fn: Any) -> torch.Tensor:
    """The mean of a distribution.

    Where the mean does not exist or is infinite (Cauchy, Student's t with at most one degree of
    freedom), it is the median; of a distribution without quantiles in closed form the mode, and
    without a mode the median of 32 draws. Where no mean is known in closed form (a flow), it is the
    mean of 32 draws. All rows have the same noise in these draws, and so do all calls: the center
    of a row does not depend on the rows beside it.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from pyro_vae.programs.centers import center_of
        >>> center_of(dist.HalfCauchy(torch.tensor([1.0, 2.0])))
        tensor([1., 2.])
    """
    try:
        mean = fn.mean
    except NotImplementedError:
        mean = common_draws(fn, NUM_DRAWS, spread=True).mean(0)
    return _where_finite(mean, fn)


def mean_or_median(name: str, fn: Any) -> torch.Tensor:
    """The mean of a site's distribution; its median, as in `center_of`, where that is not finite.

    Raises:
        UserError: a distribution without a mean: see `mean_of`.
    """
    return _where_finite(mean_of(name, fn), fn)


def _where_finite(mean: torch.Tensor, fn: Any) -> torch.Tensor:
    if mean.isfinite().all():
        return mean
    value = torch.where(mean.isfinite(), mean, _median(fn).to(mean))
    if value.isfinite().all():
        return value
    return torch.where(value.isfinite(), value, common_draws(fn, NUM_DRAWS).median(0).values)


def _median(fn: Any) -> torch.Tensor:
    base = base_distribution(fn, transforms=False)
    shape = fn.batch_shape + fn.event_shape
    if isinstance(base, dist.MultivariateStudentT):
        return base.loc.expand(shape)
    try:
        if not isinstance(base, TransformedDistribution) or not base.event_shape:
            return base.icdf(torch.tensor(0.5)).expand(shape)
    except NotImplementedError:
        pass
    try:
        return base.mode.expand(shape)
    except NotImplementedError:
        return common_draws(fn, NUM_DRAWS).median(0).values


def common_draws(
    fn: Any,
    num_draws: int | None = None,
    seed: int = FIRST_SEED,
    num_rows: int | None = None,
    spread: bool = False,
) -> torch.Tensor:
    """Draws of a distribution with the same noise in all rows, the last batch dimension.

    Args:
        fn: a Pyro distribution.
        num_draws: their number. Default: one draw, without a dimension for it.
        seed: of the noise, which does not depend on torch's random stream.
        num_rows: B, if the last batch dimension has several blocks of B rows: each block has noise
            of its own. Default: one block.
        spread: whether the draws, else the particles (to the left of the rows, or blocks of them), share
            the quantiles of normal and uniform noise evenly (a Latin hypercube): their mean has a much
            smaller error.
    """
    sample_shape = torch.Size([] if num_draws is None else [num_draws])
    try:
        with (
            fork_rng(),
            _CommonRandomness(seed, len(sample_shape), fn.batch_shape, num_rows, spread),
        ):
            return fn(sample_shape)
    except Exception:  # a user's distribution that draws in another way: each row has its own noise
        return fn(sample_shape)


class CommonNoise(Messenger):
    """Latents are drawn with noise that all rows of the data plate have in common.

    Args:
        num_rows: B. Particles that are rows of the plate, too, have noise of their own.
        seed: of the noise, which does not depend on torch's random stream.
        spread: as in `common_draws`, over the particles.
    """

    def __init__(self, num_rows: int, seed: int = 0, spread: bool = False) -> None:
        super().__init__()
        self.spread = spread
        self.num_rows, self.seed = num_rows, (FIRST_SEED + seed * SEED_STEP) % 2**32

    def _pyro_sample(self, msg: Site) -> None:
        if msg["done"] or msg["is_observed"] or is_subsample(msg):
            return
        if msg["infer"].get("enumerate"):  # summed out: nothing is drawn
            return
        shape = msg["fn"].batch_shape
        num_rows = self.num_rows if shape and shape[-1] % self.num_rows == 0 else None
        msg["value"] = common_draws(msg["fn"], None, self.seed, num_rows, self.spread)
        msg["done"] = True
        self.seed += 2**20  # more than the random operations of one draw


class _CommonRandomness(TorchDispatchMode):
    """Every random operation gives all rows the same noise, in blocks of `num_rows`.

    Each operation has its own seed: how many numbers it takes does not move the next one.

    Args:
        seed: of the first operation.
        sample_dims: the number of dimensions to the left of the batch's.
        batch_shape: of the distribution; its last dimension has the rows.
        num_rows: default: all of them.
        spread: as in `common_draws`.
    """

    def __init__(
        self,
        seed: int,
        sample_dims: int,
        batch_shape: torch.Size,
        num_rows: int | None,
        spread: bool,
    ) -> None:
        super().__init__()
        self.seed = seed
        self.dim = max(sample_dims + len(batch_shape) - 1, 0)  # of the rows, from the left
        self.size = batch_shape[-1] if batch_shape else 1
        self.left = math.prod(batch_shape[:-1])
        self.num_rows = num_rows or self.size
        self.axis: int | None = None  # along which the quantiles are shared evenly
        if spread:
            has_blocks = self.num_rows != self.size
            self.axis = 0 if sample_dims else self.dim if has_blocks else self.dim - 1
        # the middles of the quantiles are for one mean: a draw has the right distribution
        self.is_middle = bool(sample_dims)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        operation, aten = func.overloadpacket, torch.ops.aten
        self.seed += 1
        torch.default_generator.manual_seed(self.seed)
        if operation is aten.normal and len(args) > 1:
            mean, std = torch.broadcast_tensors(*map(torch.as_tensor, args[:2]))
            return mean + std * self._noise(self._draw_of(torch.randn), mean)
        if operation in (aten.rand, aten.randn):
            draw = torch.rand if operation is aten.rand else torch.randn
            return self._noise(self._draw_of(draw), torch.empty(args[0], **kwargs))
        standard = {aten.normal_: torch.randn, aten.uniform_: torch.rand}.get(operation)
        if standard is not None and len(args) == 1 and not any(kwargs.values()):
            return args[0].copy_(self._noise(self._draw_of(standard), args[0]))
        if written_arguments(func, args, kwargs):  # it fills its first argument

            def fill(shape: list[int], dtype: torch.dtype) -> Any:
                return func(torch.empty(shape, dtype=dtype), *args[1:], **kwargs)

            return args[0].copy_(self._noise(fill, args[0]))
        return self._by_row(func, args, kwargs)

    def _draw_of(self, draw: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """`torch.randn` or `torch.rand`; where noise is spread, its quantiles are, along the axis."""
        axis = self.axis

        def drawn(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
            noise = draw(shape, dtype=dtype)
            if axis is None or axis < 0 or axis >= len(shape) or shape[axis] == 1:
                return noise
            ranks = noise.argsort(axis).argsort(axis)
            within = 0.5 if self.is_middle else torch.rand(shape, dtype=torch.float64)
            quantiles = ((ranks + within) / shape[axis]).double().clamp(1e-12, 1 - 1e-12)
            spread = torch.special.ndtri(quantiles) if draw is torch.randn else quantiles
            return spread.to(dtype)

        return drawn

    def _noise(self, draw: Callable[..., torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """Noise of the shape of `like`, the same in all rows; drawn on the CPU."""
        shape = list(like.shape)
        has_rows = len(shape) > self.dim and shape[self.dim] == self.size
        if has_rows:
            shape[self.dim] = self.size // self.num_rows
        noise = draw(shape, dtype=like.dtype).to(like.device)
        if has_rows and self.num_rows != self.size:
            return noise.repeat_interleave(self.num_rows, self.dim)
        return noise.expand(like.shape).clone()

    def _by_row(self, func: Any, args: Any, kwargs: Any) -> torch.Tensor:
        """An operation whose noise depends on its arguments: row by row, each with the same seed."""
        device = next(a.device for a in args if torch.is_tensor(a))
        args = [a.cpu() if torch.is_tensor(a) else a for a in args]
        if func.overloadpacket is torch.ops.aten.multinomial:  # of probabilities [batch * event, K]
            blocks = args[0].unflatten(0, (self.left, self.size, -1))
            rows = [
                func(blocks[:, row].flatten(0, 1), *args[1:], **kwargs).unflatten(
                    0, (self.left, -1)
                )
                for row in self._seeded_rows()
            ]
            return torch.stack(rows, 1).flatten(0, 2).to(device)
        has_rows = [
            torch.is_tensor(a) and a.dim() > self.dim and a.shape[self.dim] == self.size
            for a in args
        ]
        if not any(has_rows):
            return func(*args, **kwargs).to(device)
        rows = [
            func(
                *(a.select(self.dim, row) if h else a for a, h in zip(args, has_rows, strict=True)),
                **kwargs,
            )
            for row in self._seeded_rows()
        ]
        return torch.stack(rows, self.dim).to(device)

    def _seeded_rows(self) -> Iterator[int]:
        """The number of each row, when torch's stream is at the start of its noise."""
        for row in range(self.size):
            self.seed += row % self.num_rows == 0
            torch.default_generator.manual_seed(self.seed)
            yield row
