"""Running the cells of a plan, here or in worker processes, with a progress bar."""

import functools
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import pyro
import torch
from pyro.params.param_store import StateDict

from ..errors import UserError
from ..programs.contexts import fork_rng, modules_kept
from ..train.display import make_bar
from .cell import CellRun, SharedModel
from .plan import Cell, Plan

Folders = dict[Cell, Path]
OnProgress = Callable[[Cell, str | None], None]  # a cell's stage; None: the cell is done


class _Queue(Protocol):
    """The part of a multiprocessing queue that is used."""

    def put(self, item: tuple[Cell, str | None]) -> None: ...
    def get(self) -> tuple[Cell, str | None]: ...
    def empty(self) -> bool: ...


def run_cells(plan: Plan, workers: int, progress: bool) -> list[Path]:
    """Run all cells that are not done yet; their folders, in the plan's order."""
    folders: Folders = {}
    with make_bar(progress, total=len(plan.cells), unit="cell") as bar:

        def on_progress(cell: Cell, stage: str | None) -> None:
            done = stage is None
            bar.set_description(f"{cell.model}, {cell.guide}, seed {cell.seed}", refresh=False)
            bar.set_postfix_str(stage or "", refresh=not done)
            bar.update(done)

        if workers == 1:
            for group in plan.groups:
                folders |= run_group(plan, *group, on_progress)
        else:
            for part in _run_in_processes(plan, workers, on_progress):
                folders |= part
    return [folders[cell] for cell in plan.cells]


def run_group(plan: Plan, model: str, seed: int, on_progress: OnProgress) -> Folders:
    """Run the cells of one model and one seed, and return `{cell: folder}`.

    Each cell leaves a `row.json`. A cell that has one is not run again.

    Raises:
        KeyboardInterrupt: Ctrl-C; the cell in progress has a checkpoint to continue from.
    """
    cells = [c for c in plan.cells if (c.model, c.seed) == (model, seed)]
    store, device = pyro.get_param_store(), plan.fit_options.get("device")
    folders: Folders = {}
    with ExitStack() as group:
        # what user-defined pairs register in Pyro's store belongs to this group
        with store.scope() as state, fork_rng(device):
            shared = SharedModel(plan, model, seed, cells) if plan.share_model else None
            if shared is not None and not all(run.done for run in shared.cells.values()):
                group.enter_context(modules_kept(*shared.programs))
                on_progress(cells[0], "training the shared model")
                shared.train()
        for cell in cells:
            # each cell starts with the store that the shared model left
            copied: StateDict = {
                "params": dict(state["params"]),
                "constraints": dict(state["constraints"]),
            }
            with store.scope(copied), fork_rng(device):
                run = shared.cells[cell] if shared else CellRun(plan, cell, *plan.build_pair(cell))
                if not run.done:
                    # `lambda: my_model` returns the same networks for every cell
                    with modules_kept(run.model, run.guide), _named(cell):
                        run.run(functools.partial(on_progress, cell))
            folders[cell] = run.folder
            on_progress(cell, None)
    return folders


@contextmanager
def _named(cell: Cell) -> Iterator[None]:
    """Within, an error says of which cell it is."""
    try:
        yield
    except UserError as e:
        name = f"{cell.model}, {cell.guide}, {cell.objective}, seed {cell.seed}"
        raise UserError(f"{name}: {e}") from e


def _run_in_processes(plan: Plan, workers: int, on_progress: OnProgress) -> Iterator[Folders]:
    """What `run_group` returns for each group, in `workers` spawned processes."""
    try:
        pickle.dumps((plan.models, plan.guides, plan.objectives))
    except (pickle.PicklingError, AttributeError, TypeError) as e:
        raise UserError(
            f"workers={workers} sends what makes models and guides to other processes, and {e}: use "
            "functions of a module or functools.partial, not lambdas"
        ) from None
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    threads = max(1, torch.get_num_threads() // workers)
    num_processes = min(workers, len(plan.groups))
    pool = ProcessPoolExecutor(num_processes, context, _start_worker, (queue, threads))
    try:
        futures = [pool.submit(_run_group_in_worker, plan, *group) for group in plan.groups]
        pending: set[Future[Folders]] = set(futures)
        while pending:
            done, pending = wait(pending, timeout=0.5)
            while not queue.empty():
                on_progress(*queue.get())
            for future in done:
                future.result()  # an error in one ends them all
        yield from (future.result() for future in futures)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_queue: _Queue  # of a worker process: where it reports its progress


def _start_worker(queue: _Queue, threads: int) -> None:
    """Initialize a worker process."""
    global _queue
    _queue = queue
    torch.set_num_threads(threads)


def _run_group_in_worker(plan: Plan, model: str, seed: int) -> Folders:
    return run_group(plan, model, seed, lambda cell, stage: _queue.put((cell, stage)))
