"""log p(x) of each model, from the bounds of all its cells, and the gaps that follow from it."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from ..diagnostics.bounds import choose_bound, mean_bound
from ..diagnostics.importance import RELIABLE_K, median_k
from .evaluation import CellResult, Row

NAMES = ("model", "guide", "objective", "seed")
NUMBERS = (
    "valid_elbo", "elbo", "log_likelihood", "log_likelihood_se", "ess", "pareto_k",
    "gap_log_likelihood", "gap_log_likelihood_se", "approximation", "approximation_se",
    "amortization", "amortization_se", "parameters", "ms_per_step", "seconds", "best_epoch",
)  # fmt: skip
FLAGS = ("heavy_tailed", "log_likelihood_heavy_tailed", "gap_log_likelihood_heavy_tailed")

Bounds = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Bound:
    """A lower bound on log p(x), `[N]`, its standard errors, and whether k-hat is above 0.7."""

    value: torch.Tensor
    error: torch.Tensor
    heavy_tailed: bool = False


def _best(bounds: Sequence[Bound]) -> Bound:
    means = [mean_bound(bound.value, bound.error, bound.heavy_tailed) for bound in bounds]
    return bounds[choose_bound(means)]


def table_rows(
    results: Sequence[CellResult], models: Sequence[Hashable]
) -> tuple[list[Row], list[Bounds]]:
    """The rows of the table, and of each row the numbers per data point.

    Args:
        results: the results of the cells.
        models: a key per cell. Cells with the same key have one model, and so one log p(x): the
            best of their bounds.

    Returns:
        The rows, with every key of `NAMES`, `NUMBERS` and `FLAGS`, and for each row a dict of the
        numbers per data point that differences can be taken of: `elbo`, `log_likelihood`,
        `approximation`, `amortization`.
    """
    bounds = [
        {k: torch.tensor(v, dtype=torch.float64) for k, v in result.per_datum.items()}
        for result in results
    ]
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(models):
        if "log_likelihood" in bounds[i]:
            groups.setdefault(key, []).append(i)
    evidence = {
        key: _evidence([bounds[i] for i in cells], [results[i].row for i in cells])
        for key, cells in groups.items()
    }
    rows, per_datum = [], []
    for result, own, key in zip(results, bounds, models, strict=True):
        row: Row = {**dict.fromkeys(NUMBERS), **dict.fromkeys(FLAGS, False), **result.row}
        values = {"elbo": own["split_elbo"]}
        if key in evidence:
            parts, flags = _parts(own, *evidence[key])
            row |= flags
            for name, (value, error) in parts.items():
                mean_error = float(error.square().sum().sqrt()) / len(error)
                row[name] = float(value.mean())
                row[f"{name}_se"] = mean_error if math.isfinite(mean_error) else None
                values[name] = value
        rows.append({k: row[k] for k in (*NAMES, *NUMBERS, *FLAGS)})
        per_datum.append(values)
    return rows, per_datum


def _evidence(cells: list[Bounds], rows: list[Row]) -> tuple[Bound, Bound | None]:
    """`(of the split, of the gaps' data)`: the best bound on one model's log p(x).

    For the gaps' data: AIS's bound, or the importance-weighted one with the best q*. The best q*
    is that of the largest `elbo_optimal`, a number from other draws.
    """
    whole = _best(
        [
            Bound(cell["log_likelihood"], cell["log_likelihood_se"], row["heavy_tailed"])
            for cell, row in zip(cells, rows, strict=True)
        ]
    )
    if "elbo_optimal" not in cells[0]:
        return whole, None
    closest = max(cells, key=lambda cell: float(cell["elbo_optimal"].mean()))
    heavy = median_k(closest["gap_pareto_k"]) > RELIABLE_K
    candidates = [Bound(closest["gap_log_likelihood"], closest["gap_log_likelihood_se"], heavy)]
    if "annealed" in cells[0]:
        candidates.insert(0, Bound(cells[0]["annealed"], cells[0]["annealed_se"]))
    few = _best(candidates)
    same_data = len(few.value) == len(whole.value)
    return (few if same_data else whole), few


def _parts(
    own: Bounds, whole: Bound, few: Bound | None
) -> tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], Row]:
    """`({number: (per data point, standard errors)}, flags)` of one cell."""
    parts = {"log_likelihood": (whole.value, whole.error)}
    flags: Row = {"log_likelihood_heavy_tailed": whole.heavy_tailed}
    if few is not None:
        optimal, error = own["elbo_optimal"], own["elbo_optimal_se"]
        parts["gap_log_likelihood"] = few.value, few.error
        parts["approximation"] = few.value - optimal, few.error.hypot(error)
        parts["amortization"] = own["amortization"], own["amortization_se"]
        flags["gap_log_likelihood_heavy_tailed"] = few.heavy_tailed
    return parts, flags
