"""`compare`: models, guides, objectives and seeds in one call."""

import inspect
import itertools
import tempfile
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch.nn as nn

from ..data import Data, as_data
from ..data.dataset import SPLITS
from ..errors import UserError, check_int_at_least, checked_seed, unknown_name_error
from ..objectives import ELBO
from ..train import fit
from ..train.folder import RunFolder
from ..train.settings import SEED_BITS
from .evaluation import CellResult, check_gap_options
from .evidence import table_rows
from .plan import Cell, FitOptions, GuideFactory, ModelFactory, Plan
from .posteriors import read_posteriors, save_posteriors
from .scheduling import run_cells
from .table import Comparison, check_no_other

#: Parameters of `fit` that `compare` sets.
SET_BY_COMPARE = (
    "model", "guide", "data", "objective", "seed", "out", "resume", "config", "progress",
)  # fmt: skip

GuideChoice = GuideFactory | tuple[GuideFactory, FitOptions]


def compare(
    model: ModelFactory | nn.Module | Mapping[str, ModelFactory | nn.Module],
    guides: Mapping[str, GuideChoice],
    data: Any,
    *,
    objectives: ELBO | Mapping[str, ELBO] | None = None,
    seeds: int | Iterable[int] = 3,
    share_model: bool = False,
    base_guide: str | GuideFactory | None = None,
    split: str | None = None,
    num_samples: int = 500,
    num_gap_data: int = 100,
    gap_options: dict[str, Any] | None = None,
    out: Path | str | None = None,
    workers: int = 1,
    progress: bool = True,
    **options: Any,
) -> Comparison:
    """Train and evaluate every guide on every model, by every objective and seed, in one table.

    With `out` each cell has a folder with its checkpoints, under a digest of its settings. The same
    call continues where it was interrupted (Ctrl-C included), and does not repeat finished cells.

    A guide with parameters per data point (`z <- index`) cannot encode other data. Its parameters are
    fitted to the data that are evaluated, the model fixed: 500 epochs, lr from 0.03 to 0, unless the
    guide's options set others.

    Args:
        model: a function without arguments that makes a model, a class included, or a module (each
            cell has a copy of it, as it is); or a dict of those, by name. A model that is itself a
            function is passed as `lambda: my_model`.
        guides: `{name: a function of the model that makes a guide}`, e.g. `Guide`; if it has an
            argument `num_data`, it receives the number of data points. Or `{name: (function,
            {options of fit for this guide})}`. A user-defined guide: `lambda model: my_guide`. A Pyro
            AutoGuide, whose parameters belong to data points: `lambda model, num_data:
            PerDatumAutoGuide(AutoNormal, model, num_data=num_data)`.
        data: what `fit` accepts, except loaders; of arrays by name one is "x".
        objectives: `{name: objective}`, or one objective. Default: the ELBO.
        seeds: how many seeds (0, 1, ...), or which.
        share_model: whether the guides share one model. Then the model is trained once per seed, by
            the ELBO with `base_guide`, and frozen, and every guide is trained on it. A module, and a
            model without parameters, is frozen as it is. Default: each guide trains a separate model.
        base_guide: the name of one of the guides, or a function as they are. Default: the model's
            default guide.
        split: the split to evaluate. Default: "test" if there is one, else "valid", else "train".
        num_samples: importance samples per data point for log p(x), ESS and k-hat.
        num_gap_data: how many data points, from the first, inference gaps are computed for; 0: none.
        gap_options: of `diagnostics.inference_gaps`.
        out: a folder for the cells, and for `compare.json`, `.csv`, `.tex` and `.png`. If the model has two
            latent numbers, also for `posteriors.pt`, from which `pv.explore(out)` makes a page.
        workers: processes. Each trains all guides of one model and seed. Factories must then be
            functions of a module or `functools.partial`s, not lambdas.
        progress: whether to show a progress bar.
        options: of `fit`, for all cells: `epochs=`, `lr=`, `batch_size=`, `compile=`, `device=`, ...

    Returns:
        A `Comparison`: `rows`, `summary()`, `differences()`, `to_frame()`, `to_latex()`, `plot()`,
        `save(folder)`; printed, a table.

    Raises:
        UserError: names, splits or options that do not exist; factories that return no model or no
            guide, or that cannot be sent to a worker process; a folder that cannot be written.

    References:
        Cremer, Li and Duvenaud 2018, Inference suboptimality in variational autoencoders
        (arXiv 1801.03558), for the gaps.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from functools import partial
        >>> net = pv.conditionals.MLP((4,))
        >>> vae = partial(pv.models.VAE, (4,), 1, "normal", net)
        >>> guide = partial(pv.guides.Guide, network=net)
        >>> guides = {"amortized": guide, "constant": partial(guide, given={"z": []})}
        >>> result = pv.compare(vae, guides, torch.randn(20, 4), seeds=1, epochs=1, num_samples=10,
        ...                     num_gap_data=0, compile=False, progress=False)
        >>> [row["guide"] for row in result.rows]
        ['amortized', 'constant']
        >>> result.rows[0]["log_likelihood"] > result.rows[0]["elbo"]
        True
    """
    plan = _plan(
        model, guides, data, objectives, seeds, share_model, base_guide, split, num_samples,
        num_gap_data, gap_options, options,
    )  # fmt: skip
    check_int_at_least(1, workers=workers)
    if out is not None:
        RunFolder(out).check_writable()  # now, not after hours of training
        check_no_other(out, [])
    with tempfile.TemporaryDirectory(prefix="pyro_vae") as scratch:
        plan.out = Path(out or scratch)
        folders = run_cells(plan, workers, progress)
        results = [CellResult.read(folder / "row.json") for folder in folders]
        posteriors = read_posteriors(plan, folders)
    rows, per_datum = table_rows(results, _model_keys(plan, results))
    num_data = len(getattr(plan.data, plan.split))
    result = Comparison(
        rows,
        plan.split,
        num_data,
        num_samples,
        plan.num_gap_data,
        share_model,
        posteriors,
        per_datum,
    )
    if out is not None:
        result.save(out)
        save_posteriors(plan, folders, per_datum)
    return result


