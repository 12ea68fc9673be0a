"""The weights of a pair, as a checkpoint holds them."""

from pathlib import Path

import torch

from ..errors import UserError
from ..programs.modules import find_modules
from . import checkpoint


def weights_of(model, guide, free=()):
    """A copy of all weights: the modules' states, and the parameters outside of modules."""
    states = [m.state_dict() for m in find_modules(model, guide)]
    return {
        "modules": [{k: v.detach().clone() for k, v in s.items()} for s in states],
        "free": [p.detach().clone() for p in free],
        "frozen": frozen(model, guide),
    }


def restore(model, guide, free, weights, source):
    """Put weights from `source` into a pair built as trained, or say in one line why they do not fit."""
    found = find_modules(model, guide)
    for kind, have, want in (
        ("modules", found, weights["modules"]),
        ("parameters outside of modules", free, weights["free"]),
    ):
        if len(have) != len(want):
            raise UserError(f"{source} has {len(want)} {kind}, this pair {len(have)}")
    for module, state in zip(found, weights["modules"], strict=True):
        checkpoint.load_state(module, state, type(module).__name__, source)
    with torch.no_grad():
        for parameter, value in zip(free, weights["free"], strict=True):
            parameter.copy_(value)


def frozen(model, guide):
    """The names of the parameters that are not trained, a list for each module of the pair."""
    return [
        [n for n, p in m.named_parameters() if not p.requires_grad]
        for m in find_modules(model, guide)
    ]


def freeze(model, guide, weights):
    """Let those parameters train that did when `weights` were saved, and no others."""
    for module, names in zip(find_modules(model, guide), weights.get("frozen", ()), strict=False):
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in names)


def load_weights(model, guide, path):
    """Put a checkpoint's weights (the best by validation) into a pair of modules built as trained.

    What was frozen in training is frozen again.

    Raises:
        UserError: the file is missing, damaged, unsafe, or of another pair; the `config.json` beside
            it was edited since training.
    """
    state = checkpoint.load(path)
    checkpoint.check_config(Path(path).parent, state)
    restore(model, guide, [], state["best"] or state["weights"], path)
    freeze(model, guide, state["weights"])
    for m in find_modules(model, guide):
        m.eval()
