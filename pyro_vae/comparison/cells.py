"""The cells of a comparison: a model, a guide, an objective and a seed; built, trained, evaluated."""

import copy
import dataclasses
import functools
import hashlib
import inspect
import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import pyro
import torch
import torch.nn as nn
from pyro import poutine

from .. import diagnostics, evaluate
from ..data import Data
from ..diagnostics.gaps import annealed_bound
from ..diagnostics.importance import effective_sample_size, log_mean_error, pareto_k
from ..errors import UserError
from ..evaluate.inputs import pair_inputs, split_inputs
from ..guides import Guide
from ..objectives import as_objective
from ..programs.calling import accepts_argument, as_keyword_program
from ..programs.contexts import eval_mode, fork_rng, seeded
from ..programs.inspection import is_per_datum
from ..programs.interfaces import ModelInterface, interface_of
from ..programs.modules import device_of, find_modules
from ..train import checkpoint, fit
from ..train.steps.recorded import leaf_parameters

#: How a guide's rows are fitted to the data that are evaluated, unless its own options say.
ROWS = {"lr": 0.03, "schedule": "cosine", "epochs": 500, "weight_decay": 0.0}
PICTURED = 2  # data whose posteriors are drawn
TAIL = 100  # samples without which no tail can be fitted
RELIABLE = 0.7  # k-hat above which a bound by importance weights cannot be trusted


@dataclass
class Plan:
    """What `compare` was asked for; goes to worker processes whole."""

    models: dict  # {name: factory or module}
    guides: dict  # {name: (factory, options of fit)}
    objectives: dict
    data: Data
    split: str
    frozen: bool
    base: (
        tuple | None
    )  # (factory, options): trains the model that is then frozen; None: its default
    options: dict  # of fit
    num_samples: int
    num_gap_data: int
    gap_options: dict
    out: Path = None
    cells: list = field(default_factory=list)  # the names of all, in the table's order


@dataclass(frozen=True)
class Cell:
    """The names of one cell."""

    model: str
    guide: str
    objective: str
    seed: int


def run_group(plan, model, seed, on_progress=lambda cell, done: None):
    """All cells of one model and one seed, `{cell: folder}`; `tick(cell, done)` hears of each.

    Each leaves its `row.json`, and one that is there already is not made again.

    Raises:
        KeyboardInterrupt: Ctrl-C; the cell under way has a checkpoint to go on from.
    """
    cells = [c for c in plan.cells if (c.model, c.seed) == (model, seed)]
    store, device = pyro.get_param_store(), plan.options.get("device")
    folders = {}
    with (
        store.scope() as state,
        fork_rng(device),
    ):  # what user-defined pairs register is this group's
        base = Base(plan, model, seed, cells) if plan.frozen else None
        if base is not None and not all(made.done for made in base.cells.values()):
            on_progress(cells[0], False)
            base.train()
    for cell in cells:
        on_progress(cell, False)
        with store.scope({k: dict(v) for k, v in state.items()}), fork_rng(device):
            made = base.cells[cell] if base else Made(plan, cell, *_pair(plan, cell))
            if not made.done:
                made.finish()
        folders[cell] = made.folder
        on_progress(cell, True)
    return folders


class Base:
    """A model trained once, then frozen, and the cells of all guides on it."""

    def __init__(self, plan, name, seed, cells):
        self.plan, self.seed, self.bound = plan, seed, None
        self.given = isinstance(plan.models[name], nn.Module)
        factory, options = plan.base or (_default, {})
        self.options = {**plan.options, **options}
        recorded = {"options": _plain(self.options)}
        with seeded(seed):
            self.model = _model(plan.models[name])
            programs = [self.model]
            if not self.given:
                self.guide = _guide(factory, self.model, len(plan.data.train))
                programs.append(self.guide)
        self.folder = _folder(plan, f"{name}-base-{seed}", recorded, *programs)
        self.cells = {}
        for cell in cells:
            with seeded(seed):
                guide = _of_plan(plan, cell, self.model)
            self.cells[cell] = Made(plan, cell, self.model, guide, self)

    def train(self):
        """Train, unless it is given, and freeze."""
        data = self.plan.data
        if not self.given:
            _fit(self.model, self.guide, data, self.seed, self.folder, None, self.options)
        x, others = given(self.model, self.model, data, "train", self.plan.options.get("observed"))
        freeze(self.model, pair_inputs(self.model, x, _of_model(self.model, others)))

    def annealed(self, x, others):
        """`(AIS's bound, standard error)` of the data that gaps are taken of, once for all guides.

        None where `gap_options` leave AIS out.
        """
        annealing = self.plan.gap_options.get("annealing")
        if self.bound is None and annealing is not False:
            others = _of_model(self.model, others)
            self.bound = annealed_bound(self.model, x, **(annealing or {}), **others)
        return self.bound


