"""Restarts: whole runs from several seeds, of which one is chosen without labels.

A restart is a run of the same method with a separate seed: weights, initialization and training. It
has the folder `restarts/INDEX` in the run folder. Of three or more restarts that cluster, the one whose
clustering agrees most with the others' becomes the run (as Strehl and Ghosh 2002 choose among
clusterings, JMLR 3); else the one with the largest importance-weighted log-likelihood of the validation
split. The mean agreement is the stability of the clustering. No label is used.
"""

import json
import math
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from .. import evaluate
from ..data import Data
from ..errors import UserError
from ..evaluate.consensus import agreements_and_stability
from ..evaluate.inputs import split_inputs
from ..programs.calling import accepts_argument
from ..programs.inspection import is_per_datum
from ..train import Callback, checkpoint, distributed, load_weights
from ..train.display import PartsBar
from ..train.folder import RunFolder
from ..train.interrupt import CALLBACK, INTERRUPTED, MAX_TIME
from ..train.pool import Interrupted, num_processes, train_parts
from ..train.weights import broadcast_weights
from .advice import Advice, check_data, check_use
from .files import as_json, to_yaml
from .records import CONFIG, RECORD, RESTARTS, best_epoch, read_history
from .run import Run
from .seeds import restart_seeds


class Restartable(Protocol):
    """What can be trained several times: a `Method`, or the runs of an estimator."""

    @property
    def config(self) -> dict[str, Any]:
        """`seed`, `restarts`, `epochs`, `batch_size`; perhaps `initialize.epochs`, `step_seconds`."""

    @property
    def data(self) -> Data:
        """By whose validation split, if there is one, a run is chosen."""

    @property
    def valid_weight(self) -> torch.Tensor | None:
        """`[N]` weights of the validation split in the choice of a run; None if all are equal."""

    @property
    def model(self) -> Any:
        """The model."""

    def with_seed(self, seed: int, max_time: float | None = None) -> "Restartable":
        """The same with another seed, as one run; `max_time` replaces the method's time limit."""

    def new_pair(self) -> tuple[Any, Any]:
        """The pair as it is trained."""

    def threads(self) -> AbstractContextManager[None]:
        """Within, the number of threads that its batches need."""

    def fit(
        self,
        out: Path | str | None = None,
        resume: bool = False,
        device: str | None = None,
        progress: bool = True,
        *,
        callbacks: Sequence[Callback | Callable[..., bool | None]] = (),
    ) -> Run:
        """Train one run in the folder `out`."""


RESULT = "restart.json"
STEP_SECONDS = 3e-3  # of a small step, if the method does not say
NUM_SAMPLES = 100  # importance samples per data point of the validation split
MAX_SCORED, MAX_CLUSTERED = 2000, 1000  # data points of the criterion and of the stability


@dataclass(frozen=True)
class Restart:
    """What is known of a restart that has finished.

    Args:
        seed: of the run.
        epochs: that it was to train.
        score: by which it is chosen, nats per data point.
        criterion: what the score is.
        clusters: the component of each training data point, of the first 1,000; None for a model
            without a discrete latent.
    """

    seed: int
    epochs: int
    score: float
    criterion: str
    clusters: list[int] | None


def fit_restarts(
    method: Restartable,
    out: Path | None,
    resume: bool,
    device: torch.device,
    progress: bool,
    callbacks: Sequence[Callback | Callable[..., bool | None]] = (),
) -> Run:
    """Train all restarts of a method; the chosen one is the run that is returned.

    Args:
        method: and its number of restarts.
        out: run folder.
        resume: continue the restarts in `out`; those that have finished are kept.
        device: where to train.
        progress: show a progress bar.
        callbacks: called in every restart; the restarts are then trained in this process.

    Raises:
        UserError: a restart failed; the others' folders are kept if they have trained.
    """
    check_data(method.model, method.data)
    with _root(method, out, resume) as root:
        seeds = restart_seeds(method.config["seed"], method.config["restarts"])
        folders = [root / RESTARTS / str(n) for n in range(len(seeds))]
        results = distributed.on_rank_zero(lambda: _finished(folders, method))
        pending = [n for n in range(len(seeds)) if n not in results]
        visible = progress and distributed.rank() == 0
        task = _RestartTask(method, seeds, folders, str(device), visible, callbacks)
        with method.threads():
            count = 1 if callbacks else num_processes(len(pending), _seconds(method), device)
        epochs = _epochs(method.config)
        done, interrupted = len(results), False

        def finish(index: int, result: dict[str, Any]) -> None:
            results[index] = Restart(**result)

        with PartsBar("restarts finished", "restart", epochs, len(seeds), done, visible) as bar:
            try:
                train_parts(task, pending, count, bar, finish, method.config.get("max_time"))
            except Interrupted:
                interrupted = True
        return _chosen_run(method, out, folders, results, device, interrupted)


