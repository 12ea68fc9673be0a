"""The plain settings of `fit`: numbers and names, checked before data are loaded or files written."""

import math
from collections.abc import Callable
from typing import Any

from ..errors import UserError, check_int_at_least, check_positive, unknown_name_error

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda t: 1.0,
    "linear": lambda t: 1.0 - t,
    "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
}
PRECISIONS = (None, "tf32", "bf16")
MAX_SEED = 2**42  # so that what is derived from it fits torch's 64 bits
SETTINGS = (
    "epochs",
    "lr",
    "schedule",
    "batch_size",
    "weight_decay",
    "clip_norm",
    "patience",
    "validate_every",
    "precision",
    "seed",
)


def checked_settings(**settings: Any) -> dict[str, Any]:
    """The settings of `fit` as plain Python numbers.

    Args:
        settings: by the names in `SETTINGS`, all of them.

    Raises:
        UserError: a setting that is missing, of another type or out of range.
    """
    present = {name: value for name, value in settings.items() if value is not None}
    for name in ("epochs", "lr", "batch_size", "weight_decay", "validate_every"):
        if name not in present:
            raise UserError(f"{name} must be a number, not None")
    if settings["schedule"] not in SCHEDULES:
        raise unknown_name_error("schedule", settings["schedule"], SCHEDULES)
    if settings["precision"] not in PRECISIONS:
        raise unknown_name_error("precision", settings["precision"], [p for p in PRECISIONS if p])
    whole = ("epochs", "batch_size", "patience", "validate_every")
    check_int_at_least(1, **{n: present[n] for n in whole if n in present})
    check_positive(**{n: present[n] for n in ("lr", "clip_norm") if n in present})
    check_positive(or_zero=True, weight_decay=present["weight_decay"])
    _check_seed(settings["seed"])
    for name in (*whole, "seed"):
        settings[name] = None if settings[name] is None else int(settings[name])
    for name in ("lr", "clip_norm", "weight_decay"):
        settings[name] = None if settings[name] is None else float(settings[name])
    return settings


def _check_seed(seed: Any) -> None:
    try:
        check_int_at_least(0, seed=seed)
    except UserError:
        valid = False
    else:
        valid = seed < MAX_SEED
    if not valid:
        raise UserError(f"seed must be an integer in 0..2**42 - 1, not {seed!r}")
