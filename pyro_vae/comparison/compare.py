"""`compare`: models, guides, objectives and seeds in one call."""

import inspect
import itertools
import multiprocessing
import pickle
import tempfile
from concurrent.futures import ProcessPoolExecutor, wait
from numbers import Integral
from pathlib import Path

import torch
import torch.nn as nn
from tqdm.auto import tqdm

from ..data import Data, as_data
from ..data.dataset import SPLITS
from ..diagnostics.grid import PosteriorGrid
from ..errors import UserError, check_int_at_least, unknown_name_error
from ..objectives import ELBO
from ..train import checkpoint, fit
from .cells import Cell, Plan, run_group
from .table import Comparison, with_gaps

OWN = ("model", "guide", "data", "objective", "seed", "out", "resume", "config", "progress")


def compare(
    model,
    guides,
    data,
    *,
    objectives=None,
    seeds=3,
    share_model=False,
    base_guide=None,
    split=None,
    num_samples=500,
    num_gap_data=100,
    gap_options=None,
    out=None,
    workers=1,
    progress=True,
    **options,
):
    """Every guide on every model, by every objective and seed: trained, evaluated, side by side.

        pv.compare(
            partial(pv.models.VAE, data.x_shape),
            {"diagonal": pv.guides.Guide, "full": partial(pv.guides.Guide, family={...})},
            data, seeds=3, share_model=True, epochs=50, out="runs/guides",
        )

    What is done stays done: with `out` each cell has a folder with its checkpoints, under a digest
    of its settings, and the same call continues where it was stopped (Ctrl-C included).

    Args:
        model: a function without arguments that makes a model, a class included, or a module (each
            cell has a copy of it, as it is); or a dict of those, by name.
        guides: `{name: a function of the model that makes a guide}`, e.g. `Guide`; if it takes
            `num_data`, it gets that too. Or `{name: (function, {options of fit, for this guide})}`. Pairs
            of one's own will do: `lambda model: AutoNormal(...)`, `lambda model: my_guide`.
        data: what `fit` takes, but for loaders; of arrays by name one is "x".
        objectives: `{name: objective}`, or one. Default: the ELBO.
        seeds: how many, or which.
        share_model: whether the guides share one model. Then it is trained once per seed, by the ELBO
            with `base_guide`, and every guide is trained on it with its parameters fixed; a module
            is frozen as it is. Default: each guide trains a separate model.
        base_guide: the name of one of the guides, or a function as they are. Default: the model's
            default guide.
        split: what is evaluated. Default: `"test"`, where there is one.
        num_samples: importance samples for log p(x), ESS and k-hat.
        num_gap_data: gaps are taken of so many data, the split's first; 0: none.
        gap_options: of `diagnostics.inference_gaps`.
        out: a folder for all of it, and for `compare.json`, `.csv` and `.png`.
        workers: processes; each takes all guides of one model and seed. Factories must then be
            functions of a module or `functools.partial`s, not lambdas.
        options: of `fit`, for all: `epochs=`, `lr=`, `batch_size=`, `compile=`, `device=`, ...

    A guide with a row per data point has nothing to say of other data: its rows for the data that are
    evaluated are fitted to those data, the model fixed: 500 epochs, lr from 0.03 to 0, unless its own
    options say.

    Returns:
        A `Comparison`: `rows`, `summary()`, `figure()`, `save(folder)`; printed, a table.

    Raises:
        UserError: names, splits or options that do not exist; factories that a worker cannot get.
    """
    data = as_data(data)
    if not isinstance(data, Data):
        raise UserError("compare needs all data in memory: pv.data, a tensor, (x, y) or a Dataset")
    split = split or next(s for s in ("test", "valid", "train") if getattr(data, s) is not None)
    if split not in SPLITS:
        raise unknown_name_error("split", split, SPLITS)
    data.observed_split(split)
    if not isinstance(share_model, bool):
        raise UserError(f"share_model takes True or False, not {share_model!r}")
    check_int_at_least(1, workers=workers, num_samples=num_samples)
    check_int_at_least(0, num_gap_data=num_gap_data)
    _known_options(options)
    models = model if isinstance(model, dict) else {_name(model): model}
    if not isinstance(guides, dict):
        raise UserError("guides takes {name: a function of the model that makes a guide}")
    guides = {k: v if isinstance(v, tuple) else (v, {}) for k, v in guides.items()}
    for name, (factory, own) in guides.items():
        _known_options(own)
        if not callable(factory) or isinstance(factory, nn.Module):
            raise UserError(f"the guide {name!r} must be a function of the model that makes it")
    if isinstance(base_guide, str):
        if base_guide not in guides:
            raise unknown_name_error("guide as base_guide", base_guide, guides)
        base_guide = guides[base_guide]
    elif base_guide is not None:
        base_guide = base_guide, {}
    if base_guide is not None and not share_model:
        raise UserError("base_guide= trains the model that guides share: pass share_model=True")
    if not isinstance(objectives, dict):
        objectives = {"elbo" if objectives is None else _name(objectives): objectives or ELBO()}
    seeds = list(range(seeds) if isinstance(seeds, Integral) else seeds)
    for kind, values in {"models": models, "guides": guides, "seeds": seeds}.items():
        if not values:
            raise UserError(f"there are no {kind} to compare")
    names = itertools.product(models, guides, objectives, seeds)
    plan = Plan(
        models, guides, objectives, data, split, share_model, base_guide, options,
        num_samples, min(num_gap_data, len(getattr(data, split))), gap_options or {},
        cells=[Cell(*n) for n in names],
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="pyro_vae") as scratch:
        plan.out = Path(out or scratch)
        folders = _run(plan, workers, progress)
        found = [checkpoint.read_json(folder / "row.json") for folder in folders]
        posteriors = _posteriors(plan, folders)
    rows = with_gaps(found, [_shared_model(plan, cell) for cell in plan.cells])
    num_data = len(getattr(data, split))
    result = Comparison(
        rows, split, num_data, num_samples, plan.num_gap_data, share_model, posteriors
    )
    if out is not None:
        result.save(out)
    return result