@dataclass
class _RestartTask:
    """The restarts, as the parts that a process trains.

    Args:
        method: of all restarts, with its data.
        seeds, folders: of the restarts, by index.
        device: where they train.
        progress: whether to report epochs.
        callbacks: called during each run.
    """

    method: Restartable
    seeds: list[int]
    folders: list[Path]
    device: str
    progress: bool
    callbacks: Sequence[Callback | Callable[..., bool | None]] = ()
    part = "restart"
    advice = "rerun with resume to continue"

    def __post_init__(self) -> None:
        self.method = self.method.with_seed(self.seeds[0])  # without a pair that was built

    def train(self, index: int, max_time: float | None) -> dict[str, Any] | None:
        """Train one restart; returns a `Restart` as a dict, None if it was interrupted."""
        method = self.method.with_seed(self.seeds[index], max_time)
        folder = self.folders[index]
        result = train_restart(method, folder, self.device, self.progress, self.callbacks)
        return None if result is None else asdict(result)


def _epochs(config: Mapping[str, Any]) -> int:
    """The epochs of a restart, those of all VAEs that its initialization trains included."""
    first: int = config.get("initialize.epochs", 0) * config.get("initialize.vaes", 1)
    return config["epochs"] + first


def _seconds(method: Restartable) -> float:
    """About how long a restart trains."""
    config = method.config
    batches = -(-len(method.data.train) // config["batch_size"])
    return config.get("step_seconds", STEP_SECONDS) * batches * _epochs(config)


def train_restart(
    method: Restartable,
    folder: Path,
    device: str,
    progress: bool = False,
    callbacks: Sequence[Callback | Callable[..., bool | None]] = (),
) -> Restart | None:
    """Train one restart in its folder, or continue it, and evaluate it; None if interrupted.

    Args:
        method: with the restart's seed, and without further restarts.
        folder: of the restart.
        device: cpu, cuda, ...
        progress: report epochs.
        callbacks: called during the run.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Advice)  # only the restart that is chosen matters
        run = method.fit(folder, (folder / CONFIG).exists(), device, progress, callbacks=callbacks)
    if run.interrupted:
        return None
    with method.threads():
        result = distributed.on_rank_zero(lambda: _evaluated(run, method.valid_weight))
    distributed.on_rank_zero(lambda: checkpoint.write_json(folder / RESULT, asdict(result)))
    return result


def _evaluated(run: Run, valid_weight: torch.Tensor | None = None) -> Restart:
    """The score and the clustering of a run.

    Args:
        run: a run that has finished.
        valid_weight: as in `Restartable`.
    """
    model, guide, data, config = run.model, run.guide, run.data, run.config
    assert data is not None and config is not None
    split = "train" if data.valid is None or is_per_datum(guide) else "valid"
    inputs = split_inputs(model, guide, data, split, rows=slice(MAX_SCORED))
    if evaluate.has_proper_likelihood(model, guide, **inputs):
        criterion = f"importance-weighted log-likelihood, {split} split, {NUM_SAMPLES} samples"
        bound = evaluate.log_likelihood(model, guide, num_samples=NUM_SAMPLES, **inputs)
    else:
        criterion = f"ELBO, {split} split, {NUM_SAMPLES} samples"
        bound = evaluate.elbo(model, guide, num_samples=NUM_SAMPLES, **inputs)
    bound = bound - data.log_abs_det_jacobian(inputs["x"]).to(bound)
    clusters = None
    observed = split_inputs(model, guide, data, "train", rows=slice(MAX_CLUSTERED))
    if accepts_argument(model, "y") and "y" not in observed:
        clusters = evaluate.responsibilities(model, guide, **observed).argmax(-1).tolist()
    stopped = run.stop_reason in (MAX_TIME, CALLBACK)  # resuming continues it
    epochs = len(run.history) if stopped else config["epochs"]
    score = bound.mean()
    if split == "valid" and valid_weight is not None:
        weight = valid_weight[:MAX_SCORED].to(bound)
        score = (weight * bound).sum() / weight.sum()
    return Restart(config["seed"], epochs, float(score), criterion, clusters)


# ---------------------------------------------------------------------- the choice


def _chosen_run(
    method: Restartable,
    out: Path | None,
    folders: Sequence[Path],
    results: Mapping[int, Restart],
    device: torch.device,
    interrupted: bool,
) -> Run:
    """The run of the chosen restart; of an interrupted run, chosen among those that have finished."""
    model, guide = method.new_pair()
    for module in (model, guide):
        module.to(device)
    if not results:
        return Run(
            model, guide, out=out, interrupted=interrupted, data=method.data, config=method.config
        )
    summary = _summary(results)
    best = folders[summary["chosen"]]
    history = distributed.on_rank_zero(lambda: read_history(best))
    record = distributed.on_rank_zero(lambda: checkpoint.read_json(best / RECORD))
    weights = distributed.on_rank_zero(lambda: load_weights(model, guide, best / "checkpoint.pt"))
    broadcast_weights(model, guide, ())
    for module in (model, guide):
        module.eval()
    reason = INTERRUPTED if interrupted else _stop_reason(method, results, len(history))
    if not interrupted:
        if out is not None:
            distributed.on_rank_zero(
                lambda: _copy_files(method, record, best, out, summary, reason)
            )
        if distributed.size() == 1:
            check_use(model, guide, method.data)
    return Run(
        model, guide, history, best_epoch(history), out, interrupted, reason, weights,
        data=method.data, config=method.config, restarts=summary,
        initialization=record.get("initialization"),
    )  # fmt: skip


def _stop_reason(method: Restartable, results: Mapping[int, Restart], num_epochs: int) -> str:
    """Why the restarts ended, as `Run.stop_reason`, of which the chosen one has so many epochs."""
    planned = method.config["epochs"]
    if any(r.epochs != planned for r in results.values()):
        return CALLBACK if method.config.get("max_time") is None else MAX_TIME
    return "epochs" if num_epochs == planned else "patience"


def _summary(results: Mapping[int, Restart]) -> dict[str, Any]:
    """What a run records of its restarts, by index."""
    numbers = sorted(results)
    scores = {n: s if math.isfinite(s := results[n].score) else -math.inf for n in numbers}
    clusterings = {n: c for n in numbers if (c := results[n].clusters) is not None}
    finite = [n for n in numbers if scores[n] > -math.inf]
    agreements, stability = agreements_and_stability(clusterings, finite)
    if len(agreements) < 3:  # of two, both agree alike
        agreements = {}
    criterion = agreements or scores
    return {
        "criterion": results[numbers[0]].criterion,
        "seeds": [results[n].seed for n in numbers],
        "scores": [results[n].score for n in numbers],
        "agreements": [agreements.get(n) for n in numbers] if agreements else None,
        "chosen": max(criterion, key=lambda n: (criterion[n], scores[n])),
        "stability": stability,
    }


def _copy_files(
    method: Restartable,
    record: dict[str, Any],
    best: Path,
    out: Path,
    summary: dict[str, Any],
    stop_reason: str,
) -> None:
    """Make the files of the best restart those of the run; the checkpoint is written last."""
    record = {**record, "config": as_json(method.config), "restarts": summary}
    state = checkpoint.load(best / "checkpoint.pt")
    state |= {"config": json.dumps(record), "stop_reason": stop_reason}
    try:
        shutil.copy(best / "metrics.jsonl", out / "metrics.jsonl")
        checkpoint.write_json(out / RECORD, record)
        checkpoint.save(out / "checkpoint.pt", state)
    except OSError as e:
        raise UserError(
            f"cannot write to {out}: {e.strerror}; the restarts are kept in {out / RESTARTS}: use "
            "--resume to choose again"
        ) from None


# ---------------------------------------------------------------------- the folder


@contextmanager
def _root(method: Restartable, out: Path | None, resume: bool) -> Iterator[Path]:
    """The folder of all restarts: the run folder, locked, or a temporary one.

    A run that fails before any restart has trained leaves no files.
    """
    if out is None:
        path = distributed.on_rank_zero(lambda: tempfile.mkdtemp(prefix="pyro_vae"))
        try:
            yield Path(path)
        finally:
            distributed.on_rank_zero(lambda: shutil.rmtree(path, ignore_errors=True))
        return
    with RunFolder(out) as folder:
        distributed.on_rank_zero(lambda: _begin(method, folder, resume))
        try:
            yield out
        except Exception:
            distributed.on_rank_zero(lambda: _discard_untrained(out))
            raise


def _begin(method: Restartable, folder: RunFolder, resume: bool) -> None:
    folder.claim()
    if not resume:
        folder.check_free()
    elif folder.checkpoint.exists() and not (folder.path / RESTARTS).is_dir():
        raise UserError(f"{folder.path} has finished, and its restarts were removed")
    text = to_yaml(method.config)
    (folder.path / RESTARTS).mkdir(exist_ok=True)
    checkpoint.write_atomically(folder.path / CONFIG, lambda p: p.write_text(text))


def _discard_untrained(out: Path) -> None:
    trained = any((out / RESTARTS).glob("*/checkpoint.pt"))
    if not trained and not (out / "checkpoint.pt").exists():
        shutil.rmtree(out / RESTARTS, ignore_errors=True)
        (out / CONFIG).unlink(missing_ok=True)


def _finished(folders: Sequence[Path], method: Restartable) -> dict[int, Restart]:
    """`{index: result}` of the restarts that have trained all of their epochs."""
    results = {}
    for n, folder in enumerate(folders):
        try:
            result = Restart(**json.loads((folder / RESULT).read_text()))
        except (OSError, ValueError, TypeError):  # not finished, or not written whole
            continue
        if result.epochs == method.config["epochs"] and (folder / "checkpoint.pt").exists():
            results[n] = result
    return results
