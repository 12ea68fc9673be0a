"""The plain settings of `fit`: numbers and names, checked before data are loaded or files written."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import UserError, check_int_at_least, check_positive, checked_seed, unknown_name_error

#: Maps the fraction of the training that is done, in [0, 1], to a factor of the learning rate.
Schedule = Callable[[float], float]

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda t: 1.0,
    "linear": lambda t: 1.0 - t,
    "cosine": lambda t: 0.5 * (1 + math.cos(math.pi * t)),
}
PRECISIONS = (None, "tf32", "bf16")
SEED_BITS = 42  # so that what is derived from a seed fits torch's 64 bits
SETTINGS = (
    "epochs",
    "lr",
    "schedule",
    "batch_size",
    "weight_decay",
    "clip_norm",
    "patience",
    "validate_every",
    "max_time",
    "precision",
    "seed",
)
#: Settings that may differ between a run and its continuation.
EXTENDABLE = ("epochs", "patience", "max_time")


def checked_settings(**settings: Any) -> dict[str, Any]:
    """The settings of `fit` as JSON has them: plain numbers, and a function by its name.

    Args:
        settings: by the names in `SETTINGS`, all of them.

    Raises:
        UserError: a setting that is missing, of another type or out of range.
    """
    present = {name: value for name, value in settings.items() if value is not None}
    for name in ("epochs", "lr", "batch_size", "weight_decay", "validate_every"):
        if name not in present:
            raise UserError(f"{name} must be a number, not None")
    as_schedule(settings["schedule"])
    if settings["precision"] not in PRECISIONS:
        raise unknown_name_error("precision", settings["precision"], [p for p in PRECISIONS if p])
    whole = ("epochs", "batch_size", "patience", "validate_every")
    check_int_at_least(1, **{n: present[n] for n in whole if n in present})
    check_positive(**{n: present[n] for n in ("lr", "clip_norm", "max_time") if n in present})
    check_positive(or_zero=True, weight_decay=present["weight_decay"])
    settings["seed"] = checked_seed(settings["seed"], bits=SEED_BITS)
    for name in whole:
        settings[name] = None if settings[name] is None else int(settings[name])
    for name in ("lr", "clip_norm", "weight_decay", "max_time"):
        settings[name] = None if settings[name] is None else float(settings[name])
    if callable(settings["schedule"]):
        settings["schedule"] = name_of_function(settings["schedule"])
    return settings


def as_schedule(schedule: str | Schedule) -> Schedule:
    """The function of a schedule, whose values are checked when it is called.

    Args:
        schedule: a name in `SCHEDULES`, or a function of the fraction of the training that is done.

    Raises:
        UserError: an unknown name; when the function is called, a value that is not a finite number
            of at least 0.
    """
    if isinstance(schedule, str) and schedule in SCHEDULES:
        return SCHEDULES[schedule]
    if not callable(schedule):
        raise unknown_name_error("schedule", schedule, SCHEDULES)

    def checked(fraction: float) -> float:
        factor = schedule(fraction)
        try:
            value = float(factor)
        except (TypeError, ValueError):
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise UserError(
                f"schedule({fraction:.3g}) is {factor!r}: it must return a factor of the learning "
                "rate, a finite number of at least 0"
            )
        return value

    checked(0.0)
    return checked


def name_of_function(function: object) -> str | None:
    """A function or description (a dataclass) as a checkpoint records it; None for None."""
    if dataclasses.is_dataclass(function):
        return repr(function)
    return None if function is None else getattr(function, "__qualname__", "a function")


def check_epochs(saved: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raise if a run would continue with another number of epochs, which its schedule depends on."""
    schedule, before, now = settings["schedule"], saved["epochs"], settings["epochs"]
    if before != now and schedule != "constant":
        raise UserError(
            f"a {schedule} schedule of {before} epochs cannot be extended or cut: resume with "
            f"epochs={before}, not {now}"
        )
