"""One cell of a comparison: a pair that is trained, evaluated and written to its folder."""

import copy
import dataclasses
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from ..data import Data
from ..diagnostics.gaps import annealed_bound
from ..errors import UserError
from ..evaluate.inputs import pair_inputs
from ..objectives import ELBO
from ..programs.contexts import seeded
from ..programs.inspection import is_per_datum
from ..train import Run, checkpoint, fit
from .evaluation import (
    CellResult,
    EvaluationOptions,
    Inputs,
    count_guide_parameters,
    evaluate_pair,
    freeze,
    has_parameters,
    model_inputs,
    posteriors_of_first,
    x_and_inputs,
)
from .plan import Cell, FitOptions, Plan, PyroProgram, default_guide

#: How a guide's rows are fitted to the data that are evaluated. Its own options take precedence.
PER_DATUM_FIT = {"lr": 0.03, "schedule": "cosine", "epochs": 500, "weight_decay": 0.0}

OnStage = Callable[[str], None]  # receives "training", "evaluation", "gaps 40 %", ...


class SharedModel:
    """A model trained once and then frozen, and the cells of all guides on it."""

    def __init__(self, plan: Plan, name: str, seed: int, cells: list[Cell]) -> None:
        self.plan, self.seed = plan, seed
        self.annealed: tuple[torch.Tensor, torch.Tensor] | None = None
        self.guide: PyroProgram | None = None  # trains the model
        factory, options = plan.base_guide or (default_guide, {})
        self.options = {**plan.fit_options, **options}
        with seeded(seed):
            self.model = plan.build_model(name)
            given = plan.models[name]
            self.programs: list[PyroProgram] = [self.model]  # what its training changes
            trainable = not isinstance(given, nn.Module) and self._is_trainable()
            # a function such as `lambda: my_model` returns one and the same program
            same_program = isinstance(given, nn.Module) or given() is self.model
            self.same_for_all_seeds = same_program and not trainable
            if trainable:
                self.guide = plan.make_guide(factory, self.model)
                self.programs.append(self.guide)
        settings = {"options": self.options}
        self.folder = plan.folder(f"{name}-base-{seed}", settings, *self.programs)
        self.cells = {}
        for cell in cells:
            with seeded(seed):
                guide = plan.build_guide(cell.guide, self.model)
            self.cells[cell] = CellRun(plan, cell, self.model, guide, self)

    def _inputs(self) -> tuple[torch.Tensor, Inputs]:
        observed_names = self.plan.fit_options.get("observed")
        inputs = x_and_inputs(self.model, self.model, self.plan.data, "train", observed_names)
        return inputs[0], model_inputs(self.model, inputs[1])

    def _is_trainable(self) -> bool:
        x, others = self._inputs()
        return has_parameters({"x": x, **others}, model=self.model)

    def train(self) -> None:
        """Train the model, unless the user passed a module or it has no parameters; freeze it."""
        if self.guide is not None:
            train_pair(
                self.model, self.guide, self.plan.data, self.seed, self.folder, None, self.options
            )
        freeze(self.model, pair_inputs(self.model, *self._inputs()))

    def annealed_bound(
        self, x: torch.Tensor, others: Inputs
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """`(AIS's bound, standard error)` of the data that gaps are computed for, run once.

        None if `gap_options` leave AIS out.
        """
        annealing = self.plan.gap_options.get("annealing")
        if self.annealed is None and annealing is not False:
            arguments = {**(annealing or {}), **model_inputs(self.model, others)}
            self.annealed = annealed_bound(self.model, x, **arguments)
        return self.annealed


class CellRun:
    """One cell's pair, and the folder that it trains in."""

    def __init__(
        self,
        plan: Plan,
        cell: Cell,
        model: PyroProgram,
        guide: PyroProgram,
        shared: SharedModel | None = None,
    ) -> None:
        self.plan, self.cell, self.model, self.guide, self.shared = plan, cell, model, guide, shared
        _, guide_options = plan.guides[cell.guide]
        self.options: FitOptions = {**plan.fit_options, **guide_options}
        if shared is not None:  # its initialization would change the model too
            self.options.pop("initialize", None)
        settings = {
            "base": shared and shared.folder.name,
            "options": self.options,
            "objective": plan.objectives[cell.objective],
            "evaluated": [plan.split, plan.num_samples, plan.num_gap_data, plan.gap_options],
        }
        name = f"{cell.model}-{cell.guide}-{cell.objective}-{cell.seed}"
        self.folder = plan.folder(name, settings, model, guide)

    @property
    def done(self) -> bool:
        """Whether the folder holds the cell's result."""
        return (self.folder / "row.json").exists()

    def run(self, on_stage: OnStage) -> None:
        """Train, evaluate, and write the result."""
        on_stage("training")
        guides, runs = self._train()
        guide = guides[self.plan.split]
        on_stage("evaluation")
        x, others = self._inputs(guide, "train")
        row = {
            **dataclasses.asdict(self.cell),
            "parameters": count_guide_parameters(self.model, guide, x, others),
            **training_numbers(runs),
        }
        options = EvaluationOptions(
            self.plan.split, self.plan.num_samples, self.plan.num_gap_data, self.plan.gap_options,
            self.options.get("observed"), self.cell.seed,
        )  # fmt: skip
        numbers, per_datum = evaluate_pair(
            self.model, guide, self.plan.data, options, guides.get("valid"),
            None if self.shared is None else self.shared.annealed_bound,
            lambda fraction: on_stage(f"gaps {100 * fraction:.0f} %"),
        )  # fmt: skip
        posteriors = self._posteriors(guide)
        self.folder.mkdir(parents=True, exist_ok=True)
        if posteriors is not None:
            checkpoint.save_tensors(self.folder / "grid.pt", posteriors)
        same_model = self.shared is not None and self.shared.same_for_all_seeds
        CellResult(row | numbers, per_datum, same_model).write(self.folder / "row.json")

    def _posteriors(self, guide: PyroProgram) -> dict[str, Any] | None:
        """The posterior grids, if there are any; where they fail, a warning: the table is complete."""
        try:
            first = self._inputs(guide, self.plan.split)
            return posteriors_of_first(self.model, guide, self.plan.data, *first)
        except Exception as error:  # any kind, from a user's program
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            reason = kind + " ".join(str(error).split())
            warnings.warn(
                f"the posteriors of guide {self.cell.guide!r} are not drawn: {reason}", stacklevel=2
            )
            return None

    def _train(self) -> tuple[dict[str, PyroProgram], list[Run]]:
        """`({split: its trained guide}, the runs)`."""
        guides: dict[str, PyroProgram] = {}
        runs: list[Run] = []
        # a per-data-point guide of a shared model is only fitted to the evaluated data, below
        if not (self.shared is not None and is_per_datum(self.guide)) and self._is_trainable():
            runs.append(self._fit(self.guide, self.plan.data, self.folder, self.options))
        for split in dict.fromkeys(("valid", self.plan.split)):
            if getattr(self.plan.data, split) is not None:
                guides[split] = self.guide
                if is_per_datum(self.guide):
                    guides[split], run = self._fit_per_datum(split)
                    runs.append(run)
        return guides, runs

    def _is_trainable(self) -> bool:
        x, others = self._inputs(self.guide, "train")
        return has_parameters({"x": x, **others}, model=self.model, guide=self.guide)

    def _inputs(self, guide: PyroProgram, split: str) -> tuple[torch.Tensor, Inputs]:
        return x_and_inputs(self.model, guide, self.plan.data, split, self.options.get("observed"))

    def _fit(self, guide: PyroProgram, data: Data, folder: Path, options: FitOptions) -> Run:
        objective = self.plan.objectives[self.cell.objective]
        return train_pair(self.model, guide, data, self.cell.seed, folder, objective, options)

    def _fit_per_datum(self, split: str) -> tuple[PyroProgram, Run]:
        """A guide with one row per data point, fitted to the data of a split, the model fixed."""
        part = self.plan.data.observed_split(split)
        data = dataclasses.replace(
            self.plan.data, train=part, valid=None, test=None, binarize="none", condition=None
        )
        with seeded(self.cell.seed):
            guide = self.plan.build_guide(self.cell.guide, self.model, len(part))
        x, others = x_and_inputs(self.model, guide, data, "train", self.options.get("observed"))
        freeze(self.model, pair_inputs(self.model, x, model_inputs(self.model, others)))
        _, guide_options = self.plan.guides[self.cell.guide]
        options = {**self.options, **PER_DATUM_FIT, **guide_options, "initialize": None}
        return guide, self._fit(guide, data, self.folder / split, options)


def train_pair(
    model: PyroProgram,
    guide: PyroProgram,
    data: Data,
    seed: int,
    folder: Path,
    objective: ELBO | None,
    options: FitOptions,
) -> Run:
    """`fit` in a folder; continues a run that was interrupted there.

    Raises:
        KeyboardInterrupt: Ctrl-C; the folder has a checkpoint to continue from.
    """
    run = fit(
        model, guide, data, objective=copy.deepcopy(objective), seed=seed, out=folder, resume=True,
        progress=False, **options,
    )  # fmt: skip
    if run.interrupted:
        raise KeyboardInterrupt
    return run


def training_numbers(runs: list[Run]) -> dict[str, Any]:
    """Of a cell's training: the best epoch, the median step in milliseconds, seconds in all."""
    if not runs:  # there was nothing to train
        return {"best_epoch": None, "ms_per_step": None, "seconds": 0.0}
    steps = [epoch["seconds"] / epoch["steps"] for epoch in runs[0].history]
    return {
        "best_epoch": runs[0].best_epoch,
        "ms_per_step": 1000 * statistics.median(steps),
        "seconds": sum(epoch["seconds"] for run in runs for epoch in run.history),
    }
