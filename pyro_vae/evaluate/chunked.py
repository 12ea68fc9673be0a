"""Evaluation of a pair chunk by chunk: eval mode, no gradients, its own seed, bounded memory."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from .._torch_internals import num_components
from ..data.minibatches import row_slices
from ..guides import PriorGuide
from ..programs import few_rows, layout_of, trace_pair
from ..programs.contexts import eval_mode, seeded
from ..programs.modules import device_of
from ..programs.sites import base_distribution
from ..programs.traces import Traces
from .inputs import Batch, PyroProgram

# Bytes that the largest tensors of one chunk may take together. On a CPU, memory that was freed is used
# again if a tensor is much smaller than 32 MiB; a GPU is busy with larger ones only.
MEMORY_BUDGET = 64 * 2**20
GPU_FACTOR = 4
ALL_ROWS = 2**60  # rows per chunk for a pair whose batch cannot be divided


@contextmanager
def evaluation_mode(
    *programs: PyroProgram | None, seed: int | None, device: torch.device | str
) -> Iterator[None]:
    """Eval mode, no gradients, and a separate random stream.

    On exit, also after an exception, every module is in the mode in which it was, and the random
    stream of the caller is where it was.

    Args:
        seed: of the separate stream. None uses the caller's stream.
    """
    with torch.no_grad(), eval_mode(*programs), seeded(seed, device):
        yield


def evaluate_in_chunks(
    function: Callable[[Batch, int], Mapping[str, torch.Tensor]],
    model: PyroProgram,
    guide: PyroProgram | None,
    batch: Batch,
    *,
    seed: int | None,
    num_particles: int = 1,
    rows: Batch | None = None,
    chunk_size: int | None = None,
    dim: int = 0,
) -> dict[str, torch.Tensor]:
    """Apply a function to the rows of a batch in chunks, and concatenate what it returns.

    It runs in `evaluation_mode`, on the device of the pair. A chunk has as many rows as fit in
    `MEMORY_BUDGET`. A pair that cannot be run on some of its rows has one chunk.

    Args:
        function: maps a chunk `{name: [B, ...]}` and a capacity to named tensors that have the B
            rows along `dim`. The capacity is the number of particles per row that fit in memory
            at once. It may be 0, and is 1 with `chunk_size`.
        guide: the guide of the model. None: the prior.
        batch: `{name: [N, ...]}`, the inputs of the pair.
        num_particles: how many particles per row `function` runs at once.
        rows: arrays to divide into chunks. Default: `batch`.
        chunk_size: the number of rows per chunk. Default: as many as fit in memory.
        dim: the dimension of the rows in the results.

    Returns:
        `{name: tensor}`, on the device of `batch["x"]`.
    """
    rows = batch if rows is None else rows
    device = device_of(model, guide, default=batch["x"].device)
    parts: list[Mapping[str, torch.Tensor]] = []
    with evaluation_mode(model, guide, seed=seed, device=device):
        if chunk_size is None:
            total = rows_per_chunk(model, guide, batch, device)
            chunk_size = max(1, total // num_particles)
        else:
            total = 0
        for chunk in split_rows(rows, min(len(rows["x"]), chunk_size), device):
            parts.append(function(chunk, total // len(chunk["x"]) if total else 1))
        # a value may be a parameter itself, as in a guide of constants
        joined = {n: torch.cat([p[n].detach() for p in parts], dim) for n in parts[0]}
    return {name: value.to(batch["x"].device) for name, value in joined.items()}


def split_rows(batch: Batch, size: int, device: torch.device | str) -> Iterator[Batch]:
    """The batch in slices of `size` rows, on `device`."""
    for rows in row_slices(len(batch["x"]), size):
        yield {name: value[rows].to(device) for name, value in batch.items()}


def rows_per_chunk(
    model: PyroProgram,
    guide: PyroProgram | None,
    batch: Batch,
    device: torch.device | str,
) -> int:
    """How many rows, of one particle and one data point each, fit in `MEMORY_BUDGET`.

    The estimate is made from the sizes of one run on two data points.

    Returns:
        At least 1; more than any batch has for a pair that cannot be run on some of its rows.
    """
    guide = PriorGuide(model) if guide is None else guide
    if not layout_of(model, guide, batch).divisible:
        return ALL_ROWS
    traces = trace_few(model, guide, batch, device)
    floats = 0.0  # of the largest tensor, per row
    for site in traces.model.values():
        copies = site["log_prob"].numel() / traces.size
        # a mixture evaluates its density in each of its components
        components = num_components(site["fn"])
        floats = max(floats, copies * components * math.prod(site["fn"].event_shape))
        base = base_distribution(site["fn"])
        for parameter in vars(base).values():  # a categorical has more numbers than its value
            if isinstance(parameter, torch.Tensor):
                floats = max(floats, parameter.numel() / traces.size)
    budget = MEMORY_BUDGET * (1 if torch.device(device).type == "cpu" else GPU_FACTOR)
    return max(1, int(budget / (4 * 8 * max(floats, 512))))


def trace_few(
    model: PyroProgram, guide: PyroProgram, batch: Batch, device: torch.device | str
) -> Traces:
    """One run of a pair on the first two rows of a batch; on all, if it cannot be run on some."""
    few = few_rows(model, guide, batch, 2)
    return trace_pair(model, guide, {name: value.to(device) for name, value in few.items()})
