"""Restarts in worker processes, one for each idle core.

A worker is `python -m pyro_vae.methods.restart_worker`. It does not import the caller's main module, so
that a notebook, and a script without `if __name__ == "__main__"`, need nothing special. Its standard
input is the connection to this process: it receives the method with its data, and the indices of
restarts to train. When the input ends, because this process closes it or ends in whatever way, the
worker saves a checkpoint and ends. Its standard output has one JSON value per line: an event.
"""

import json
import multiprocessing
import os
import pickle
import queue
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict

import torch

from ..errors import UserError, check_int_at_least
from ..train import distributed
from ..train.interrupt import INTERRUPTED, stop_request
from .restart_bar import RestartBar

if TYPE_CHECKING:
    from .restarts import Restartable

PROCESS_SECONDS = 10.0  # of training that further processes must save
MIN_SECONDS = 1e-3  # a restart trains at least a step
STEP_SECONDS = 3e-3  # of a small step, if the method does not say
LENGTH_BYTES = 8  # of the number that precedes a job
Event = dict[str, Any]


class Interrupted(Exception):
    """Ctrl-C ended the training of restarts; each has a checkpoint to continue from."""


class TimeBudget:
    """The time that is left for restarts which together have a time limit.

    Args:
        seconds: for all restarts, from now on; None for no limit.
        count: restarts that train at the same time.
    """

    def __init__(self, seconds: float | None, count: int = 1) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._count = count

    def seconds_for_next(self, waiting: int) -> float | None:
        """The seconds for the next restart, an equal part of those left; None for no limit.

        Args:
            waiting: restarts that have not begun, this one included.
        """
        if self._deadline is None:
            return None
        rounds = -(-waiting // self._count)
        return max(MIN_SECONDS, (self._deadline - time.monotonic()) / rounds)


class Job(TypedDict):
    """What a worker receives first.

    Args:
        method: pickled, with its data.
        seeds, folders: of all restarts, by index.
        progress: whether to report epochs.
        threads, dtype, matmul_precision, deterministic: torch's modes in this process.
    """

    method: bytes
    seeds: list[int]
    folders: list[str]
    progress: bool
    threads: int
    dtype: torch.dtype
    matmul_precision: str
    deterministic: bool


def num_processes(
    method: "Restartable", pending: int, device: torch.device, workers: int | None
) -> int:
    """How many processes train the restarts; 1: this one.

    Restarts on a GPU, and those of a run by several processes of `torchrun`, train in sequence. A
    restart needs as many cores as a run has threads. A restart of few seconds is not worth a
    process, which takes seconds to start; nor does a process that another one started, as in a
    parallel grid search, start more. The results are the same, bit for bit.

    Args:
        method: of the restarts.
        pending: number of restarts to train.
        device: where to train.
        workers: the number that the caller sets. Default: as many as there are idle cores.

    Raises:
        UserError: `workers` is not an integer >= 1.
    """
    if workers is not None:
        check_int_at_least(1, workers=workers)
    if device.type != "cpu" or distributed.size() > 1 or not sys.executable:
        return 1
    if workers is None:
        from joblib import cpu_count  # of this process, as cgroups and affinity allow

        with method.threads():
            workers = max(1, cpu_count() // torch.get_num_threads())
        is_child = multiprocessing.parent_process() is not None
        if is_child or _seconds(method) * (pending - 1) < PROCESS_SECONDS:
            return 1
    return max(1, min(workers, pending))


def _seconds(method: "Restartable") -> float:
    """About how long a restart trains."""
    config = method.config
    batches = -(-len(method.data.train) // config["batch_size"])
    epochs = config["epochs"] + config.get("initialize.epochs", 0)
    return config.get("step_seconds", STEP_SECONDS) * batches * epochs


def pickled(method: "Restartable") -> bytes | None:
    """The method with its data for a worker; None if they cannot be sent.

    A condition that is a lambda or a function of the main module cannot: a worker does not import
    the main module.
    """
    try:
        payload = pickle.dumps(method)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None
    return None if b"__main__" in payload else payload


def read_job(stream: BinaryIO) -> Job:
    """The job that a worker receives on its input."""
    length = int.from_bytes(stream.read(LENGTH_BYTES), "big")
    job: Job = pickle.loads(stream.read(length))
    return job


def train_in_processes(
    job: Job,
    pending: Sequence[int],
    count: int,
    bar: RestartBar,
    finish: Callable[[int, dict[str, Any]], None],
    max_time: float | None = None,
) -> None:
    """Train restarts in `count` processes.

    Args:
        job: of the workers.
        pending: indices of the restarts to train.
        count: number of processes.
        bar: shows their epochs.
        finish: called with the index and the result of each restart that has finished.
        max_time: seconds for all restarts together.

    Raises:
        Interrupted: Ctrl-C; a second one ends the processes at once.
        UserError: a restart failed, or a process ended.
    """
    content = pickle.dumps(job)
    message = len(content).to_bytes(LENGTH_BYTES, "big") + content
    events: queue.Queue[tuple[_Worker, Event]] = queue.Queue()
    waiting, warned = list(pending), set()
    budget = TimeBudget(max_time, count)
    with stop_request() as stop:
        workers = [_Worker(message, events) for _ in range(count)]
        active = set(workers)
        try:
            while active:
                if stop.is_set():
                    for worker in active:
                        worker.close()
                try:
                    worker, event = events.get(timeout=0.2)
                except queue.Empty:
                    continue
                kind = event["kind"]
                if kind == "epoch":
                    bar.show_epoch(event["index"], event["row"])
                elif kind == "warning" and event["text"] not in warned:
                    warned.add(event["text"])
                    warnings.warn(event["text"], UserWarning, stacklevel=2)
                elif kind == "error":
                    raise UserError(event["text"])
                elif kind == "failure":
                    raise RuntimeError(f"a restart failed in its process:\n{event['text']}")
                elif kind == "interrupted":
                    stop.reason = INTERRUPTED
                elif kind == "ended":
                    active.discard(worker)
                    worker.check()
                if kind == "finished":
                    finish(event["index"], event["result"])
                if kind in ("ready", "finished"):
                    if waiting and not stop.is_set():
                        worker.train(waiting[0], budget.seconds_for_next(len(waiting)))
                        del waiting[0]
                    else:
                        worker.close()
        except KeyboardInterrupt:
            for worker in workers:
                worker.process.kill()
            raise
        finally:
            for worker in workers:
                worker.close()
            for worker in workers:
                worker.wait()
    if stop.is_set():
        stop.end_process()
        raise Interrupted


class _Worker:
    """A worker process, and a thread that reads its events.

    Args:
        message: what it receives first.
        events: where its events go, `(worker, event)`.
    """

    def __init__(self, message: bytes, events: "queue.Queue[tuple[_Worker, Event]]") -> None:
        self._errors = tempfile.TemporaryFile()
        self._closed = False
        paths = [path or os.getcwd() for path in sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pyro_vae.methods.restart_worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # a terminal's Ctrl-C reaches this process alone
        )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self._input, self._output = self.process.stdin, self.process.stdout
        self._thread = threading.Thread(target=self._listen, args=(message, events), daemon=True)
        self._thread.start()

    def _listen(self, message: bytes, events: "queue.Queue[tuple[_Worker, Event]]") -> None:
        self._send(message)
        for line in self._output:
            try:
                events.put((self, json.loads(line)))
            except ValueError:  # the interruption cut it off
                pass
        events.put((self, {"kind": "ended"}))

    def _send(self, message: bytes) -> None:
        try:
            self._input.write(message)
            self._input.flush()
        except (OSError, ValueError):  # it has ended, or is to end
            pass

    def train(self, index: int, max_time: float | None) -> None:
        """Let it train the restart with this index, for so many seconds."""
        self._send(json.dumps([index, max_time]).encode() + b"\n")

    def close(self) -> None:
        """End its input: it ends, and saves a checkpoint of what it trains."""
        self._closed = True
        try:
            self._input.close()
        except OSError:
            pass

    def check(self) -> None:
        """Raise if it ended without being asked to."""
        status = self.process.wait()
        if self._closed:  # an interrupted process may have any status
            return
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else "perhaps for lack of memory"
        raise UserError(
            f"a process of the restarts ended with status {status} ({reason[:200]}): rerun with "
            "resume to continue, with workers=1 if memory is short"
        )

    def wait(self) -> None:
        """Wait until it has ended."""
        self.process.wait()
        self._thread.join()
        self._output.close()
        self._errors.close()
