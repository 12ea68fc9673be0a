"""What the library asks of a model, a guide and a wrapper of either: names, types and defaults.

The library's classes inherit these interfaces, and are asked directly. A user's program (a function,
any `nn.Module`, a Pyro AutoGuide) need not inherit anything: `interface_of` reads what it declares
under the same names, and fills in the defaults.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch.nn as nn


class WrapperInterface:
    """What is asked of any program, and answered by those that wrap another one.

    Attributes:
        stands_for: `(program, tag)`: the program that this one wraps, and what the wrapper changes
            (`""`: nothing). The layout of a pair is remembered by it: see `programs.layout`. Default:
            None, no wrapper.
        program_arguments: `{name: parameter}`, the arguments of `forward` where its signature does
            not list them. Default: None, the signature lists them.
    """

    stands_for: tuple[object, str] | None = None
    program_arguments: Mapping[str, inspect.Parameter] | None = None


class ModelInterface:
    """What is asked of a model. `models.Model` documents the attributes."""

    observes: tuple[str, ...] = ("x",)
    covariates: Mapping[str, tuple[int, ...]] = {}
    class_covariates: tuple[str, ...] = ()
    prior_latent: str = "z"
    style_latent: str | None = None
    default_guide: Mapping[str, Sequence[str]] | None = None
    ignores_missing: bool = False

    def check_trainable(self) -> None:
        """Raise a `UserError` if the model must not be trained yet. `fit` calls it first."""


class GuideInterface:
    """What is asked of a guide. `guides.BaseGuide` documents the attributes."""

    given: Mapping[str, Sequence[str]] = {}
    input_scaling: Mapping[str, tuple] = {}
    borrowed: tuple[Callable[..., Any], ...] = ()


Interface = TypeVar("Interface", WrapperInterface, ModelInterface, GuideInterface)


def interface_of(program: object, interface: type[Interface]) -> Interface:
    """The answers of any program to one of the interfaces.

    Args:
        program: one of the library's programs, or a user-defined one.
        interface: `WrapperInterface`, `ModelInterface` or `GuideInterface`.

    Returns:
        The program itself, if it inherits the interface. Otherwise an object that has what the
        program declares under the interface's names, and the defaults for the rest.

    Example:
        >>> from pyro_vae.programs.interfaces import ModelInterface, interface_of
        >>> def model(x): ...
        >>> interface_of(model, ModelInterface).observes
        ('x',)
        >>> model.observes = ("x", "c")
        >>> interface_of(model, ModelInterface).observes
        ('x', 'c')
    """
    if isinstance(program, interface):
        return program
    answers = interface()
    for name in vars(interface):
        if not name.startswith("_") and hasattr(program, name):
            setattr(answers, name, getattr(program, name))
    return answers


def conditional_of(model: object, name: str) -> nn.Module | None:
    """The module `p_<name>` of a model, the distribution of `name` given its parents; None without one."""
    module = getattr(model, f"p_{name}", None)
    return module if isinstance(module, nn.Module) else None
