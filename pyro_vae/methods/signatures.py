"""The parameters that classes and functions declare. This module does not import torch."""

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Any


def parameters(target: Callable[..., object], skip: Collection[str] = ()) -> dict[str, Any]:
    """`{parameter: default}` of a class or function.

    Parameters that a class passes on to its bases by `**options` are included.

    Example:
        >>> from pyro_vae.methods.signatures import parameters
        >>> def draw(num, seed=0): ...
        >>> parameters(draw, skip={"num"})
        {'seed': 0}

    Args:
        target: the class or function.
        skip: parameters to leave out.
    """
    return {n: default for n, default in _signature(target).items() if n not in skip}


@functools.cache
def _signature(target: Callable[..., object]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for owner in target.__mro__ if isinstance(target, type) else (target,):
        function = owner.__dict__.get("__init__") if isinstance(owner, type) else owner
        if function is None:
            continue
        declared = list(inspect.signature(function).parameters.values())
        named = (p for p in declared if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        result = {**{p.name: p.default for p in named if p.name != "self"}, **result}
        if not any(p.kind is p.VAR_KEYWORD for p in declared):
            break
    return result
