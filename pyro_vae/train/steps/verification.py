"""Whether two ways of taking a step agree, on fresh data and noise."""

import math
from collections.abc import Callable, Sequence

import torch

from ...objectives import Objective
from ...programs.contexts import seeded

#: The tolerance factor of Inductor's code, which rounds otherwise, and the cause if it differs.
COMPILED_TOLERANCE = 1000
INDUCTOR_DIFFERS = "Inductor draws other noise, or rounds worse"

Batch = dict[str, torch.Tensor]
#: Of one step: loss, a draw after it, gradients and buffers.
StepResult = tuple[torch.Tensor, torch.Tensor, Sequence[torch.Tensor], Sequence[torch.Tensor]]


def verify(
    plain: Callable[[Batch, int], StepResult],
    replayed: Callable[[Batch, int], StepResult],
    objective: Objective,
    batch: Batch,
    tolerance_factor: float,
    likely_cause: str,
    comparisons: int = 2,
) -> None:
    """Compare two ways of taking a step on fresh batches, each with another seed.

    Args:
        plain, replayed: functions of a batch and a seed, which change nothing.
        objective: in the second comparison its schedules are at their end.
        batch: its rows are drawn anew.
        tolerance_factor: see `difference`.
        likely_cause: for the message.
        comparisons: one or two.

    Raises:
        RuntimeError: they differ.
    """
    first = next(iter(batch.values()))
    epoch = objective.epoch
    try:
        for seed, objective.epoch in ((1, epoch), (2, 10**6))[:comparisons]:
            with seeded(seed, first.device):
                rows = torch.randint(len(first), (len(first),), device=first.device)
            fresh = {n: v[rows] for n, v in batch.items()}
            differs = difference(plain(fresh, seed), replayed(fresh, seed), tolerance_factor)
            if differs is not None:
                raise RuntimeError(
                    f"on fresh data and noise its {differs} is not the plain step's: {likely_cause}"
                )
    finally:
        objective.epoch = epoch


def difference(plain: StepResult, replayed: StepResult, tolerance_factor: float) -> str | None:
    """The name of the part in which two steps differ; None if they agree.

    Tensors are compared by the norm of their difference. A value that rounds to the other side of a
    rectifier's kink changes single entries much, and the tensor as a whole little. The tolerance of a
    gradient close to zero depends on the norms of the other gradients.
    """
    names = ("loss", "random stream", "gradient", "buffer")
    overall = max((_length(g) for g in plain[2]), default=0.0)
    for name, *parts in zip(names, plain, replayed, strict=True):
        expected, actual = ([v] if isinstance(v, torch.Tensor) else v for v in parts)
        for a, b in zip(expected, actual, strict=True):
            a, b = a.detach(), b.detach()
            if not a.is_floating_point():
                equal = torch.equal(a, b)
            else:
                tolerance = tolerance_factor * (1e-5 if a.dtype == torch.float32 else 1e-9)
                size = _length(a) + (1e-2 * overall if name == "gradient" else 0.0)
                distance = (a - b).norm().item()
                if not math.isfinite(distance):  # infinite or NaN entries are equal in place
                    same = torch.equal(a.isfinite(), b.isfinite())
                    distance = _length(a - b) if same else math.inf
                equal = distance <= tolerance * size
            if not equal:
                return name
    return None


def _length(tensor: torch.Tensor) -> float:
    """The norm of the finite entries."""
    norm = tensor.norm().item()
    return norm if math.isfinite(norm) else tensor[tensor.isfinite()].norm().item()
