"""The Python values that programs hold: attributes, and what their functions read from outside.

A recorded training step has them fixed: where one changes, it must be recorded anew.
"""

import dis
import functools
import operator
import random
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from operator import itemgetter
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn as nn

from .._torch_internals import tensor_slots
from .modules import find_modules

MAX_ENTRIES = 100  # of a list or dict: longer ones are data
MAX_DEPTH = 4  # of objects that hold objects
MAX_OBJECTS = 1000  # that are looked into, modules apart
LIBRARIES = ("torch", "pyro", "pyro_vae", "numpy", "pandas", "builtins", "logging", "tqdm")
PLAIN = (type(None), int, float, complex, str, bytes, np.generic, torch.dtype, torch.device)
MODULE_NAMES = frozenset(vars(nn.Module()))  # what every module has, train or eval mode included


class PythonState:
    """The plain values that programs can read: numbers, texts, None, and tuples of them.

    These are the attributes of their modules (train or eval mode apart), of their classes, and of
    objects, dicts, lists, deques and small arrays that they hold; what functions and partials have
    closed over, their defaults and attributes; and the globals that functions read, numbers of a
    Python module among them. What is hidden deeper, such as the state of a numpy generator, is not
    seen.

    Args:
        programs: models and guides, and their objective, whose attributes count whatever its class.

    Example:
        >>> import torch
        >>> from pyro_vae.programs.python_state import PythonState
        >>> layer = torch.nn.Dropout(0.5)
        >>> state = PythonState(layer)
        >>> before = state.values()
        >>> layer.p = 0.1
        >>> state.values() == before
        False
    """

    def __init__(self, *programs: object) -> None:
        self.programs = programs
        self._find()

    def values(self) -> tuple[Any, ...]:
        """The current values, hashable. This takes microseconds: it is called at every step."""
        try:
            same = all([values[name] is item for values, name, item in self._objects])
            if same and sum(map(len, self._growing)) == self._size:
                values = self._read()
                hash(values)
                return values
        except (LookupError, TypeError, ValueError):  # one is gone, or of another type
            pass
        self._find()
        return self._read()

    def tensors(self) -> list[tuple[Any, Any, torch.Tensor]]:
        """`(container, name, tensor)` of those that are no parameters or buffers, at the last `mark`."""
        return list(self._tensors)

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Within, a run of the programs is no training step: afterwards, counters are as before.

        These are the numbers that have changed since the last call of `mark`, and the buffers and
        tensor attributes of modules, written in place or replaced. What changes only once, such as
        the size of a layer that is made in the first run, or a mean that is taken in it, stays; and
        so do all numbers, if a layer or a parameter is made within: a counter may say that it is
        there. The random streams of Python and numpy are as before, too.
        """
        streams = random.getstate(), np.random.get_state()
        self.mark()
        before, tensors = self._marked, self._marked_tensors
        parts = self._parts()
        try:
            yield
        finally:
            tensors.put_back(changed_since=self._marked_tensors)
            for place, name in self._changed() if _are_same(self._parts(), parts) else ():
                _, value = before.get((id(place.owner), name), (place, None))
                is_counter = _is_number(value) and _is_number(place.values[name])
                if is_counter and hasattr(place.values, "__setitem__"):  # not of a class
                    place.values[name] = value
            random.setstate(streams[0])
            np.random.set_state(streams[1])

    def _modules(self) -> list[nn.Module]:
        return [m for module in find_modules(*self.programs) for m in module.modules()]

    def _parts(self) -> list[object]:
        """What the programs' modules are made of."""
        modules = self._modules()
        tensors = [t for m in modules for slots in tensor_slots(m) for t in slots.values()]
        return [*modules, *tensors]

    def mark(self) -> None:
        """Within a trial, called before a further run of the programs."""
        self._find()
        self._marked = {(id(p.owner), n): (p, p.values[n]) for p in self._places for n in p.names}
        self._marked_tensors = _ModuleTensors(self._modules())
        self._lengths = _lengths(self._containers)
        self._streams = _random_streams()

    def changed(self) -> str | None:
        """What has changed since the last call of `mark`, for a message; None if nothing has."""
        names = [place.label(name) for place, name in self._changed()]
        now = _lengths([container for container, _ in self._lengths.values()])
        names += [
            f"the length of a {type(container).__name__}"
            for key, (container, length) in self._lengths.items()
            if now.get(key, (container, length))[1] != length
        ]
        streams = _random_streams()
        names += [name for name in streams if streams[name] != self._streams[name]]
        return names[0] if names else None

    def _changed(self) -> list[tuple["_Place", Any]]:
        """Where a value has changed since the last call of `mark`."""
        self._find()
        changed = []
        for place in self._places:
            for name in place.names:
                now = place.values[name]
                _, before = self._marked.get((id(place.owner), name), (place, now))
                if before is not now and before != now:
                    changed.append((place, name))
        return changed

    def _read(self) -> tuple[Any, ...]:
        return tuple([read(values) for read, values in self._readers])

    def _find(self) -> None:
        self._places, held, self._containers = _places(self.programs)
        # `type` asks nothing of an object, whose `__class__` may raise
        self._tensors = [
            (v, n, cast(torch.Tensor, t)) for v, n, t in held if issubclass(type(t), torch.Tensor)
        ]
        self._objects = [h for h in held if not issubclass(type(h[2]), torch.Tensor)]
        self._readers = [(itemgetter(*p.names), p.values) for p in self._places if p.names]
        self._growing = [p.values for p in self._places if p.grows]
        self._size = sum(map(len, self._growing))


