"""The posterior grids of a comparison whose model has two latent numbers: its cells' and its file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..data.display import label_names, shown_columns
from ..diagnostics.grid import PosteriorGrid
from ..errors import UserError
from ..train.checkpoint import load_tensors, save_tensors
from .evidence import Bounds
from .plan import Plan

FILE = "posteriors.pt"
GAPS = ("gap_log_likelihood", "approximation", "amortization")


def _grids(plan: Plan, folders: Sequence[Path]) -> Iterator[tuple[int, dict[str, Any]]]:
    """`(row, grid.pt)` of the cells of the first model, objective and seed that have one."""
    first = plan.cells[0]
    for row, (cell, folder) in enumerate(zip(plan.cells, folders, strict=True)):
        alike = [getattr(cell, n) == getattr(first, n) for n in ("model", "objective", "seed")]
        if all(alike) and (folder / "grid.pt").exists():
            yield row, load_tensors(folder / "grid.pt", "a posterior grid of a comparison")


def read_posteriors(plan: Plan, folders: Sequence[Path]) -> dict[str, PosteriorGrid]:
    """`{guide: grid}` of the first model, objective and seed, if the latent is two numbers."""
    return {
        plan.cells[row].guide: PosteriorGrid(*(state[name] for name in PosteriorGrid._fields))
        for row, state in _grids(plan, folders)
    }


def save_posteriors(plan: Plan, folders: Sequence[Path], per_datum: Sequence[Bounds]) -> None:
    """Write the grids to the comparison's folder, with the data points, gaps and decoders.

    Args:
        plan: of the comparison; `plan.out` is the folder.
        folders: of the cells, in the order of the rows.
        per_datum: of `Comparison`.
    """
    guides, x = {}, None
    for row, state in _grids(plan, folders):
        x = plan.data.unstandardize(state.pop("x"))
        gaps = {n: per_datum[row][n][: len(x)] for n in GAPS if n in per_datum[row]}
        guides[plan.cells[row].guide] = {**state, **gaps}
    if x is None:
        return
    first = plan.cells[0]
    labels = getattr(plan.data, plan.split).y
    content = {
        "model": first.model,
        "objective": first.objective,
        "seed": first.seed,
        "share_model": plan.share_model,
        "data": plan.data.name,
        "split": plan.split,
        "x": x,
        "labels": None if labels is None else labels[: len(x)].clone(),
        "label_names": label_names(plan.data),
        "columns": shown_columns(plan.data)._asdict(),
        "scaling": None if plan.data.scaling is None else plan.data.observed_scaling,
        "guides": guides,
    }
    save_tensors(plan.out / FILE, content)


def load_posteriors(folder: Path) -> dict[str, Any]:
    """What `save_posteriors` wrote to a comparison's folder.

    Raises:
        UserError: there are no grids, or their file is damaged.
    """
    if not (folder / FILE).exists():
        raise UserError(
            f"{folder} has no posteriors to show: pv.compare(..., out=) and pyro-vae compare "
            "--model write them if the model has two latent numbers"
        )
    return load_tensors(folder / FILE, "a file of posteriors")
