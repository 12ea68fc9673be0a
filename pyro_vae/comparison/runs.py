"""Runs that are trained already, side by side."""

import json
import statistics
from pathlib import Path

from ..errors import UserError
from ..programs.inspection import is_per_datum
from ..train.checkpoint import check_config
from .cells import given, judge, parameters
from .table import Comparison, with_gaps


def compare_runs(pairs, split="test", num_samples=500, num_gap_data=100, gap_options=None):
    """A `Comparison` of run folders, each as it was trained.

    Args:
        pairs: `{folder: Run}`, of `pv.load`. A folder's name without its seed is the guide's in the
            table.

    Raises:
        UserError: runs of different data, of a guide with a row per training data point, or whose
            configuration was edited since training.
    """
    found, kind = [], None
    for folder, run in pairs.items():
        check_config(folder)
        if run.data is None:
            raise UserError(f"the data of {folder} cannot be loaded again: pv.compare in Python")
        model, guide, data, seed = run.model, run.guide, run.data, run.seed
        config = run.config or {"method": type(model).__name__, "objective": "ELBO"}
        described = data.describe()
        kind = kind or described
        if described != kind:
            name = next(k for k in {**described, **kind} if described.get(k) != kind.get(k))
            raise UserError(
                f"{folder} has other data than the first run ({name}: {described.get(name)}, not "
                f"{kind.get(name)}): their numbers cannot be compared"
            )
        if is_per_datum(guide):
            raise UserError(
                f"{folder} has a row per training data point, and none for {split} data"
            )
        row = {
            "model": config["method"], "guide": Path(folder).name.removesuffix(f"-{seed}"),
            "objective": config["objective"], "seed": seed, **_history(Path(folder)),
        }  # fmt: skip
        row["parameters"] = parameters(model, guide, *given(model, guide, data, split, None))
        valid_guide = None if data.valid is None else guide
        numbers, per_datum = judge(
            model,
            guide,
            data,
            split,
            valid_guide,
            num_samples,
            num_gap_data,
            gap_options,
            seed=seed,
        )
        found.append({"row": row | numbers, "per_datum": per_datum})
        num_data = len(getattr(data, split))
    rows = with_gaps(found, range(len(found)))
    return Comparison(rows, split, num_data, num_samples, min(num_gap_data, num_data), False)


def _history(folder):
    """What `metrics.jsonl` says of the training."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    if not history:
        raise UserError(f"{folder} has not been trained for an epoch yet")
    steps = [1000 * r["seconds"] / r["steps"] for r in history if "steps" in r]
    best = max(history, key=lambda r: r.get("elbo", r["epoch"]))
    return {
        "ms_per_step": statistics.median(steps) if steps else None,
        "seconds": sum(r["seconds"] for r in history),
        "best_epoch": best["epoch"],
    }