class _ModuleTensors:
    """The buffers and tensor attributes of modules, with their values at one time.

    Left out are those that cannot be compared or written: lazy, sparse, on no device, of a subclass.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.slots: dict[tuple[int, str], tuple[Any, torch.Tensor]] = {}
        self.values: dict[int, torch.Tensor] = {}  # of each tensor once
        for module in modules:
            for slots in (tensor_slots(module)[1], vars(module)):
                for name, tensor in slots.items():
                    if _can_be_put_back(tensor):
                        self.slots[id(slots), name] = slots, tensor
                        if id(tensor) not in self.values:
                            self.values[id(tensor)] = tensor.detach().clone()

    def put_back(self, changed_since: "_ModuleTensors") -> None:
        """Where a tensor has changed since a later time: the one of this time, and its value."""
        for (place, name), (slots, tensor) in self.slots.items():
            _, later = changed_since.slots.get((place, name), (slots, None))
            now = slots.get(name)
            if later is None or not _can_be_put_back(now):
                continue
            if now is later and _equal(now, changed_since.values[id(later)]):
                continue
            value = self.values[id(tensor)]
            with suppress(RuntimeError), torch.no_grad():  # one that overlaps itself stays
                if tensor.shape != value.shape:
                    tensor.data = value
                elif not _equal(tensor, value):
                    tensor.copy_(value)
                slots[name] = tensor


def _can_be_put_back(value: object) -> bool:
    if type(value) not in (torch.Tensor, nn.Parameter):
        return False
    tensor = cast(torch.Tensor, value)
    ordinary = tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized
    return ordinary and not (tensor.is_meta or tensor.is_inference())


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether all values are equal; NaN is equal to itself."""
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    if torch.equal(a, b):
        return True
    return a.is_floating_point() and bool(((a == b) | (a.isnan() & b.isnan())).all())


class _Place(NamedTuple):
    """A container, and the names of the plain values in it: attributes, keys or indices.

    `owner` is what it is part of; a container that `grows` may get more values.
    """

    owner: object
    values: Any
    names: list[Any]
    grows: bool = True

    def label(self, name: Any) -> str:
        """A name for messages."""
        owner = self.owner
        if isinstance(owner, (dict, list, deque)):
            return f"the entry {name!r} of a {type(owner).__name__}"
        return f"{getattr(owner, '__name__', type(owner).__name__)}.{name}"


