"""How a program is called: with a batch by keywords, of which it takes those that it names."""

import functools
import inspect
import itertools
import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from pyro.contrib.easyguide import EasyGuide
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import nn

from .._pyro_internals import BoundPartial
from ..errors import UserError
from .interfaces import WrapperInterface, interface_of


def as_keyword_program(program: Callable) -> Callable:
    """The program as a function of a batch by keywords, which ignores those that it does not take."""
    parameters = parameters_of(program).values()
    names = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    def call(*args: Any, **batch: Any) -> Any:
        x = args[0] if args else batch.get("x")
        extra = {k: v for k, v in batch.items() if k in names and k != "x"}
        if "x" in names or x is None:
            return program(**({"x": x} if "x" in names else {}), **extra)
        return program(x, **extra)

    return as_wrapper(call, program, arguments=parameters_of(program))


def check_program(kind: str, program: object) -> None:
    """Raise unless a program can be called with data; a class has not been built."""
    if not callable(program) or isinstance(program, type):
        what = program.__name__ if isinstance(program, type) else f"a {type(program).__name__}"
        raise UserError(f"the {kind} must be a Pyro program, a module or a function, not {what}")


def as_wrapper(
    wrapper: Callable,
    program: Callable,
    tag: str = "",
    arguments: Mapping[str, inspect.Parameter] | None = None,
) -> Callable:
    """`wrapper`, marked as a wrapper of `program`: see `WrapperInterface`.

    Args:
        tag: what the wrapper changes of the program; `""`: nothing.
        arguments: what the wrapper takes, if its signature does not say so.
    """
    setattr(wrapper, "stands_for", (program, tag))  # noqa: B010, a function declares no attributes
    if arguments is not None:
        setattr(wrapper, "program_arguments", arguments)  # noqa: B010
    return wrapper


def as_batch(program: Callable, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call as a batch `{name: value}`; the first one is x, whatever its name."""
    names = list(parameters_of(program))
    batch = {**dict(zip(names, args, strict=False)), **kwargs}
    if "x" not in batch and names and names[0] in batch:
        batch["x"] = batch.pop(names[0])
    return batch


def parameters_of(program: Any) -> dict[str, inspect.Parameter]:
    """`{name: parameter}` of a program's arguments; Pyro's own guides take those of their model."""
    bound = 0
    while (parameters := interface_of(program, WrapperInterface).program_arguments) is None:
        if isinstance(program, (AutoGuide, EasyGuide)):
            program = program.model
        elif isinstance(program, nn.Module):
            program = program.forward
        # Pyro's handlers hide what they wrap: a function, a module, or its method where it is defined
        elif isinstance(program, BoundPartial):
            program = program.func
        elif _is_in_handler(program):
            bound += len(program.args) - 2
            program = program.args[1]
        elif isinstance(inspect.getattr_static(type(program), "__call__", None), BoundPartial):
            program = program.__call__
        else:
            parameters = signature_of(program)
            break
    return dict(itertools.islice(parameters.items(), bound, None))


def name_of(program: Any) -> str:
    """What people call a program: a function's name, and of anything else that of its class.

    Example:
        >>> import pyro
        >>> from pyro_vae.programs.calling import name_of
        >>> def my_model(x): ...
        >>> name_of(pyro.poutine.scale(my_model, 0.5))
        'my_model'
    """
    if isinstance(program, BoundPartial):
        return name_of(program.func)
    if _is_in_handler(program):
        return name_of(program.args[1])
    if isinstance(program, functools.partial):
        return name_of(program.func)
    is_function = isinstance(program, types.FunctionType | types.MethodType)
    return program.__name__ if is_function else type(program).__name__


def _is_in_handler(program: object) -> bool:
    """Whether a program is what a handler of Pyro makes: a call of the handler and a function."""
    if not isinstance(program, functools.partial):
        return False
    return len(program.args) > 1 and isinstance(program.args[0], Messenger)


_signatures: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def signature_of(function: Callable) -> Mapping[str, inspect.Parameter]:
    """`{name: parameter}` of a function or method, remembered: `inspect` takes as long as a small layer.

    Example:
        >>> from pyro_vae.programs.calling import signature_of
        >>> list(signature_of("a".join))
        ['iterable']
    """
    plain = function.__func__ if isinstance(function, types.MethodType) else function
    if not isinstance(plain, types.FunctionType):
        return inspect.signature(function).parameters
    if plain not in _signatures:
        _signatures[plain] = inspect.signature(plain).parameters
    parameters: Mapping[str, inspect.Parameter] = _signatures[plain]
    if plain is function:
        return parameters
    first = next(iter(parameters.values()), None)
    if first is None or first.kind is first.VAR_POSITIONAL:
        return parameters
    return dict(itertools.islice(parameters.items(), 1, None))


def accepts_argument(program: object, name: str) -> bool:
    """Whether a program's signature names `name`."""
    return name in parameters_of(program)


def is_required(parameter: inspect.Parameter) -> bool:
    """Whether a call must pass this parameter."""
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic


def first_argument(program: object) -> str:
    """The name of the argument that takes x: `x`, else the first one."""
    names = parameters_of(program)
    return "x" if "x" in names else next(iter(names), "x")