def _plan(
    model: Any,
    guides: Mapping[str, GuideChoice],
    data: Any,
    objectives: ELBO | Mapping[str, ELBO] | None,
    seeds: int | Iterable[int],
    share_model: bool,
    base_guide: str | GuideFactory | None,
    split: str | None,
    num_samples: int,
    num_gap_data: int,
    gap_options: dict[str, Any] | None,
    options: FitOptions,
) -> Plan:
    """The arguments of `compare`, checked."""
    data, split = _data(data, split)
    if not isinstance(share_model, bool):
        raise UserError(f"share_model takes True or False, not {share_model!r}")
    check_int_at_least(1, num_samples=num_samples)
    check_int_at_least(0, num_gap_data=num_gap_data)
    _check_fit_options(options)
    gap_options = gap_options or {}
    check_gap_options(gap_options)
    models = dict(model) if isinstance(model, Mapping) else {_name(model): model}
    all_guides = _guides(guides)
    if not isinstance(objectives, Mapping):
        name = "elbo" if objectives is None else _name(objectives)
        objectives = {name: objectives or ELBO()}
    seeds = _seeds(seeds)
    for kind, values in {"models": models, "guides": all_guides, "seeds": seeds}.items():
        if not values:
            raise UserError(f"there are no {kind} to compare")
    return Plan(
        models=models,
        guides=all_guides,
        objectives=dict(objectives),
        data=data,
        split=split,
        share_model=share_model,
        base_guide=_base_guide(base_guide, all_guides, share_model),
        fit_options=options,
        num_samples=num_samples,
        num_gap_data=min(num_gap_data, len(getattr(data, split))),
        gap_options=gap_options,
        cells=[Cell(*n) for n in itertools.product(models, all_guides, objectives, seeds)],
    )


def _data(data: Any, split: str | None) -> tuple[Data, str]:
    """The data in memory, and the split to evaluate."""
    data = as_data(data)
    if not isinstance(data, Data):
        raise UserError("compare needs all data in memory: pv.data, a tensor, (x, y) or a Dataset")
    split = split or next(s for s in ("test", "valid", "train") if getattr(data, s) is not None)
    if split not in SPLITS:
        raise unknown_name_error("split", split, SPLITS)
    data.observed_split(split)
    return data, split


def _guides(guides: Mapping[str, GuideChoice]) -> dict[str, tuple[GuideFactory, FitOptions]]:
    """`{name: (factory, options of fit)}`, checked."""
    if not isinstance(guides, Mapping):
        raise UserError("guides takes {name: a function of the model that makes a guide}")
    result = {k: v if isinstance(v, tuple) else (v, {}) for k, v in guides.items()}
    for name, (factory, options) in result.items():
        _check_fit_options(options)
        if not callable(factory) or isinstance(factory, nn.Module):
            raise UserError(f"the guide {name!r} must be a function of the model that makes it")
    return result


def _base_guide(
    base_guide: str | GuideFactory | None,
    guides: dict[str, tuple[GuideFactory, FitOptions]],
    share_model: bool,
) -> tuple[GuideFactory, FitOptions] | None:
    """The guide that trains a shared model, with its options."""
    if base_guide is None:
        return None
    if isinstance(base_guide, str) and base_guide not in guides:
        raise unknown_name_error("guide as base_guide", base_guide, guides)
    if not share_model:
        raise UserError("base_guide= trains the model that guides share: pass share_model=True")
    return guides[base_guide] if isinstance(base_guide, str) else (base_guide, {})


def _seeds(seeds: int | Iterable[int]) -> list[int]:
    if not isinstance(seeds, Iterable):
        check_int_at_least(0, seeds=seeds)
        return list(range(int(seeds)))
    return list(dict.fromkeys(checked_seed(seed, "a seed", SEED_BITS) for seed in seeds))


def _check_fit_options(options: FitOptions) -> None:
    known = [n for n in inspect.signature(fit).parameters if n not in SET_BY_COMPARE]
    for name in options:
        if name not in known:
            raise unknown_name_error("option of fit", name, known)


def _name(thing: object) -> str:
    """A name for what was passed without one."""
    while hasattr(thing, "func"):
        thing = thing.func
    name = getattr(thing, "__name__", type(thing).__name__)
    return "model" if name == "<lambda>" else name.lower()


def _model_keys(plan: Plan, results: list[CellResult]) -> list[Hashable]:
    """A key for each cell; cells that evaluate one and the same model have the same key."""
    if not plan.share_model:
        return list(plan.cells)
    return [
        cell.model if result.same_model else (cell.model, cell.seed)
        for cell, result in zip(plan.cells, results, strict=True)
    ]