class Made:
    """One cell's pair, and the folder that it trains in."""

    def __init__(self, plan, cell, model, guide, base=None):
        self.plan, self.cell, self.model, self.guide, self.base = plan, cell, model, guide, base
        _, own = self.plan.guides[cell.guide]
        self.options = {**plan.options, **own}
        if base is not None:  # which initializes the model too
            self.options.pop("initialize", None)
        recorded = {
            "base": base and base.folder.name,
            "options": _plain(self.options),
            "objective": as_objective(plan.objectives[cell.objective]).describe(),
            "evaluated": [plan.split, plan.num_samples, plan.num_gap_data, repr(plan.gap_options)],
        }
        name = f"{cell.model}-{cell.guide}-{cell.objective}-{cell.seed}"
        self.folder = _folder(plan, name, recorded, model, guide)

    @property
    def done(self):
        return (self.folder / "row.json").exists()

    def finish(self):
        """Train, judge, and write the row."""
        guides, runs = {}, []
        if not (self.base and is_per_datum(self.guide)):  # such a guide is fitted below
            runs.append(self._fit(self.guide, self.plan.data, self.folder, self.options))
        for split in dict.fromkeys(("valid", self.plan.split)):
            if getattr(self.plan.data, split) is not None:
                guides[split] = self.guide
                if is_per_datum(
                    self.guide
                ):  # its rows are of these data, whoever trained the model
                    runs.append(self._rows(split))
                    guides[split] = runs[-1].guide
        row = {
            **dataclasses.asdict(self.cell),
            "parameters": self._parameters(guides[self.plan.split]),
        }
        row |= {"best_epoch": runs[0].best_epoch, "ms_per_step": _ms(runs[0])}
        row["seconds"] = sum(r["seconds"] for run in runs for r in run.history)
        found, per_datum = judge(
            self.model, guides[self.plan.split], self.plan.data, self.plan.split,
            valid_guide=guides.get("valid"), num_samples=self.plan.num_samples,
            num_gap_data=self.plan.num_gap_data, gap_options=self.plan.gap_options,
            observed=self.options.get("observed"), base=self.base, seed=self.cell.seed,
        )  # fmt: skip
        row |= found
        guide = guides[self.plan.split]
        recorded = given(
            self.model, guide, self.plan.data, self.plan.split, self.options.get("observed")
        )
        pictured = grid(self.model, guide, *recorded)
        if pictured is not None:
            tensors = {k: v.cpu() for k, v in pictured.items()}
            write = functools.partial(torch.save, tensors)
            checkpoint.write_atomically(self.folder / "grid.pt", write)
        checkpoint.write_json(self.folder / "row.json", {"row": row, "per_datum": per_datum})

    def _fit(self, guide, data, folder, options):
        objective = self.plan.objectives[self.cell.objective]
        return _fit(self.model, guide, data, self.cell.seed, folder, objective, options)

    def _rows(self, split):
        """A guide with a row per data point, fitted to the data of a split, the model fixed."""
        part = self.plan.data.observed_split(split)
        data = dataclasses.replace(
            self.plan.data, train=part, valid=None, test=None, binarize="none", condition=None
        )
        with seeded(self.cell.seed):
            guide = _of_plan(self.plan, self.cell, self.model, len(part))
        x, others = given(self.model, guide, data, "train", self.options.get("observed"))
        freeze(self.model, pair_inputs(self.model, x, _of_model(self.model, others)))
        _, own = self.plan.guides[self.cell.guide]
        options = {**self.options, **ROWS, **own, "initialize": None}
        return self._fit(guide, data, self.folder / split, options)

    def _parameters(self, guide):
        recorded = given(self.model, guide, self.plan.data, "train", self.options.get("observed"))
        return parameters(self.model, guide, *recorded)


def judge(
    model, guide, data, split, valid_guide=None, num_samples=500, num_gap_data=100, gap_options=None,
    observed=None, base=None, seed=0,
):  # fmt: skip
    """`(numbers, {bound: [per data point]})` of a trained pair: JSON values.

    The bounds and their standard errors, `NAME_se`: `log_likelihood`, importance weighted with the
    guide, of the whole split; of the first `num_gap_data` of it `gap_log_likelihood`, `elbo_optimal`,
    `elbo` and `amortization`, and AIS's, `annealed`, of a model that several guides share.
    """
    x, others = given(model, guide, data, split, observed)
    options = {"seed": seed, **others}
    row = {"valid_elbo": None}
    if valid_guide is not None:
        valid, also = given(model, valid_guide, data, "valid", observed)
        bound = evaluate.elbo(model, valid_guide, valid, num_samples=10, seed=seed, **also)
        row["valid_elbo"] = float(bound.mean())
    row["elbo"] = float(evaluate.elbo(model, guide, x, num_samples=10, **options).mean())
    row |= {"ess": None, "pareto_k": None, "heavy_tailed": False}
    if not evaluate.has_proper_likelihood(model, guide, x, **others):
        return row, {}
    log_w = diagnostics.importance_weights(model, guide, x, num_samples, **options).double()
    bounds = {
        "log_likelihood": log_w.logsumexp(0) - math.log(num_samples),
        "log_likelihood_se": log_mean_error(log_w),
    }
    row["ess"] = float(effective_sample_size(log_w).mean())
    if num_samples >= TAIL:
        k = float(pareto_k(log_w).median())
        row |= {"pareto_k": k if math.isfinite(k) else None, "heavy_tailed": k > RELIABLE}
    if num_gap_data:
        x, others = x[:num_gap_data], {k: v[:num_gap_data] for k, v in others.items()}
        gap_options = dict(gap_options or {})
        if base is not None:  # one bound of AIS serves all guides
            gap_options["annealing"] = False
        found = diagnostics.inference_gaps(model, guide, x, **gap_options, seed=seed, **others)
        for end in ("", "_se"):
            bounds[f"gap_log_likelihood{end}"] = found[f"log_likelihood{end}"]
            for name in ("elbo_optimal", "elbo", "amortization"):
                bounds[name + end] = found[name + end]
        annealed = base and base.annealed(x, others)
        if annealed is not None:
            bounds["annealed"], bounds["annealed_se"] = annealed
    return row, {k: v.tolist() for k, v in bounds.items()}


