"""Many processes that train one pair: each on its shard of every batch, all with the same weights.

Everything here is a no-op in a single process. The functions that talk to other processes must be
called by all of them, in the same order.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..errors import UserError
from ..programs.contexts import set_seed

# No process waits for another in vain: torchrun ends all of them when one dies. What takes long is
# work (a mixture start, rank 0's validation), and must not be taken for a failure.
T = TypeVar("T")

TIMEOUT = timedelta(days=7)


_groups = itertools.count()


@functools.cache
def _launcher() -> tuple[dist.Store, int, int]:
    """`(store, rank, number of processes)`: where the launcher says that processes meet."""
    return next(dist.rendezvous("env://", timeout=TIMEOUT))


_alone = False  # in a function that rank 0 runs while the others wait


def _connected() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Which process this is, from 0."""
    return dist.get_rank() if _connected() else 0


def size() -> int:
    """How many processes work together."""
    return dist.get_world_size() if _connected() and not _alone else 1


def processes() -> int:
    """How many processes train together, also while rank 0 works alone."""
    return dist.get_world_size() if _connected() else 1


def separate_noise(seed: int) -> None:
    """From here on each process draws different noise; rank 0 draws what one process would."""
    if rank():
        set_seed(seed + 15_485_863 * rank())


def local_rank() -> int | None:
    """Which of its machine's processes this is, by what the launcher says; None without one."""
    launched = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return int(os.environ["LOCAL_RANK"]) if launched and "LOCAL_RANK" in os.environ else None


@contextmanager
def group(device: torch.device | str) -> Iterator[None]:
    """Within, the processes that `torchrun` launched are connected: gloo, and NCCL between GPUs.

    A group that exists already is used as it is, and left.
    """
    launched = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ)
    if (
        _connected()
        or not launched
        or int(os.environ["WORLD_SIZE"]) == 1
        or not dist.is_available()
    ):
        yield
        return
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    store, number, count = _launcher()
    prefix = f"pyro_vae {next(_groups)}"  # else a second group would meet the first one's traces
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT,
        store=dist.PrefixStore(prefix, store), rank=number, world_size=count,
    )  # fmt: skip
    try:
        yield
    finally:
        dist.destroy_process_group()


def on_rank_zero(function: Callable[[], T]) -> T:
    """The result of `function()` in the process of rank 0, in every process; also its `UserError`.

    The other processes wait meanwhile, and `function` runs as in a single process.
    """
    global _alone
    if size() == 1:
        return function()
    result: list[Any] = [None]
    if rank() == 0:
        try:
            _alone = True
            result = [(function(), None)]
        except UserError as e:
            result = [(None, e)]
        finally:
            _alone = False
    dist.broadcast_object_list(result, 0)
    value, error = result[0]
    if error is not None:
        raise error
    return value


def gathered(value: T) -> list[T]:
    """`[value of rank 0, value of rank 1, ...]`, in every process."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


@contextmanager
def main_process_first() -> Iterator[None]:
    """Within, each machine's first process is done before its others begin (with a download)."""
    ahead = not (local_rank() if local_rank() is not None else rank())
    if size() > 1 and not ahead:
        gathered(None)
    try:
        yield
    finally:
        if size() > 1 and ahead:
            gathered(None)


@torch.no_grad()
def broadcast_(tensors: Sequence[torch.Tensor]) -> None:
    """Put rank 0's values into everyone's tensors, of whatever types."""
    if size() == 1 or not tensors:
        return
    as_bytes = torch.cat([t.detach().flatten().view(torch.uint8) for t in tensors])
    dist.broadcast(as_bytes, 0)
    parts = as_bytes.split([t.numel() * t.element_size() for t in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.clone().view(tensor.dtype).view(tensor.shape))  # a clone is aligned


@torch.no_grad()
def all_reduce_gradients(
    parameters: Sequence[torch.Tensor], loss: torch.Tensor, count: Any, stop: Any
) -> tuple[torch.Tensor, Any, Any]:
    r"""Make `.grad` and the mean loss those of the whole batch; `(loss, count, stop)` of all.

    Of B data, rank r has the gradient :math:`g_r` of the mean over its :math:`B_r`; the whole
    batch's is :math:`\sum_r B_r g_r / \sum_r B_r`, however unequal the shards. `count` is
    :math:`B_r`; `stop`, whether this process was asked to, comes back positive if any was. One
    `all_reduce` of one tensor, after the backward pass, so that a recorded step is served as well.
    """
    has = [p.grad is not None for p in parameters]
    pieces = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
    counts = torch.tensor([count, stop, *has], dtype=torch.float32).to(loss.device)
    flat = torch.cat([*pieces, loss.reshape(1), counts])
    sums = flat[: -len(counts)].mul_(count)
    dist.all_reduce(flat)
    count, stop, *_ = counts = flat[-len(counts) :]
    sums.div_(count)
    # a parameter that no process has a gradient of keeps none: Adam then leaves it alone
    has_any = has if all(has) else counts[2:].tolist()
    *means, loss = sums.split([*(p.numel() for p in parameters), 1])
    for p, mean, present in zip(parameters, means, has_any, strict=True):
        if present:
            p.grad = torch.empty_like(p) if p.grad is None else p.grad
            p.grad.copy_(mean.view(p.shape))  # in the parameter's layout, as a fused Adam needs it
    return loss.reshape(()), count, stop


def any_process(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is set in any process."""
    return tuple(map(any, zip(*gathered(flags), strict=True)))
