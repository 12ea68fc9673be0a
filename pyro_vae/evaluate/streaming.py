"""Means of an evaluation over batches: for data that do not fit in memory."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..data import Data, as_data
from ..data.minibatches import convert_batch, row_slices
from ..data.sparse import SPARSE_ROWS
from ..errors import UserError
from ..programs.calling import first_argument
from ..programs.contexts import seeded
from ..programs.inspection import is_per_datum
from ..programs.interfaces import ModelInterface, interface_of
from ..programs.modules import device_of, dtype_of
from .inputs import PyroProgram, accepts_entry, split_inputs

SINGLE = ""  # the name of the only number of an evaluation


@dataclass(frozen=True)
class MeanEstimate:
    """The mean of a number per data point, and its standard error.

    Args:
        mean: nats per data point, of a bound.
        standard_error: the standard deviation over the data points, divided by the square root of
            their number. NaN of one data point.
        num_data: number of data points.

    Example:
        >>> import pyro_vae as pv
        >>> print(pv.evaluate.MeanEstimate(-9.25, 0.125, 1000))
        -9.25 ± 0.12 (1,000 data points)
    """

    mean: float
    standard_error: float
    num_data: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.standard_error:.2g} ({self.num_data:,} data points)"


class RunningMean:
    """The mean and the variance of values that arrive batch by batch, in float64.

    Attributes:
        count: number of values so far.
        mean: `[...]`, that of values `[N, ...]`; NaN without any.

    References:
        Chan, Golub, LeVeque 1983, Algorithms for computing the sample variance.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.tensor(math.nan, dtype=torch.float64)
        self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, values: torch.Tensor) -> None:
        """Add the values `[B, ...]` of a batch."""
        values = values.detach().double()
        count = len(values)
        mean = values[0] + (values - values[0]).mean(0)  # exact for values that are equal
        squares = (values - mean).square().sum(0).cpu()
        mean = mean.cpu()
        if self.count:
            total, change = self.count + count, mean - self.mean
            squares = squares + self._squares + change**2 * (self.count * count / total)
            mean = self.mean + change * (count / total)
        self.count, self.mean, self._squares = self.count + count, mean, squares

    @property
    def variance(self) -> torch.Tensor:
        """`[...]`, with the divisor N - 1; NaN of fewer than two values."""
        if self.count < 2:
            return torch.full_like(self._squares, math.nan)
        return self._squares / (self.count - 1)

    def estimate(self) -> MeanEstimate:
        """The mean of all numbers so far, values `[N]`."""
        error = math.sqrt(float(self.variance) / self.count) if self.count else math.nan
        return MeanEstimate(float(self.mean), error, self.count)


def mean_over_batches(
    function: Callable[..., torch.Tensor | Mapping[str, torch.Tensor]],
    model: PyroProgram,
    guide: PyroProgram,
    batches: Any,
    seed: int | None = 0,
    observed: Iterable[str] | None = None,
    **options: Any,
) -> Any:
    """The mean of an evaluation over batches of data, with its standard error.

    One batch is in memory at a time.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> guide = pv.guides.Guide(model)
        >>> loader = DataLoader(TensorDataset(torch.ones(25, 6)), batch_size=8)
        >>> estimate = pv.evaluate.mean_over_batches(pv.evaluate.elbo, model, guide, loader)
        >>> estimate.num_data
        25

    Args:
        function: of `(model, guide, x, seed=, **inputs)`, which returns `[B]` or `{name: [B]}`:
            `elbo`, `elbo_terms`, `log_likelihood`.
        model: the generative program.
        guide: the guide of the model.
        batches: a `DataLoader`, or any iterable of batches `x`, `(x, y)` or dicts, as `fit` takes
            them. Entries of a dict that the pair does not take are not used. Arrays are one batch; a
            sparse matrix of counts becomes dense by parts.
        seed: of the random stream that all batches share. None uses torch's.
        observed: names of the arrays that the pair gets. Default: of dicts, all that it takes; else
            the model's `observes`, without labels.
        options: further options of `function`, e.g. `num_samples=`.

    Returns:
        A `MeanEstimate`, or `{name: MeanEstimate}`.

    Raises:
        UserError: no batches; a batch that `fit` would refuse; an error of `function`.
    """
    if is_per_datum(guide):
        raise UserError(
            "a guide with a row per training data point has none for the rows of a loader: call "
            "the evaluation with x and index="
        )
    observes = interface_of(model, ModelInterface).observes
    names = {"x", *(observes if observed is None else observed)}

    def takes(name: str, is_named: bool) -> bool:
        return name in names or (
            is_named and observed is None and accepts_entry(model, guide, name)
        )

    means: dict[str, RunningMean] = {}
    dtype, first = dtype_of(model, guide), first_argument(model)
    with seeded(seed, device_of(model, guide)):
        for number, item in enumerate(_batches_of(model, guide, batches, first), 1):
            try:
                batch: dict[str, Any] = convert_batch(item, dtype, first, takes)
                values = function(model, guide, **batch, seed=None, **options)
            except UserError as e:
                raise UserError(f"batch {number}: {e}") from e
            named = values if isinstance(values, Mapping) else {SINGLE: values}
            for name, value in named.items():
                if tuple(value.shape) != (len(batch["x"]),):
                    raise UserError(
                        f"function must return one number per data point, [{len(batch['x'])}], "
                        f"not {list(value.shape)}"
                    )
                means.setdefault(name, RunningMean()).add(value)
    if not means:
        raise UserError("there are no batches to evaluate")
    estimates = {name: mean.estimate() for name, mean in means.items()}
    return estimates.get(SINGLE, estimates)


def _batches_of(model: PyroProgram, guide: PyroProgram, batches: Any, first: str) -> Iterable[Any]:
    """The batches; of arrays, one."""
    if hasattr(batches, "__iter__") and not hasattr(batches, "__len__"):
        return batches  # a generator
    data = as_data(batches, first)
    if not isinstance(data, Data):
        return data
    if len(data.splits()) > 1:
        raise UserError("pass one split of the data: data.test.x")
    if data.sparse is None:
        return [split_inputs(model, guide, data, "train")]
    return (
        split_inputs(model, guide, data, "train", rows=rows)
        for rows in row_slices(len(data.train), SPARSE_ROWS)
    )