def grid(model, guide, x, others):
    """The posteriors of the first data, as `plots.posterior` draws them, where z is two numbers."""
    x, others = x[:PICTURED], {k: v[:PICTURED] for k, v in others.items()}
    codes = evaluate.encode(model, guide, x, **others)
    if sum(v[0].numel() for v in codes.values()) != 2:
        return None
    return diagnostics.posterior_grid(model, x, guide, num=60, **others)._asdict()


def leaves(program, batch):
    """The parameters that a program's log-density depends on, those in Pyro's store included."""
    device = device_of(program, default=batch["x"].device)
    batch = {k: v[:2].to(device) for k, v in batch.items()}
    with (
        torch.enable_grad(),
        eval_mode(program),  # running statistics change by training steps alone
        fork_rng(device),
        pyro.validation_enabled(False),
    ):
        trace = poutine.trace(as_keyword_program(program))
        return leaf_parameters(lambda: trace.get_trace(**batch).log_prob_sum())


def parameters(model, guide, x, others):
    """How many numbers a guide has to train, not counting the model's."""
    batch = {"x": x, **others}
    of_model = {id(p) for p in leaves(model, batch)}
    return sum(p.numel() for p in leaves(guide, batch) if id(p) not in of_model)


def _of_model(model, others):
    """What a model takes of what a pair is given."""
    return {name: value for name, value in others.items() if accepts_argument(model, name)}


def freeze(model, batch):
    """Let no parameter of the model train; those of a guide in the same module do."""
    for parameter in leaves(model, batch):
        parameter.requires_grad_(False)


def _pair(plan, cell):
    with seeded(cell.seed):
        model = _model(plan.models[cell.model])
        return model, _of_plan(plan, cell, model)


def _model(factory):
    """A model of its own: made, or a copy of the module that was given."""
    return copy.deepcopy(factory) if isinstance(factory, nn.Module) else factory()


def _default(model):
    if interface_of(model, ModelInterface).default_guide is None:
        raise UserError(
            "the model has no default guide to be trained with: base_guide= names one of yours"
        )
    return Guide(model)


def _of_plan(plan, cell, model, num_data=None):
    factory, _ = plan.guides[cell.guide]
    return _guide(factory, model, len(plan.data.train) if num_data is None else num_data)


def _guide(factory, model, num_data):
    """A guide of the factory's; it gets the number of data, if it takes `num_data`."""
    parameters = inspect.signature(factory).parameters
    return factory(model, num_data=num_data) if "num_data" in parameters else factory(model)


def given(model, guide, data, split, observed):
    """`(x, others)`: the inputs of a pair from the split to which its per-datum rows are fitted."""
    others = split_inputs(model, guide, data, split, observed, fitted_split=split)
    return others.pop("x"), others


def _fit(model, guide, data, seed, folder, objective, options):
    """`fit`, going on where it was stopped; a run in `folder`."""
    run = fit(
        model, guide, data, objective=copy.deepcopy(objective), seed=seed, out=folder, resume=True,
        progress=False, **options,
    )  # fmt: skip
    if run.interrupted:
        raise KeyboardInterrupt
    return run


def _ms(run):
    """Median over epochs of a training step's milliseconds."""
    return 1000 * statistics.median(row["seconds"] / row["steps"] for row in run.history)


def _plain(options):
    return {k: repr(v) for k, v in sorted(options.items())}


def _folder(plan, name, recorded, *programs):
    """A folder for what was asked: another setting, network or data set has another one."""
    splits = (plan.data.train, plan.data.valid, plan.data.test)
    recorded = {
        **recorded,
        "data": plan.data.describe(),
        "sums": [
            float(v.double().sum())
            for s in splits
            if s is not None
            for v in (s.x, *s.others.values())
        ],
        "programs": [str(m) for m in find_modules(*programs)],
        "weights": [
            float(sum(v.double().abs().sum() for v in m.state_dict().values()))
            for m in find_modules(*programs)
        ],
    }
    digest = hashlib.sha256(json.dumps(recorded, sort_keys=True).encode()).hexdigest()[:10]
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    return plan.out / "cells" / f"{safe}-{digest}"