class _Entries:
    """A dict of a class of its own, whose missing entries are not made; as a container."""

    def __init__(self, entries: dict) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: object) -> Any:
        if name not in self.entries:
            raise KeyError(name)
        return dict.__getitem__(self.entries, name)  # of a missing one it would call `__missing__`

    def __setitem__(self, name: object, value: object) -> None:
        self.entries[name] = value


class _Bytes:
    """The values of an array as one, so that NaN is equal to itself; as a container."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __getitem__(self, name: str) -> bytes:
        return self.array.tobytes()


class _Slots:
    """The attributes of an object that are no entries of a dict, as a container."""

    def __init__(self, owner: object) -> None:
        self.owner = owner

    def __getitem__(self, name: str) -> Any:
        return getattr(self.owner, name)

    def __setitem__(self, name: str, value: object) -> None:
        setattr(self.owner, name, value)


class _Cells:
    """The variables that a function has closed over, as a container."""

    def __init__(self, function: types.FunctionType) -> None:
        names, cells = function.__code__.co_freevars, function.__closure__ or ()
        self.cells = {n: c for n, c in zip(names, cells, strict=True) if _is_filled(c)}

    def __getitem__(self, name: str) -> Any:
        return self.cells[name].cell_contents

    def __setitem__(self, name: str, value: object) -> None:
        self.cells[name].cell_contents = value


def _places(
    programs: Iterable[object],
) -> tuple[list[_Place], list[tuple[Any, Any, object]], list[Any]]:
    """Where programs hold plain values, and what else they hold there.

    Returns:
        `(places, others, containers)`: `others` are `(container, name, object)`; `containers` are the
        lists, deques, dicts and sets.
    """
    places: list[_Place] = []
    held: list[tuple[Any, Any, object]] = []
    seen: dict[int, object] = {}  # alive, or another object could have the id of one
    queue = deque((program, 0) for program in programs)
    num_objects = 0
    while queue and num_objects < MAX_OBJECTS:
        item, depth = queue.popleft()
        if id(item) in seen or depth > MAX_DEPTH:
            continue
        seen[id(item)] = item
        num_objects += not issubclass(type(item), nn.Module)
        try:
            found, others = _look_into(item)
            values = [[(n, place.values[n]) for n in place.names] for place in found]
        except Exception:  # whatever an object of a user does when it is asked
            continue
        for place, contents in zip(found, values, strict=True):
            places.append(place._replace(names=[n for n, v in contents if _is_plain(v)]))
            rest = [(place.values, n, v) for n, v in contents if not _is_plain(v)]
            held += rest
            others += [value for _, _, value in rest]
        # the parts of a module are as close as the module
        queue.extend((o, depth + (not issubclass(type(o), nn.Module))) for o in others)
    kinds = (list, deque, dict, set)
    containers = [item for item in seen.values() if issubclass(type(item), kinds)]
    return places, held, containers


def _are_same(a: list[object], b: list[object]) -> bool:
    return len(a) == len(b) and all(map(operator.is_, a, b))


def _lengths(containers: Iterable[Any]) -> dict[int, tuple[Any, int]]:
    """`{id: (container, length)}`; without a container of a user's class that has no length."""
    result = {}
    for container in containers:
        with suppress(Exception):
            result[id(container)] = container, len(container)
    return result


