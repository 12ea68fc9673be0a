"""The plan of a comparison: which cells there are, and how each one's model and guide are built."""

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch.nn as nn
from pyro.infer.autoguide import AutoGuide

from .. import __version__
from ..data import Data
from ..errors import UserError
from ..evaluate.inputs import Inputs, split_inputs
from ..guides import Guide
from ..objectives import ELBO
from ..programs.calling import is_required, parameters_of
from ..programs.contexts import seeded
from ..programs.identity import identity
from ..programs.inspection import has_rows, samples_by_itself
from ..programs.interfaces import ModelInterface, interface_of

PER_DATUM_HINT = (  # a remedy, as error messages have it
    "a guide with parameters for each data point needs them by index, as "
    "pv.guides.PerDatumAutoGuide has them"
)
FORMAT = 6  # of what a cell's folder holds

PyroProgram = Callable[..., Any]  # whatever it returns; a module, too
ModelFactory = Callable[[], PyroProgram]
GuideFactory = Callable[..., PyroProgram]  # of the model, and of num_data if it takes that
FitOptions = dict[str, Any]  # keyword arguments of `fit`


@dataclass(frozen=True)
class Cell:
    """The names of one cell."""

    model: str
    guide: str
    objective: str
    seed: int


@dataclass
class Plan:
    """The arguments of `compare`, checked; worker processes receive a copy."""

    models: dict[str, ModelFactory | nn.Module]
    guides: dict[str, tuple[GuideFactory, FitOptions]]
    objectives: dict[str, ELBO]
    data: Data
    split: str
    share_model: bool
    base_guide: tuple[GuideFactory, FitOptions] | None  # trains a shared model; None: its default
    fit_options: FitOptions
    num_samples: int
    num_gap_data: int
    gap_options: dict[str, Any]
    out: Path = Path()
    cells: list[Cell] = field(default_factory=list)  # in the order of the table

    @property
    def groups(self) -> list[tuple[str, int]]:
        """`(model, seed)`: the cells of a group can share a model, and run in one process."""
        return list(dict.fromkeys((cell.model, cell.seed) for cell in self.cells))

    def build_model(self, name: str) -> PyroProgram:
        """A separate model: a new one, or a copy of the module that the user passed."""
        factory = self.models[name]
        if isinstance(factory, nn.Module):
            return copy.deepcopy(factory)
        hint = f"a model that is itself a function is passed as {{{name!r}: lambda: my_model}}"
        try:
            inspect.signature(factory).bind()
        except TypeError as e:
            raise UserError(
                f"the model {name!r} must be a function without arguments that makes it ({e}); {hint}"
            ) from None
        except ValueError:  # a callable without a signature
            pass
        model = factory()
        if not callable(model):
            raise UserError(
                f"the model {name!r} must be a function that makes the model, but it returned "
                f"{type(model).__name__}; {hint}"
            )
        return model

    def build_guide(
        self, name: str, model: PyroProgram, num_data: int | None = None
    ) -> PyroProgram:
        """A guide by its name, for `num_data` data points. Default: the training data."""
        factory, _ = self.guides[name]
        return self.make_guide(factory, model, num_data)

    def make_guide(
        self, factory: GuideFactory, model: PyroProgram, num_data: int | None = None
    ) -> PyroProgram:
        """A guide for `num_data` data points. Default: the training data."""
        num_data = len(self.data.train) if num_data is None else num_data
        return make_guide(factory, model, num_data, partial(self._example, model))

    def _example(self, model: PyroProgram) -> Inputs:
        """Two rows of the training data, as the model takes them."""
        observed = self.fit_options.get("observed")
        inputs = split_inputs(model, model, self.data, "train", observed, rows=slice(2))
        arrays = self.data.observed_split("train", slice(2)).arrays()
        parameters = parameters_of(model)
        needed = {n: v for n, v in arrays.items() if n in parameters and is_required(parameters[n])}
        return needed | {n: v for n, v in inputs.items() if n == "x" or n in parameters}

    def build_pair(self, cell: Cell) -> tuple[PyroProgram, PyroProgram]:
        """A cell's separate model and its guide, with weights drawn by the cell's seed."""
        with seeded(cell.seed):
            model = self.build_model(cell.model)
            return model, self.build_guide(cell.guide, model)

    @functools.cached_property
    def _identity_of_data(self) -> str:
        return identity(self.data)

    def folder(self, name: str, settings: dict[str, Any], *programs: PyroProgram) -> Path:
        """The folder for these settings: other settings, programs or data have another folder.

        Args:
            name: begins the folder's name; another one has another folder, too.
            settings: of the training and evaluation.
            programs: as they are before it.
        """
        facts = (FORMAT, __version__, name, settings, self._identity_of_data, *programs)
        digest = identity(*facts)[:16]
        safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        return self.out / "cells" / f"{safe}-{digest}"


def make_guide(
    factory: GuideFactory, model: PyroProgram, num_data: int, example: Callable[[], Inputs]
) -> PyroProgram:
    """The factory's guide for a model.

    It receives the number of data points if it takes `num_data`, and a `Guide` that needs it an
    example of the data.

    Raises:
        UserError: the factory is itself a guide, fails, or makes a plain AutoGuide of Pyro.
    """
    arguments: dict[str, Any] = {"num_data": num_data} if _takes_num_data(factory, model) else {}
    kind, keywords = _called(factory)
    if _is_guide(kind) and "example" not in keywords and not samples_by_itself(model):
        arguments["example"] = example()
    hint = "a guide that is itself a function is passed as `lambda model: my_guide`"
    try:
        guide = factory(model, **arguments)
    except UserError:
        raise
    except Exception as e:  # a program that is called with the model can fail in many ways
        reason = f"{type(e).__name__}: {' '.join(str(e).split())}"[:160]
        raise UserError(f"a guide could not be made for the model ({reason}); {hint}") from e
    if not callable(guide):
        raise UserError(
            "a guide must be made by a function of the model, but this function returned "
            f"{type(guide).__name__}; {hint}"
        )
    if isinstance(guide, AutoGuide):
        kind = type(guide).__name__
        raise UserError(
            f"{kind}(model) has parameters for one data set in one order: pass `lambda model, "
            f"num_data: pv.guides.PerDatumAutoGuide({kind}, model, num_data=num_data)`"
        )
    return guide


def default_guide(model: PyroProgram) -> Guide:
    """The model's default guide, which trains a shared model if no other is named."""
    if interface_of(model, ModelInterface).default_guide is None:
        raise UserError(
            "the model has no default guide to be trained with: base_guide= names one of yours"
        )
    return Guide(model)


def _takes_num_data(factory: GuideFactory, model: PyroProgram) -> bool:
    """Whether a factory is called with the number of data points: `Guide` is if it has rows of them."""
    if "num_data" not in inspect.signature(factory).parameters:
        return False
    kind, keywords = _called(factory)
    if not _is_guide(kind):
        return True
    given = keywords.get("given", interface_of(model, ModelInterface).default_guide)
    return has_rows(given or {})


def _called(factory: GuideFactory) -> tuple[Any, dict[str, Any]]:
    """What a factory calls, and the keyword arguments that it has already."""
    return (factory.func, factory.keywords) if isinstance(factory, partial) else (factory, {})


def _is_guide(kind: Any) -> bool:
    """Whether what a factory calls is the class `Guide`, or one derived from it."""
    return isinstance(kind, type) and issubclass(kind, Guide)
