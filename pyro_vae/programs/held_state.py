"""What programs hold besides numbers and can change: lists, dicts, sets, deques, tensors, generators.

A trial run of a program may change them, and is no training step: they are put back.
"""

import random
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.parameter import is_lazy

CONTAINERS = (list, dict, set, deque)
MAX_KEPT = 2**20  # entries of a container, or values of a tensor, that are copied


class OwnedTensor(NamedTuple):
    """A tensor that is neither a parameter nor a buffer, and where a program holds it."""

    owner: object
    values: Any  #: a mapping or sequence of what the owner holds
    name: Any
    tensor: torch.Tensor

    @property
    def key(self) -> tuple[int, Any]:
        """The place, whatever is there."""
        return id(self.owner), self.name


class HeldState:
    """The contents of containers, and the tensors that programs hold, at one moment.

    Not seen are containers of more than `MAX_KEPT` entries, and a write in place to a plain tensor of
    more values; a tensor that is replaced is put back whatever its size.

    Args:
        containers: lists, dicts, sets and deques.
        tensors: those that are neither parameters nor buffers.
        module_tensors: parameters and buffers, whose `.data` may be replaced.
    """

    def __init__(
        self,
        containers: Iterable[Any],
        tensors: Iterable[OwnedTensor],
        module_tensors: Iterable[torch.Tensor],
    ) -> None:
        self.contents = {id(c): (c, _entries(c)) for c in containers if len(c) <= MAX_KEPT}
        self.tensors = {
            place.key: (place, _Value(place.tensor))
            for place in tensors
            if _has_memory(place.tensor)
        }
        self.memory = {id(t): (t, t.data) for t in module_tensors if _has_memory(t)}

    def grown(self) -> list[str]:
        """Names of the containers that have other entries, for messages.

        A list, dict or set counts if its length is another: one that keeps the last activations by
        name has them replaced at each run, to no effect.
        """
        return [
            f"the length of a {type(c).__name__}" if len(c) != _length(c, entries)
            else f"the entries of a {type(c).__name__}"
            for c, entries in self.contents.values()
            if len(c) != _length(c, entries) or (isinstance(c, deque) and _differ(entries, _entries(c)))
        ]  # fmt: skip

    def changed(self, tensors: Iterable[OwnedTensor]) -> set[Any]:
        """The keys of what has changed; `tensors` are those that programs hold now."""
        keys: set[Any] = {k for k, (c, e) in self.contents.items() if _differ(e, _entries(c))}
        for place in tensors:
            known = self.tensors.get(place.key)
            if known is not None and known[1].differs(place.tensor):
                keys.add(place.key)
        return keys | {k for k, (t, data) in self.memory.items() if _is_elsewhere(t, data)}

    def restore(self, keys: Iterable[Any]) -> None:
        """Put back what has changed and was there at this moment."""
        for key in keys:
            try:
                if key in self.contents:
                    _refill(*self.contents[key])
                elif key in self.tensors:
                    place, value = self.tensors[key]
                    if place.values[place.name] is not place.tensor:
                        place.values[place.name] = place.tensor
                    value.restore()
                elif key in self.memory:
                    tensor, data = self.memory[key]
                    tensor.data = data
            except Exception:  # a container of a user's class, or a class, that takes no value
                continue


class GeneratorStates:
    """The states of random generators of torch, numpy and Python among some objects."""

    def __init__(self, objects: Iterable[object]) -> None:
        # `type` asks nothing of an object, whose `__class__` may raise
        found: list[Any] = [*{id(o): o for o in objects}.values()]
        self.torch = [(g, g.get_state()) for g in found if issubclass(type(g), torch.Generator)]
        self.numpy = [
            (g.bit_generator, g.bit_generator.state)
            for g in found
            if issubclass(type(g), np.random.Generator)
        ]
        self.python = [(g, g.getstate()) for g in found if issubclass(type(g), random.Random)]

    def restore(self) -> None:
        """Put every generator back."""
        for generator, state in self.torch:
            generator.set_state(state)
        for bits, words in self.numpy:
            bits.state = words
        for stream, numbers in self.python:
            stream.setstate(numbers)


class _Value:
    """A tensor, its memory, and a copy of its values if they are not too many."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.data = tensor, tensor.data
        self.copy = tensor.detach().clone() if tensor.numel() <= MAX_KEPT else None

    def differs(self, now: torch.Tensor) -> bool:
        if now is not self.tensor or _is_elsewhere(now, self.data):
            return True
        return self.copy is not None and not torch.equal(self.copy, now.detach())

    @torch.no_grad()
    def restore(self) -> None:
        if _is_elsewhere(self.tensor, self.data):
            self.tensor.data = self.data
        if self.copy is not None and not torch.equal(self.copy, self.tensor):
            self.tensor.copy_(self.copy)


def _has_memory(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and not is_lazy(tensor)


def _is_elsewhere(tensor: torch.Tensor, data: torch.Tensor) -> bool:
    return tensor.data_ptr() != data.data_ptr() or tensor.shape != data.shape


def _entries(container: Any) -> list[Any]:
    """What is in a container; of a dict its keys, and then its values."""
    if isinstance(container, dict):
        return [*container.keys(), *container.values()]
    return [*container]


def _length(container: Any, entries: Sequence[Any]) -> int:
    return len(entries) // 2 if isinstance(container, dict) else len(entries)


def _differ(before: Sequence[Any], now: Sequence[Any]) -> bool:
    plain = (bool, int, float, complex, str, bytes)
    return len(before) != len(now) or any(
        a is not b and not (type(a) is type(b) and type(a) in plain and a == b)
        for a, b in zip(before, now, strict=True)
    )


def _refill(container: Any, entries: Sequence[Any]) -> None:
    """Give a container the entries that it had."""
    if isinstance(container, dict):
        size = len(entries) // 2
        old = dict(zip(entries[:size], entries[size:], strict=True))
        for key in [k for k in container if k not in old]:
            del container[key]
        for key, value in old.items():
            if key not in container or container[key] is not value:
                container[key] = value
    elif isinstance(container, list):
        container[:] = entries
    else:
        container.clear()
        (container.extend if isinstance(container, deque) else container.update)(entries)
