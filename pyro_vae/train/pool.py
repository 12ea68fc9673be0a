"""Parts of a run that are trained alike, restarts or first VAEs: in processes, one for each idle core.

A worker is `python -m pyro_vae.train.pool_worker`. It does not import the caller's main module, so
that a notebook, and a script without `if __name__ == "__main__"`, need nothing special. Its standard
input is the connection to this process: it receives the task with its data, and the indices of the
parts to train. When the input ends, because this process closes it or ends in whatever way, the
worker interrupts its training and ends. Its standard output has one JSON value per line: an event.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, BinaryIO, Protocol, TypeAlias, TypedDict

import torch

from ..errors import UserError, check_int_at_least
from . import distributed
from .display import PartsBar, epochs_reported_to
from .interrupt import INTERRUPTED, stop_request

PROCESS_SECONDS = 10.0  # of training that further processes must save
MIN_SECONDS = 1e-3  # a part trains at least a step
LENGTH_BYTES = 8  # of the number that precedes a job
IN_WORKER = "PYRO_VAE_POOL_WORKER"  # environment variable of workers, which start no others
Event = dict[str, Any]
Events: TypeAlias = "queue.Queue[tuple[_Worker, Event]]"

_workers: ContextVar[int | None] = ContextVar("workers", default=None)


class Interrupted(Exception):
    """Ctrl-C ended the training of the parts."""


class Task(Protocol):
    """What is trained in parts; it is pickled for the workers.

    Attributes:
        part: what a part is called: "restart".
        advice: what to do if a process has died, perhaps because memory is short.
    """

    part: str
    advice: str

    def train(self, index: int, max_time: float | None) -> Any:
        """Train a part.

        Args:
            index: of the part.
            max_time: seconds that it may train; None for no limit.

        Returns:
            What JSON can represent; None if the part was interrupted.
        """


class TimeBudget:
    """The time that is left for parts which together have a time limit.

    Args:
        seconds: for all parts, from now on; None for no limit.
        count: parts that train at the same time.
    """

    def __init__(self, seconds: float | None, count: int = 1) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._count = count

    def seconds_for_next(self, waiting: int) -> float | None:
        """The seconds for the next part, an equal part of those left; None for no limit.

        Args:
            waiting: parts that have not begun, this one included.
        """
        if self._deadline is None:
            return None
        rounds = -(-waiting // self._count)
        return max(MIN_SECONDS, (self._deadline - time.monotonic()) / rounds)


class Job(TypedDict):
    """What a worker receives first.

    Args:
        task: pickled, with its data.
        threads, dtype, matmul_precision, deterministic: torch's modes in this process.
    """

    task: bytes
    threads: int
    dtype: torch.dtype
    matmul_precision: str
    deterministic: bool


@contextmanager
def num_workers(count: int | None) -> Iterator[None]:
    """Within, parts are trained by so many processes; None: as many as without this context.

    Raises:
        UserError: it is not an integer >= 1.
    """
    if count is not None:
        check_int_at_least(1, workers=count)
    token = _workers.set(_workers.get() if count is None else count)
    try:
        yield
    finally:
        _workers.reset(token)


def num_processes(pending: int, seconds: float, device: torch.device) -> int:
    """How many processes train the parts; 1: this one.

    Parts on a GPU, and those of a run by several processes of `torchrun`, train in sequence. A part
    needs as many cores as this process has threads. A part of few seconds is not worth a process,
    which takes seconds to start; nor does a process that another one started, as in a parallel grid
    search, start more. The results are the same, bit for bit.

    Args:
        pending: number of parts to train.
        seconds: about how long a part trains.
        device: where to train.
    """
    if device.type != "cpu" or distributed.size() > 1 or not sys.executable:
        return 1
    if os.environ.get(IN_WORKER):
        return 1
    workers = _workers.get()
    if workers is None:
        from joblib import cpu_count  # of this process, as cgroups and affinity allow

        workers = max(1, cpu_count() // torch.get_num_threads())
        is_child = multiprocessing.parent_process() is not None
        if is_child or seconds * (pending - 1) < PROCESS_SECONDS:
            return 1
    return max(1, min(workers, pending))


def train_parts(
    task: Task,
    pending: Sequence[int],
    count: int,
    bar: PartsBar,
    finish: Callable[[int, Any], None] = lambda index, result: None,
    max_time: float | None = None,
) -> None:
    """Train parts of a task, in `count` processes if the task can be sent to them.

    Args:
        task: what is trained.
        pending: indices of the parts to train.
        count: number of processes; 1: in sequence, in this one.
        bar: shows their epochs.
        finish: called with the index and the result of each part that has finished.
        max_time: seconds for all parts together.

    Raises:
        Interrupted: Ctrl-C; in processes, a second one ends them at once.
        UserError: a part failed, or a process ended.
    """

    def end(index: int, result: Any) -> None:
        finish(index, result)
        bar.finish(index)

    payload = _pickled(task) if count > 1 else None
    if payload is not None:
        _train_in_processes(task, payload, pending, count, bar, end, max_time)
        return
    budget = TimeBudget(max_time)
    for position, n in enumerate(pending):
        try:
            with epochs_reported_to(partial(bar.show_epoch, n)):
                result = task.train(n, budget.seconds_for_next(len(pending) - position))
        except KeyboardInterrupt:  # during an initialization
            result = None
        if result is None:
            raise Interrupted
        end(n, result)


def _pickled(task: Task) -> bytes | None:
    """The task with its data for a worker; None if they cannot be sent.

    A condition that is a lambda or a function of the main module cannot: a worker does not import
    the main module.
    """
    try:
        payload = pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None
    return None if b"__main__" in payload else payload


def _job_message(payload: bytes) -> bytes:
    """The job of the pickled task, with torch's modes in this process, as `read_job` reads it."""
    job: Job = {
        "task": payload,
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    content = pickle.dumps(job)
    return len(content).to_bytes(LENGTH_BYTES, "big") + content


def read_job(stream: BinaryIO) -> Job:
    """The job that a worker receives on its input."""
    length = int.from_bytes(stream.read(LENGTH_BYTES), "big")
    job: Job = pickle.loads(stream.read(length))
    return job


def _train_in_processes(
    task: Task,
    payload: bytes,
    pending: Sequence[int],
    count: int,
    bar: PartsBar,
    finish: Callable[[int, Any], None],
    max_time: float | None,
) -> None:
    """Train parts in `count` processes; the arguments are those of `train_parts`."""
    message = _job_message(payload)
    events: Events = queue.Queue()
    waiting, warned = list(pending), set[str]()
    budget = TimeBudget(max_time, count)
    with stop_request() as stop, _workers_of(task, message, events, count) as workers:
        active = set(workers)
        while active:
            if stop.is_set():
                for worker in active:
                    worker.close()
            try:
                worker, event = events.get(timeout=0.2)
            except queue.Empty:
                continue
            kind = event["kind"]
            if kind in ("ready", "finished"):
                if kind == "finished":
                    finish(event["index"], event["result"])
                if waiting and not stop.is_set():
                    worker.train(waiting[0], budget.seconds_for_next(len(waiting)))
                    del waiting[0]
                else:
                    worker.close()
            elif kind == "interrupted":
                stop.reason = INTERRUPTED
            elif kind == "ended":
                active.discard(worker)
                worker.check()
            else:
                _report(event, task, bar, warned)
    if stop.is_set():
        stop.end_process()
        raise Interrupted


def _report(event: Event, task: Task, bar: PartsBar, warned: set[str]) -> None:
    """Show an epoch, warn (of each text once), or raise an error of a worker."""
    kind = event["kind"]
    if kind == "epoch":
        bar.show_epoch(event["index"], event["row"])
    elif kind == "warning" and event["text"] not in warned:
        warned.add(event["text"])
        warnings.warn(event["text"], UserWarning, stacklevel=3)
    elif kind == "error":
        raise UserError(event["text"])
    elif kind == "failure":
        raise RuntimeError(f"a {task.part} failed in its process:\n{event['text']}")


@contextmanager
def _workers_of(
    task: Task, message: bytes, events: Events, count: int
) -> Iterator[list["_Worker"]]:
    """Workers, which have ended on exit; Ctrl-C within, which is a second one, kills them."""
    workers = [_Worker(task, message, events) for _ in range(count)]
    try:
        yield workers
    except KeyboardInterrupt:
        for worker in workers:
            worker.process.kill()
        raise
    finally:
        for worker in workers:
            worker.close()
        for worker in workers:
            worker.wait()


class _Worker:
    """A worker process, and a thread that reads its events.

    Args:
        task: what it trains.
        message: what it receives first.
        events: where its events go, `(worker, event)`.
    """

    def __init__(self, task: Task, message: bytes, events: Events) -> None:
        self._task = task
        self._errors = tempfile.TemporaryFile()
        self._closed = False
        paths = [path or os.getcwd() for path in sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pyro_vae.train.pool_worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), IN_WORKER: "1"},
            start_new_session=True,  # a terminal's Ctrl-C reaches this process alone
        )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self._input, self._output = self.process.stdin, self.process.stdout
        self._thread = threading.Thread(target=self._listen, args=(message, events), daemon=True)
        self._thread.start()

    def _listen(self, message: bytes, events: Events) -> None:
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
        """Let it train the part with this index, for so many seconds."""
        self._send(json.dumps([index, max_time]).encode() + b"\n")

    def close(self) -> None:
        """End its input: it interrupts what it trains, and ends."""
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
            f"a process that trains a {self._task.part} ended with status {status} "
            f"({reason[:200]}): {self._task.advice}, with workers=1 if memory is short"
        )

    def wait(self) -> None:
        """Wait until it has ended."""
        self.process.wait()
        self._thread.join()
        self._output.close()
        self._errors.close()
