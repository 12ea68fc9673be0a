"""Pairs of the library's own classes: described in a run folder, and rebuilt from the description."""

from collections.abc import Mapping
from typing import Any

from .. import conditionals, guides, models
from ..errors import UserError
from ..programs.modules import find_modules
from ..programs.program import Program

OWN = {**vars(models), **vars(guides)}


def describe_pair(model: Any, guide: Any) -> dict[str, Any] | None:
    """`{"model": ..., "guide": ...}` as JSON values; None for programs that are not the library's."""
    if find_modules(model, guide) != [model, guide]:
        return None
    result = {}
    for name, program in (("model", model), ("guide", guide)):
        kind = type(program).__name__
        arguments = program.constructor_arguments if isinstance(program, Program) else None
        if OWN.get(kind) is not type(program) or arguments is None or "unknown" in str(arguments):
            return None
        result[name] = {"class": kind, **arguments}
    return result


def rebuild_pair(described: Any, folder: object) -> tuple[Any, Any]:
    """The pair `(model, guide)` that `describe_pair` wrote down, with weights at random.

    Raises:
        UserError: a pair that cannot be built again.
    """
    try:
        model = _build(described["model"], None)
        return model, _build(described["guide"], model)
    except (KeyError, TypeError, AttributeError, IndexError):
        raise UserError(
            f"{folder} does not say how its pair was built: pv.load(folder, model=, guide=)"
        ) from None


def _build(described: Mapping[str, Any], model: Any) -> Any:
    options = dict(described)
    kind, args = OWN[options.pop("class")], options.pop("args")
    args = [_value(v, model) for v in args]
    return kind(*args, **{n: _value(v, model) for n, v in options.items()})


def _value(value: Any, model: Any) -> Any:
    if isinstance(value, dict) and "class" in value:
        return _build(value, model) if value["class"] in vars(guides) else model
    if isinstance(value, list):
        return tuple(_value(v, model) for v in value)
    if isinstance(value, dict) and "class_path" in value:
        kind = getattr(conditionals, value["class_path"])
        return kind(**{n: _value(v, model) for n, v in value["init_args"].items()})
    if isinstance(value, dict):
        return {n: _value(v, model) for n, v in value.items()}
    return value
