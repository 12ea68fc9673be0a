"""The `nn.Module`s behind programs, and where and in what dtype they compute."""

import functools
import types
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn as nn


def find_modules(*programs: object) -> list[nn.Module]:
    """The `nn.Module`s behind programs, each once.

    That is a program itself, the owner of a method, and what a function refers to by name.
    """
    modules: dict[int, nn.Module] = {}
    seen: set[int] = set()
    queue: list[Any] = list(programs)
    while queue:
        item = queue.pop(0)
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            modules[id(item)] = item
        elif isinstance(item, types.MethodType):
            owner = item.__self__
            queue += (
                [owner]
                if isinstance(owner, nn.Module)
                else _modules_in(getattr(owner, "__dict__", {}).values())
            )
            queue.append(item.__func__)
        elif isinstance(item, functools.partial):
            queue += [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, types.FunctionType):
            for cell in item.__closure__ or ():
                try:
                    queue.append(cell.cell_contents)
                except ValueError:  # a name that is not bound yet
                    pass
            queue += _modules_in(item.__globals__.get(n) for n in item.__code__.co_names)
    return list(modules.values())


def _modules_in(values: Iterable[object]) -> list[nn.Module]:
    return [v for v in values if isinstance(v, nn.Module)]


def device_of(*programs: object, default: str | torch.device = "cpu") -> torch.device:
    """Where the first parameter or buffer of the programs lives."""
    for module in find_modules(*programs):
        for tensor in [*module.parameters(), *module.buffers()]:
            return tensor.device
    return torch.device(default)


def pair_device(*programs: object, batch: Mapping[str, Any] | None = None) -> torch.device:
    """Where programs compute: at their parameters, or without any at the first tensor of a batch."""
    tensors = [value for value in (batch or {}).values() if isinstance(value, torch.Tensor)]
    return device_of(*programs, default=tensors[0].device if tensors else "cpu")


def dtype_of(*programs: object) -> torch.dtype | None:
    """The dtype that programs compute in, their first floating-point parameter's; None without one."""
    for module in find_modules(*programs):
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                return tensor.dtype
    return None
