"""A process that trains parts: `python -m pyro_vae.train.pool_worker`; see `pool`."""

import _thread
import json
import os
import pickle
import queue
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

import torch

from ..errors import UserError
from .display import epochs_reported_to
from .pool import Event, Job, Task, read_job

Send = Callable[[Event], None]


def main() -> int:
    """Read a job and the indices of parts from the input; report events on the output."""
    send = _take_output()
    warnings.showwarning = lambda message, *_: send({"kind": "warning", "text": str(message)})
    try:
        job = read_job(sys.stdin.buffer)
        task: Task = pickle.loads(job["task"])
    except Exception as e:
        reason = f"{type(e).__name__}: {e}"
        send({"kind": "error", "text": f"a process cannot load the data ({reason}): use workers=1"})
        return 0
    _use_modes(job)
    orders = _Orders(sys.stdin.buffer)
    send({"kind": "ready"})
    try:
        while (order := orders.get()) is not None:
            event = _train(task, *order, send)
            orders.busy = False
            send(event)
    except KeyboardInterrupt:  # the input ended outside of a training step
        send({"kind": "interrupted"})
    return 0


def _train(task: Task, index: int, max_time: float | None, send: Send) -> Event:
    """Train one part; returns the event that says how it ended."""
    report = partial(_report_epoch, send, index)
    try:
        with epochs_reported_to(report):
            result = task.train(index, max_time)
    except UserError as e:
        return {"kind": "error", "text": f"{task.part} {index}: {e}"}
    except Exception:
        return {"kind": "failure", "text": traceback.format_exc()}
    if result is None:
        return {"kind": "interrupted"}
    return {"kind": "finished", "index": index, "result": result}


def _report_epoch(send: Send, index: int, row: dict[str, Any]) -> None:
    send({"kind": "epoch", "index": index, "row": row})


def _take_output() -> Send:
    """Keep standard output for events; what else is printed goes to standard error."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(event: Event) -> None:
        with lock:
            events.write(json.dumps(event) + "\n")
            events.flush()

    return send


def _use_modes(job: Job) -> None:
    """Compute as the process that started this one: the same threads, types and algorithms."""
    torch.set_num_threads(job["threads"])
    torch.set_default_dtype(job["dtype"])
    torch.set_float32_matmul_precision(job["matmul_precision"])
    if job["deterministic"]:  # it imports Inductor, which takes a second
        torch.use_deterministic_algorithms(True)


class _Orders:
    """The parts to train, as a thread reads them; the end of the input interrupts training."""

    def __init__(self, stream: BinaryIO) -> None:
        self.busy = False
        self._queue: queue.Queue[tuple[int, float | None] | None] = queue.Queue()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def get(self) -> tuple[int, float | None] | None:
        """The next `(index, seconds or None)`; None at the end of the input."""
        order = self._queue.get()
        self.busy = order is not None
        return order

    def _read(self, stream: BinaryIO) -> None:
        try:
            for line in stream:
                index, max_time = json.loads(line)
                self._queue.put((index, max_time))
        finally:
            self._queue.put(None)
        if self.busy:
            _thread.interrupt_main()  # as Ctrl-C: training stops between two steps, and is saved


if __name__ == "__main__":
    sys.exit(main())
