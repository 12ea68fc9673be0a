"""A digest of all that decides what programs and options compute: their code, settings and tensors."""

import contextvars
import dataclasses
import enum
import functools
import hashlib
import logging
import os
import re
import sys
import sysconfig
import threading
import types
import uuid
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn

from .python_state import globals_of, is_bound, scheduled_names, slots_of

MAX_OBJECTS = 200_000  # that are looked into
MAX_DEPTH = 150
PACKAGES = tuple({sysconfig.get_path(n) for n in ("stdlib", "platstdlib", "purelib", "platlib")})
SCALARS = (
    type(None), bool, int, float, complex, str, bytes, np.generic, torch.dtype, torch.device,
    torch.layout, range, slice, type(Ellipsis), Path, re.Pattern,
)  # fmt: skip
#: What says where an object is, or who holds it, and nothing of what it computes.
HANDLES = (
    weakref.ReferenceType, weakref.ProxyType, contextvars.ContextVar, type(threading.Lock()),
    type(threading.RLock()), type(logging.getLogger()), threading.local,
)  # fmt: skip
IS_OF_PYTHON = 1 << 9  # the flag of a class that Python code has made: its attributes are its state
OF_MODULES = ("_parameters", "_buffers", "_modules")
#: Of a class, what Python makes itself; of Pyro's bounds, what they find out when they first run.
NOT_LOOKED_AT = frozenset({
    "__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__", "__static_attributes__",
    "__abstractmethods__", "_abc_impl", "__annotations__", "max_plate_nesting",
})  # fmt: skip


def identity(*objects: object) -> str:
    """A digest of objects: the same for the same code, settings and tensors, also in another process.

    Of the user's functions and classes their code counts, with all they refer to; those of installed
    packages count by name. Tensors and arrays count to the last bit.

    Args:
        objects: programs, data, options: anything. One that cannot be looked into, such as an open
            file, makes a digest that no other call has.

    Example:
        >>> import torch
        >>> from pyro_vae.programs.identity import identity
        >>> layer = torch.nn.Linear(2, 1)
        >>> before = identity(layer)
        >>> identity(layer) == before
        True
        >>> layer.weight.data = -layer.weight.data
        >>> identity(layer) == before
        False
    """
    walk = _Walk()
    walk.feed([*objects], 0)
    return walk.digest.hexdigest()