def _shared_model(plan, cell):
    """What cells that evaluate one and the same model have in common."""
    if not plan.frozen:
        return cell
    given = isinstance(plan.models[cell.model], nn.Module)
    return cell.model if given else (cell.model, cell.seed)


def _run(plan, workers, progress):
    """All groups, here or in processes of their own; the cells' folders, in their order."""
    groups = [*dict.fromkeys((c.model, c.seed) for c in plan.cells)]
    folders = {}
    with tqdm(total=len(plan.cells), disable=not progress, unit="cell", dynamic_ncols=True) as bar:

        def on_progress(cell, done):
            bar.set_description(f"{cell.model}, {cell.guide}, seed {cell.seed}", refresh=not done)
            bar.update(done)

        if workers == 1:
            for group in groups:
                folders |= run_group(plan, *group, on_progress)
        else:
            for found in _in_processes(plan, groups, workers, on_progress):
                folders |= found
    return [folders[c] for c in plan.cells]


def _posteriors(plan, folders):
    """`{guide: Grid}` of the first model, objective and seed, where the latent is two numbers."""
    first, found = plan.cells[0], {}
    for cell, folder in zip(plan.cells, folders, strict=True):
        path = folder / "grid.pt"
        alike = [getattr(cell, n) == getattr(first, n) for n in ("model", "objective", "seed")]
        if all(alike) and path.exists():
            state = torch.load(path, map_location="cpu", weights_only=True)
            found[cell.guide] = PosteriorGrid(*(state[name] for name in PosteriorGrid._fields))
    return found


def _in_processes(plan, groups, workers, on_progress):
    """What `run_group` returns for each group, in `workers` spawned processes."""
    try:
        pickle.dumps((plan.models, plan.guides, plan.objectives))
    except (pickle.PicklingError, AttributeError, TypeError) as e:
        raise UserError(
            f"workers={workers} sends what makes models and guides to other processes, and {e}: use "
            "functions of a module or functools.partial, not lambdas"
        ) from None
    context = multiprocessing.get_context("spawn")
    ticks = context.Queue()
    threads = max(1, torch.get_num_threads() // workers)
    pool = ProcessPoolExecutor(
        min(workers, len(groups)), context, initializer=_start, initargs=(ticks, threads)
    )
    try:
        futures = [pool.submit(_group, plan, *group) for group in groups]
        left = set(futures)
        while left:
            done, left = wait(left, timeout=0.5)
            while not ticks.empty():
                on_progress(*ticks.get())
            for future in done:
                future.result()  # a mistake in one ends them all
        return [f.result() for f in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(ticks, threads):
    """In a new process: where it tells of its progress."""
    global _ticks
    _ticks = ticks
    torch.set_num_threads(threads)


def _group(plan, model, seed):
    return run_group(plan, model, seed, lambda *progress: _ticks.put(progress))


def _known_options(options):
    known = [n for n in inspect.signature(fit).parameters if n not in OWN]
    for name in options:
        if name not in known:
            raise unknown_name_error("option of fit", name, known)


def _name(thing):
    """What to call what was given without a name."""
    while hasattr(thing, "func"):
        thing = thing.func
    name = getattr(thing, "__name__", type(thing).__name__)
    return "model" if name == "<lambda>" else name.lower()
