"""What a checkpoint holds: a run's whole state, so that a resumed run continues bit for bit."""

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..data.dataset import difference
from ..errors import UserError
from ..programs.contexts import fork_rng
from ..programs.modules import find_modules
from . import distributed
from .checkpoint import PROGRESS
from .settings import EXTENDABLE, check_epochs
from .weights import freeze, restore, weights_of

if TYPE_CHECKING:
    from .loop import Loop


@dataclass
class Progress:
    """How far a run is: whole epochs, the batches of the epoch under way, and its sums so far.

    While training, `total` and `seen` are tensors where a number would need a synchronization.
    """

    epoch: int = 0
    batch: int = 0
    total: Any = 0.0  # of the losses, nats
    seen: Any = 0  # data points
    seconds: float = 0.0
    best_elbo: float = -math.inf
    best_epoch: int | None = None

    def next_epoch(self) -> None:
        self.epoch += 1
        self.batch, self.total, self.seen, self.seconds = 0, 0.0, 0, 0.0


def described(loop: "Loop") -> dict[str, Any]:
    """The settings as a checkpoint records them, for `check_settings`."""
    modules = find_modules(loop.model, loop.guide)
    with fork_rng(loop.device):  # zuko's splines draw numbers to print themselves
        parts = [re.sub(r" at 0x[0-9a-f]+", "", str(m)) for m in modules]
    return {**loop.recorded(), "data": loop.inputs.describe(), "modules": parts}


def capture(loop: "Loop") -> dict[str, Any]:
    """The state of a run, as `checkpoint.save` takes it; all processes take part."""
    cuda = loop.device.type == "cuda"
    streams = distributed.gathered(
        (torch.get_rng_state(), torch.cuda.get_rng_state(loop.device) if cuda else None)
    )
    at = loop.at
    return {
        "weights": weights_of(loop.model, loop.guide, loop.stepper.free),
        "best": loop.validation.best,
        "optimizer": loop.stepper.optimizer.optimizer.state_dict(),
        "rng": torch.stack([cpu for cpu, _ in streams]),  # [processes, ...]
        "rng_cuda": torch.stack([gpu for _, gpu in streams if gpu is not None]) if cuda else None,
        "progress": {
            **{name: getattr(at, name) for name in PROGRESS},
            "total": float(at.total), "seen": int(at.seen), "seconds": float(at.seconds),
            "best_elbo": float(at.best_elbo),
        },
        "history": json.dumps(loop.history),
        "settings": json.dumps(described(loop)),
        "schema": loop.inputs.schema,
        "stop_reason": loop.result.stop_reason,
    }  # fmt: skip


def check_settings(saved: dict[str, Any], settings: dict[str, Any], path: object) -> None:
    """Raise unless a run resumes with the settings that it was started with.

    Args:
        saved, settings: of the checkpoint and of the call, as JSON gives them back.
        path: the checkpoint's, for the message.
    """
    for name, value in settings.items():
        before: Any = saved.get(name)
        if name in EXTENDABLE or before == value:
            continue
        if name == "data":
            other = difference(before, value)
            if other is None:
                continue
            raise UserError(
                f"{path} was trained on other data ({other}): resume with the same data"
            )
        if name == "modules":
            raise UserError(
                f"{path} was trained with other modules ({_first_difference(before, value)}): "
                "resume with a pair that is built the same way"
            )
        raise UserError(
            f"{path} was trained with {name}={before}, not {value}: "
            f"resume with the same settings (only {', '.join(EXTENDABLE)} may change)"
        )
    check_epochs(saved, settings)


def _first_difference(before: list[str], now: list[str]) -> str:
    lines = [[line.strip() for m in parts for line in m.splitlines()] for parts in (before, now)]
    a, b = next(((a, b) for a, b in zip(*lines, strict=False) if a != b), ("", ""))
    return f"{a!r}, not {b!r}" if a != b else f"{len(lines[0])} parts, not {len(lines[1])}"


def freeze_as(loop: "Loop", state: dict[str, Any]) -> None:
    """Freeze the parameters that were frozen, before an optimizer is made."""
    freeze(loop.model, loop.guide, state["weights"])


def resume(loop: "Loop", state: dict[str, Any], path: object) -> None:
    """Restore what `capture` returned into a run that is built the same way.

    Raises:
        UserError: the checkpoint is of another pair, or its fields do not fit the run.
    """
    stepper, rank = loop.stepper, distributed.rank()

    def set_cuda_stream(stream: torch.Tensor) -> None:
        if loop.device.type == "cuda":
            torch.cuda.set_rng_state(stream, loop.device)

    restore(loop.model, loop.guide, stepper.free, state["weights"], path)
    try:
        stepper.optimizer.load_state(state["optimizer"])
        for name, set_stream in (("rng", torch.set_rng_state), ("rng_cuda", set_cuda_stream)):
            streams = () if state[name] is None else torch.atleast_2d(state[name])
            if rank < len(streams):
                set_stream(streams[rank].clone())  # a view into the stack crashes torch
    except (KeyError, RuntimeError, TypeError, ValueError) as e:
        line = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise UserError(f"{path} does not fit this run: {line}") from e
    loop.validation.best = state["best"]
    loop.history = json.loads(state["history"])
    loop.at = Progress(**state["progress"])
    loop.at.total = torch.tensor(loop.at.total, dtype=torch.float64, device=loop.device)