class _Walk:
    """What has been met so far, and its digest."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.seen: dict[int, tuple[int, object]] = {}  # alive, or another could have the id of one

    def say(self, *words: object) -> None:
        """Add words to the digest."""
        self.digest.update(("\0".join(map(str, words)) + "\1").encode(errors="surrogatepass"))

    def feed(self, item: Any, depth: int) -> None:
        """Add an object and all that it refers to."""
        if isinstance(item, enum.Enum):
            return self.say("enum", _name(type(item)), item.name)
        if isinstance(item, SCALARS):
            return self.say(_name(type(item)), repr(item))
        if not isinstance(item, (tuple, types.CodeType)):  # of which equal ones may be one, or two
            if id(item) in self.seen:
                return self.say("again", self.seen[id(item)][0])
            self.seen[id(item)] = len(self.seen), item
        if len(self.seen) > MAX_OBJECTS or depth > MAX_DEPTH:
            return self.give_up()
        try:
            parts = self.parts(item)
        except Exception:  # whatever an object of a user does when it is asked
            return self.give_up()
        for part in parts:
            self.feed(part, depth + 1)

    def give_up(self) -> None:
        """Make the digest one that no other call has."""
        self.say("unknown", uuid.uuid4())

    def parts(self, item: Any) -> Iterable[object]:
        """Say what an object is, and return what it consists of."""
        if isinstance(item, torch.Tensor):
            return self.tensor(item)
        if isinstance(item, np.ndarray):
            self.say("array", item.dtype, item.shape)
            if item.dtype.hasobject:
                return item.ravel().tolist()
            self.digest.update(np.ascontiguousarray(item).tobytes())
            return []
        if isinstance(item, types.CodeType):
            self.say("code", item.co_argcount, item.co_kwonlyargcount, item.co_flags)
            self.digest.update(item.co_code)
            names = [*item.co_names, *item.co_varnames, *item.co_freevars, *item.co_cellvars]
            return [names, [c for c in item.co_consts if not isinstance(c, frozenset)],
                    [sorted(map(repr, c)) for c in item.co_consts if isinstance(c, frozenset)]]  # fmt: skip
        if isinstance(item, types.FunctionType):
            return self.function(item)
        if isinstance(item, types.MethodType):
            self.say("method")
            return [item.__self__, item.__func__]
        if isinstance(item, functools.partial):
            self.say("partial")
            return [item.func, item.args, item.keywords, vars(item)]
        if isinstance(item, property):
            return [item.fget, item.fset]
        if isinstance(item, (staticmethod, classmethod)):
            self.say(_name(type(item)))
            return [item.__func__]
        if isinstance(item, types.CellType):
            try:
                return [item.cell_contents]
            except ValueError:  # a name that is not bound yet
                return []
        if isinstance(item, types.ModuleType):
            self.say("python module", item.__name__)
            return []
        if isinstance(item, type):
            return self.of_class(item)
        if isinstance(item, HANDLES):
            return []
        if isinstance(item, nn.Module):
            return self.module(item)
        if isinstance(item, Mapping):
            self.say(_name(type(item)), len(item))
            return [each for pair in item.items() for each in pair]
        if isinstance(item, (list, tuple, deque)):
            self.say(_name(type(item)), len(item))
            return item
        if isinstance(item, (set, frozenset)):
            self.say(_name(type(item)), *sorted(identity(each) for each in item))
            return []
        if isinstance(item, torch.Generator):
            return [item.get_state()]
        return self.any_object(item)

    def tensor(self, item: torch.Tensor) -> Iterable[object]:
        self.say("tensor", item.dtype, tuple(item.shape), item.requires_grad, item.layout)
        if item.is_meta:
            return []
        if item.layout != torch.strided:
            whole = item.detach().to_sparse_coo().coalesce()
            return [whole.indices(), whole.values()]
        values = item.detach().cpu().contiguous().reshape(-1)
        self.digest.update(values.view(torch.uint8).numpy().tobytes() if len(values) else b"")
        return []

    def function(self, item: types.FunctionType) -> Iterable[object]:
        inside = [item.__defaults__, item.__kwdefaults__, list(item.__closure__ or ())]
        if _is_installed(item):
            self.say("function", item.__module__, item.__qualname__)
            return inside
        self.say("function")
        names = sorted(n for n in globals_of(item.__code__) if n in item.__globals__)
        values = [item.__globals__[name] for name in names]
        # of a user's module of settings, what the function can read
        read = [
            getattr(value, name)
            for value in values
            if isinstance(value, types.ModuleType) and not _is_installed(value)
            for name in sorted(_names_in(item.__code__))
            if hasattr(value, name)
        ]
        return [item.__code__, names, values, read, *inside, vars(item)]

    def of_class(self, item: type) -> Iterable[object]:
        self.say("class", _name(item))
        if _is_installed(item):
            return []
        members = {n: v for n, v in vars(item).items() if n not in NOT_LOOKED_AT}
        own = (types.MemberDescriptorType, types.GetSetDescriptorType)
        return [item.__bases__, {n: v for n, v in members.items() if not isinstance(v, own)}]

    def module(self, item: nn.Module) -> Iterable[object]:
        plain = vars(nn.Module())
        own = {n: v for n, v in vars(item).items() if n not in plain or n in OF_MODULES}
        return [type(item), {n: v for n, v in own.items() if n not in NOT_LOOKED_AT}]

    def any_object(self, item: Any) -> Iterable[object]:
        kind = type(item)
        if dataclasses.is_dataclass(item):
            return [kind, {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}]
        if kind.__module__ == "builtins" and hasattr(item, "__qualname__"):  # of C: a name is all
            owner = getattr(item, "__self__", None)
            self.say("builtin", getattr(item, "__module__", ""), item.__qualname__)
            return [] if isinstance(owner, types.ModuleType) else [owner]
        wrapped = getattr(item, "__wrapped__", None)
        if wrapped is not None and kind.__module__ == "functools":
            return [wrapped]
        is_of_c = any(not c.__flags__ & IS_OF_PYTHON for c in kind.__mro__[:-1])  # but for `object`
        if is_of_c or (_is_installed(kind) and _pickles_itself(kind)):  # as frames do
            return [kind, item.__reduce_ex__(4)]
        held = {n: getattr(item, n) for n in slots_of(item)} | getattr(item, "__dict__", {})
        for name in (*NOT_LOOKED_AT, *(scheduled_names(item) if is_bound(kind) else ())):
            held.pop(name, None)
        if held or hasattr(item, "__dict__"):
            return [kind, held]
        return [kind, item.__reduce_ex__(4)]


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _names_in(code: types.CodeType) -> set[str]:
    """The names that a function's code reads, those of attributes too, in the functions within it too."""
    inner = (_names_in(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)


def _pickles_itself(kind: type) -> bool:
    """Whether a class says what its state is: it may have caches, and more than its attributes."""
    names = ("__getstate__", "__reduce__", "__reduce_ex__")
    return any(name in vars(c) for c in kind.__mro__[:-1] for name in names)


def _is_installed(item: Any) -> bool:
    """Whether a function, class or module is this library's, Python's, or an installed package's."""
    name = item.__name__ if isinstance(item, types.ModuleType) else item.__module__
    top = str(name).split(".")[0]
    if top in sys.stdlib_module_names or top == __name__.split(".")[0]:
        return top != "__main__"
    module = sys.modules.get(str(name))
    path = os.path.abspath(getattr(module, "__file__", None) or "")
    return any(path.startswith(folder + os.sep) for folder in PACKAGES)
