"""The weights of a pair, as a checkpoint holds them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..programs.modules import find_modules
from . import checkpoint, distributed

Weights = dict[str, Any]  # {"modules": [state dicts], "free": [tensors], "frozen": [names]}


def weights_of(
    model: Callable[..., Any], guide: Callable[..., Any], free: Iterable[torch.Tensor] = ()
) -> Weights:
    """A copy of all weights: the modules' states, and the parameters outside of modules."""
    states = [m.state_dict() for m in find_modules(model, guide)]
    return {
        "modules": [{k: v.detach().clone() for k, v in s.items()} for s in states],
        "free": [p.detach().clone() for p in free],
        "frozen": frozen(model, guide),
    }


@dataclass
class KeptWeights:
    """The weights of a run that has ended.

    Args:
        last: those of the last step.
        best: those of the best epoch by validation; None without validation.
        free: the pair's parameters outside of modules.
        used: the name of those that the pair has, `best` or `last`.
    """

    last: Weights
    best: Weights | None = None
    free: Sequence[torch.Tensor] = field(default_factory=list)
    used: str = "best"

    def restore(self, model: Callable[..., Any], guide: Callable[..., Any], name: str) -> None:
        """Put the weights called `name`, `last` or `best`, into the pair."""
        weights = self.last if name == "last" or self.best is None else self.best
        restore(model, guide, self.free, weights, f"the run's {name} weights")
        self.used = name


def redraw_weights(*modules: torch.nn.Module) -> None:
    """Draw weights anew, where `reset_parameters()` does it: torch's layers, this library's networks.

    Parts of modules come before the modules: an `Affine` map draws the weights of its maps again,
    for all of its inputs together.
    """
    for module in modules:
        for part in reversed(list(module.modules())):
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()


def broadcast_weights(
    model: Callable[..., Any], guide: Callable[..., Any], free: Sequence[torch.Tensor]
) -> None:
    """The weights and buffers of every process become those of rank 0."""
    states = [t for m in find_modules(model, guide) for t in m.state_dict().values()]
    distributed.broadcast_([*states, *free])


def restore(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    free: Sequence[torch.Tensor],
    weights: Weights,
    source: object,
) -> None:
    """Put weights into a pair that is built as it was trained.

    Args:
        model, guide: the pair.
        free: its parameters outside of modules.
        weights: what `weights_of` returned.
        source: where they come from, for the message.

    Raises:
        UserError: the weights do not fit the pair.
    """
    modules = find_modules(model, guide)
    for kind, have, want in (
        ("modules", modules, weights["modules"]),
        ("parameters outside of modules", free, weights["free"]),
    ):
        if len(have) != len(want):
            remedy = ""
            if kind != "modules":
                remedy = (
                    ": a pair with pyro.param is continued, by pv.fit(resume=True), and not loaded"
                )
            raise UserError(f"{source} has {len(want)} {kind}, this pair {len(have)}{remedy}")
    for module, state in zip(modules, weights["modules"], strict=True):
        checkpoint.load_state(module, state, type(module).__name__, source)
    with torch.no_grad():
        for parameter, value in zip(free, weights["free"], strict=True):
            parameter.copy_(value)


def frozen(model: Callable[..., Any], guide: Callable[..., Any]) -> list[list[str]]:
    """The names of the parameters that are not trained, a list for each module of the pair."""
    return [
        [n for n, p in m.named_parameters() if not p.requires_grad]
        for m in find_modules(model, guide)
    ]


def freeze(model: Callable[..., Any], guide: Callable[..., Any], weights: Weights) -> None:
    """Let those parameters train that did when `weights` were saved, and no others."""
    for module, names in zip(find_modules(model, guide), weights.get("frozen", ()), strict=False):
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in names)


def load_weights(
    model: Callable[..., Any], guide: Callable[..., Any], path: Path | str
) -> KeptWeights:
    """Put a checkpoint's weights (the best by validation) into a pair of modules built as trained.

    Parameters that were frozen in training are frozen again.

    Example:
        >>> import tempfile, torch, pyro_vae as pv
        >>> pairs = [(m, pv.guides.Guide(m)) for m in (pv.models.VAE((3,), 2), pv.models.VAE((3,), 2))]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     x = torch.rand(20, 3).round()
        ...     run = pv.fit(*pairs[0], x, epochs=1, out=folder, progress=False)
        ...     weights = pv.train.load_weights(*pairs[1], folder + "/checkpoint.pt")
        >>> trained, loaded = (next(m.parameters()) for m, _ in pairs)
        >>> torch.equal(trained, loaded)
        True

    Args:
        model, guide: the pair.
        path: the checkpoint.

    Returns:
        The best and the last weights in the checkpoint.

    Raises:
        UserError: the file is missing, damaged, unsafe, or of another pair; the `config.json` beside
            it was edited since training.
    """
    state = checkpoint.load(path)
    checkpoint.check_config(Path(path).parent, state)
    return weights_in(state, model, guide, path)


def weights_in(
    state: Mapping[str, Any], model: Callable[..., Any], guide: Callable[..., Any], path: object
) -> KeptWeights:
    """Put the weights of a checkpoint that is loaded into a pair; see `load_weights`."""
    restore(model, guide, [], state["best"] or state["weights"], path)
    freeze(model, guide, state["weights"])
    for m in find_modules(model, guide):
        m.eval()
    return KeptWeights(state["weights"], state["best"])
