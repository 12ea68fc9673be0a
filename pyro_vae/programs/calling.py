"""How a program is called: with a whole batch by keywords, of which it takes what it names."""

import functools
import inspect
import itertools

from pyro.contrib.easyguide import EasyGuide
from pyro.infer.autoguide import AutoGuide
from pyro.poutine.messenger import Messenger
from torch import nn

from .._pyro_internals import BoundPartial
from .interfaces import WrapperInterface, interface_of


def as_keyword_program(program):
    """`program`, as a function of a whole batch by keywords that ignores what it does not take."""
    parameters = parameters_of(program).values()
    names = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    def call(*args, **batch):
        x = args[0] if args else batch.get("x")
        extra = {k: v for k, v in batch.items() if k in names and k != "x"}
        if "x" in names or x is None:
            return program(**({"x": x} if "x" in names else {}), **extra)
        return program(x, **extra)

    call.stands_for = program, ""  # see `programs.layout`
    call.program_arguments = parameters_of(program)
    return call


def as_batch(program, args, kwargs):
    """What a program is called with, as a batch: its first argument is x, whatever it is called."""
    names = list(parameters_of(program))
    batch = {**dict(zip(names, args, strict=False)), **kwargs}
    if "x" not in batch and names and names[0] in batch:
        batch["x"] = batch.pop(names[0])
    return batch


def parameters_of(program):
    """`{name: parameter}` of what a program's forward takes; Pyro's own guides take what the model does."""
    if isinstance(program, (AutoGuide, EasyGuide)):
        return parameters_of(program.model)
    bound = 0
    while isinstance(program, functools.partial):  # Pyro's handlers hide what they wrap
        if isinstance(program, BoundPartial):
            program = program.func
        elif len(program.args) > 1 and isinstance(program.args[0], Messenger):
            bound += len(program.args) - 2
            program = program.args[1]
        else:
            break
    parameters = interface_of(program, WrapperInterface).program_arguments
    if parameters is None:
        function = program.forward if isinstance(program, nn.Module) else program
        parameters = inspect.signature(function).parameters
    return dict(itertools.islice(parameters.items(), bound, None))


def accepts_argument(program, name):
    """Whether a program's signature names `name`."""
    return name in parameters_of(program)


def first_argument(program):
    """The name of the argument that takes x: `x`, else the first one."""
    names = parameters_of(program)
    return "x" if "x" in names else next(iter(names), "x")