def _look_into(item: Any) -> tuple[list[_Place], list[object]]:
    """The places of an object, with the names of all that is in them; and what else it refers to."""
    if isinstance(item, nn.Module):
        names = [n for n in vars(item) if n not in MODULE_NAMES]
        return [_Place(item, vars(item), names)], [*item.children(), *type(item).__mro__]
    if isinstance(item, types.MethodType):
        return [], [item.__self__, item.__func__]
    if isinstance(item, functools.partial):
        return [], [item.func, item.keywords, *item.args]
    if isinstance(item, np.ndarray):
        is_looked_at = item.dtype.kind in "biufc" and item.size <= MAX_ENTRIES
        place = _Place(item, _Bytes(item), ["values"], grows=False)
        return [place] if is_looked_at else [], []
    if isinstance(item, (dict, list, deque)):
        if len(item) > MAX_ENTRIES:
            return [], []
        if isinstance(item, (list, deque)):
            return [_Place(item, item, [*range(len(item))])], []
        return [_Place(item, item if type(item) is dict else _Entries(item), [*item])], []
    if isinstance(item, tuple):
        return [], [*item]
    if isinstance(item, property):
        return [], [item.fget]
    if isinstance(item, (staticmethod, classmethod)):
        return [], [item.__func__]
    if isinstance(item, types.ModuleType):
        return _numbers_of(item), []
    known = item if isinstance(item, (type, types.FunctionType)) else type(item)
    is_objective = known is not item and is_bound(known)
    if str(known.__module__).split(".")[0] in LIBRARIES and not is_objective:
        return [], []
    if isinstance(item, types.FunctionType):
        return _places_of_function(item), []
    if isinstance(item, type):
        names = [n for n in vars(item) if not n.startswith("__")]
        return [_Place(item, vars(item), names, grows=False)], []
    places = []
    if hasattr(item, "__dict__"):
        scheduled = {*scheduled_names(item)} if is_objective else set()
        places = [_Place(item, vars(item), [n for n in vars(item) if n not in scheduled])]
    if slots := slots_of(item):
        places.append(_Place(item, _Slots(item), slots, grows=False))
    return places, [*type(item).__mro__] if places else []


def _places_of_function(function: types.FunctionType) -> list[_Place]:
    """The places of what a function reads: its closure, globals, defaults and attributes."""
    cells, attributes = _Cells(function), vars(function)
    read = [n for n in globals_of(function.__code__) if n in function.__globals__]
    defaults, by_name = function.__defaults__ or (), function.__kwdefaults__ or {}
    holders = [
        (cells, cells.cells),
        (function.__globals__, read),
        (defaults, range(len(defaults))),
        (by_name, by_name),
    ]
    places = [_Place(function, values, [*names], grows=False) for values, names in holders]
    return [*places, _Place(function, attributes, [*attributes])]


def _numbers_of(module: types.ModuleType) -> list[_Place]:
    """The plain values of a user's module of settings."""
    if module.__name__.split(".")[0] in (*LIBRARIES, *sys.stdlib_module_names):
        return []
    names = [n for n, v in vars(module).items() if not n.startswith("__") and _is_plain(v)]
    return [_Place(module, vars(module), names, grows=False)] if len(names) <= MAX_ENTRIES else []


def is_bound(kind: object) -> bool:
    """Whether a class is that of an objective, of this library, of Pyro, or of a user."""
    return hasattr(kind, "differentiable_loss")


def scheduled_names(objective: object) -> Iterable[str]:
    """The attributes that training changes; an objective of a user may be no `Objective`."""
    scheduled = getattr(objective, "scheduled_attributes", None)
    return scheduled() if scheduled else ("epoch", *getattr(objective, "schedule_values", dict)())


def slots_of(item: object) -> list[str]:
    """The attributes of an object that are no entries of a dict, and are set."""
    slots = [vars(c).get("__slots__", ()) for c in type(item).__mro__]
    names = [n for each in slots for n in ([each] if isinstance(each, str) else each)]
    return [n for n in names if n not in ("__dict__", "__weakref__") and hasattr(item, n)]


def globals_of(code: types.CodeType) -> set[str]:
    """The globals that a function's code reads, in the functions within it too."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    return names.union(*(globals_of(c) for c in code.co_consts if isinstance(c, types.CodeType)))


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not _Cells
    except ValueError:  # a name that is not bound yet
        return False


def _is_plain(value: object) -> bool:
    kind = type(value)  # it asks nothing of an object, whose `__class__` may raise
    if issubclass(kind, tuple):
        return all(map(_is_plain, value))  # type: ignore[call-overload]
    if not issubclass(kind, PLAIN):
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _random_streams() -> dict[str, object]:
    """The states of the global random streams of Python and numpy, for comparison."""
    kind, keys, *rest = np.random.get_state()
    return {
        "the random stream of Python": random.getstate(),
        "the random stream of numpy": (kind, np.asarray(keys).tobytes(), *rest),
    }
