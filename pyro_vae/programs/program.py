"""A `torch.nn.Module` whose forward is a Pyro program: what every model and guide here is."""

import dataclasses
import inspect
import itertools
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Self

import pyro
import torch.nn as nn

from .._pyro_internals import svi_is_collecting

_names: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
_counter = itertools.count()


def described(args: Iterable, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments as plain values, by which a run folder can build the program again."""
    return {
        "args": [plain_value(v) for v in args],
        **{k: plain_value(v) for k, v in kwargs.items()},
    }


def plain_value(value: Any) -> Any:
    """Numbers, names, tuples, dicts and frozen descriptions as JSON has them.

    What cannot be written down is `{"unknown": its type}`.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [plain_value(v) for v in value]
    if isinstance(value, Program):
        return {"class": type(value).__name__, **value.constructor_arguments}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {f.name: plain_value(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class_path": type(value).__name__, "init_args": own}
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {k: plain_value(v) for k, v in value.items()}
    return {"unknown": type(value).__name__}


def built(described: Any, classes: Mapping[str, Any]) -> Any:
    """The inverse of `plain_value`, for values that consist of these classes; lists are tuples.

    Raises:
        LookupError, TypeError: another class, or other arguments.
    """
    if isinstance(described, list):
        return tuple(built(v, classes) for v in described)
    if not isinstance(described, dict):
        return described
    options = described["init_args"] if "class_path" in described else described
    values = {name: built(v, classes) for name, v in options.items()}
    return classes[described["class_path"]](**values) if "class_path" in described else values


class Program(nn.Module):
    """A Pyro program that keeps its parameters in the module, as torch does.

    Under `pv.fit`, or any torch optimizer, Pyro's global parameter store stays empty. Under a Pyro
    user's own `pyro.infer.SVI` a plain module would silently not train, because SVI optimizes only
    registered parameters. Therefore a program registers itself, under a unique name, while SVI
    collects parameters, and at no other time.
    """

    constructor_arguments: dict[str, Any]  # as `described` writes them
    _takes_index: bool

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        parameters = inspect.signature(cls.forward).parameters.values()
        cls._takes_index = any(p.name == "index" or p.kind == p.VAR_KEYWORD for p in parameters)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self.__dict__["constructor_arguments"] = described(args, kwargs)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if "index" in kwargs and not self._takes_index:
            del kwargs["index"]  # SVI gives model and guide the same; models have no use for it
        if svi_is_collecting():
            name = _names.setdefault(self, f"{type(self).__name__}_{next(_counter)}")
            pyro.module(name, self)
        return super().__call__(*args, **kwargs)
