"""Pairs of the library's own classes: described in a run folder, and rebuilt from the description."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from .. import conditionals, guides, models
from ..errors import UserError
from ..programs.modules import find_modules
from ..programs.program import Program, built, plain_value
from ..train.untrusted import Unsafe


def _classes(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The public classes of a module: a description can name no other object."""
    named = {name: getattr(module, name) for name in module.__all__}
    return {name: kind for name, kind in named.items() if isinstance(kind, type)}


PROGRAMS = {**_classes(models), **_classes(guides)}
GUIDES = _classes(guides)
PARTS = _classes(conditionals)


def describe_pair(model: Any, guide: Any) -> dict[str, Any] | None:
    """`{"model": ..., "guide": ...}` as JSON values; None for programs that are not the library's."""
    if find_modules(model, guide) != [model, guide]:
        return None
    result: dict[str, Any] = {}
    for name, program in (("model", model), ("guide", guide)):
        kind = type(program).__name__
        arguments = program.constructor_arguments if isinstance(program, Program) else None
        is_own = PROGRAMS.get(kind) is type(program)
        if not is_own or arguments is None or "unknown" in str(arguments):
            return None
        result[name] = {"class": kind, **arguments}
    return result


def pair_difference(before: Any, now: Mapping[str, Any]) -> str | None:
    """The first argument in which two descriptions of pairs differ; None if they are the same.

    Args:
        before: what `describe_pair` wrote down, of any version.
        now: what it writes down now.
    """
    for part in now:
        try:
            old, new = (_arguments(pair[part]) for pair in (before, now))
        except (LookupError, TypeError, ValueError):
            return None  # what cannot be read says nothing
        other = _difference(old, new)
        if other is not None:
            return f"{part}: {other}"
    return None


def _arguments(described: Mapping[str, Any]) -> dict[str, Any]:
    """The class of a program and all its arguments by name, defaults too."""
    options = dict(described)
    kind, args = options.pop("class"), options.pop("args")
    bound = inspect.signature(PROGRAMS[kind]).bind(*args, **options)
    bound.apply_defaults()
    return {"class": kind, **{name: plain_value(v) for name, v in bound.arguments.items()}}


def _difference(a: Any, b: Any, name: str = "") -> str | None:
    """Where two values differ; settings that only one of two versions has do not count."""
    kinds = [v.get("class_path") if isinstance(v, dict) else None for v in (a, b)]
    if isinstance(a, dict) and isinstance(b, dict) and kinds[0] == kinds[1]:
        parts = ((n, a[n], b[n]) for n in b if n in a)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        parts = ((str(n), *pair) for n, pair in enumerate(zip(a, b, strict=True)))
    else:
        return None if a == b else f"{name}={kinds[0] or a}, not {kinds[1] or b}"
    inner = (_difference(x, y, name if n == "init_args" else _joined(name, n)) for n, x, y in parts)
    return next((found for found in inner if found is not None), None)


def _joined(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def rebuild_pair(described: Any, folder: object) -> tuple[Any, Any]:
    """The pair `(model, guide)` that `describe_pair` wrote down, with weights at random.

    Raises:
        UserError: a pair that cannot be built again.
    """
    try:
        model = _build(described["model"], None)
        return model, _build(described["guide"], model)
    except (UserError, Unsafe):
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError):
        raise UserError(
            f"{folder} does not say how its pair was built: pv.load(folder, model=, guide=)"
        ) from None


class BoundedMemory(TorchFunctionMode):
    """Within, the tensors that are created have a bounded number of values together.

    A description of a pair may ask for any size. It is built before its weights are compared.

    Args:
        num_values: the number of values.

    Raises:
        Unsafe: more would be created.
    """

    FACTORIES = frozenset({
        torch.arange, torch.empty, torch.eye, torch.full, torch.linspace, torch.ones, torch.rand,
        torch.randint, torch.randn, torch.randperm, torch.zeros,
    })  # fmt: skip

    def __init__(self, num_values: int) -> None:
        super().__init__()
        self.left = num_values

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.FACTORIES:
            shape_only = {**kwargs, "device": "meta"}
            shape_only.pop("generator", None)
            self.left -= func(*args, **shape_only).numel() + 1
            if self.left < 0:
                raise Unsafe("its weights are not those of its pair")
        return func(*args, **kwargs)


def _build(described: Mapping[str, Any], model: Any) -> Any:
    options = dict(described)
    kind, args = PROGRAMS[options.pop("class")], options.pop("args")
    args = [_value(v, model) for v in args]
    return kind(*args, **{n: _value(v, model) for n, v in options.items()})


def _value(value: Any, model: Any) -> Any:
    if isinstance(value, dict) and "class" in value:
        return _build(value, model) if value["class"] in GUIDES else model
    return built(value, PARTS)
