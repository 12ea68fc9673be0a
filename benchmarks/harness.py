"""What the benchmarks share: arguments, statistics, timing in alternating blocks, the result file."""

import argparse
import importlib.metadata
import json
import math
import multiprocessing
import os
import shlex
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from pyro_vae.report import html

VERSIONS = ("numpy", "scipy", "scikit-learn", "torchvision", "zuko")

# ------------------------------------------------------------------------- arguments


def parser(doc: str, seeds: int | None = None, cpu_only: bool = False) -> argparse.ArgumentParser:
    """The arguments of every benchmark; a module adds its own.

    Args:
        doc: the module's docstring, whose first paragraph describes the command.
        seeds: default number of seeds. Default: the benchmark has none.
        cpu_only: the benchmark does not run on a GPU.
    """
    arguments = argparse.ArgumentParser(description=doc.split("\n\n")[0])
    if seeds is not None:
        arguments.add_argument("--seeds", type=int, default=seeds, help="number of seeds")
    devices = ("cpu",) if cpu_only else None
    arguments.add_argument("--device", default="cpu", choices=devices, help="Default: cpu")
    arguments.add_argument("--threads", type=int, default=1, help="CPU threads. Default: 1")
    arguments.add_argument("--quick", action="store_true", help="a small version, to try it")
    arguments.add_argument("--out", type=Path, help="result file (JSON)")
    return arguments


def parse(arguments: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line and set the number of threads."""
    options = arguments.parse_args(argv)
    torch.set_num_threads(options.threads)
    return options


# ------------------------------------------------------------------------ statistics


def mean_sd(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation over seeds."""
    sd = statistics.stdev(values) if len(values) > 1 else 0
    return {"mean": statistics.mean(values), "sd": sd}


def means(runs: list[dict], keys: tuple[str, ...], metrics: tuple[str, ...]) -> dict[str, dict]:
    """`{"KEY, ..., METRIC": mean and sd}` of the runs with the same values of `keys`; printed."""
    groups: dict[str, list[dict]] = {}
    for run in runs:
        groups.setdefault(", ".join(run[key] for key in keys), []).append(run)
    table = {
        f"{group}, {metric}": mean_sd([run[metric] for run in own])
        for group, own in groups.items()
        for metric in metrics
    }
    width = max(map(len, table))
    for name, value in table.items():
        print(f"{name:<{width}} {value['mean']:8.3f} ± {value['sd']:.3f}")
    return table


def median_ratio(a: list[float], b: list[float]) -> float:
    """Median over rounds of `a` relative to the block of `b` in the same round."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------------------- timing


def touch_constants() -> None:
    """Touch torch's table of constants for vectorized logarithms and exponentials.

    In a fresh process `log1p` and `softplus` are up to ten times slower until one of them has met a
    value like -0.0 (torch 2.14, AVX-512). Where several ways share a process, the first one would
    change the time of the others.
    """
    torch.log1p(torch.tensor([-0.0]))


def synchronize(device: str | torch.device) -> None:
    """Wait until a GPU has finished; nothing on a CPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def seconds_per_call(
    function: Callable[[], object], calls: int, device: str | torch.device
) -> dict[str, float]:
    """Wall-clock and CPU seconds of one call, the mean over `calls` calls."""
    synchronize(device)
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        function()
    synchronize(device)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"wall_s": wall / calls, "cpu_s": cpu / calls}


def block_of(
    function: Callable[[], object], seconds: float, device: str | torch.device
) -> Callable[[], dict[str, float]]:
    """A function that times a block of calls which takes about `seconds`.

    The number of calls is fixed here, after a few that warm up.
    """
    calls = 1
    while (took := seconds_per_call(function, calls, device)["wall_s"]) * calls < seconds / 4:
        calls *= 2
    calls = max(1, math.ceil(seconds / took))
    return lambda: seconds_per_call(function, calls, device)


class Worker:
    """A process that builds one way of doing the work and measures blocks of it on request.

    Each way has a process of its own, so that no way depends on what ran before it.

    Args:
        build: picklable function that runs in the process and returns
            `(block, facts)`: `block()` measures one block and returns numbers by name, and `facts`
            are numbers that are measured once.
        threads: CPU threads, and cores that the process is kept on.
    """

    def __init__(self, build: Callable, threads: int = 1):
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, build, threads))
        self.process.start()
        other.close()

    def build(self) -> dict[str, float]:
        """Build the way; returns its facts."""
        self.connection.send("build")
        return self._answer()

    def block(self) -> dict[str, float]:
        """Measure one block."""
        self.connection.send("block")
        return self._answer()

    def close(self) -> None:
        """End the process."""
        if self.process.is_alive():
            try:
                self.connection.send("stop")
            except OSError:
                pass
        self.process.join(10)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()

    def _answer(self):
        try:
            kind, value = self.connection.recv()
        except EOFError:
            raise RuntimeError("the process ended") from None
        if kind == "error":
            raise RuntimeError(value)
        return value


def pin(cores: int) -> None:
    """Keep this process on so many of its cores, where the system can.

    XLA has a thread for each core that it sees, whatever its flags say, and more CPU time with two than
    on one.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])


def _serve(connection, build, threads):
    pin(threads)  # before a library counts the cores
    torch.set_num_threads(threads)
    try:
        if connection.recv() != "build":
            return
        block, facts = build()
        connection.send(("value", facts))
        while connection.recv() == "block":
            connection.send(("value", block()))
    except EOFError:
        pass  # the benchmark was interrupted
    except Exception:
        connection.send(("error", traceback.format_exc()))


def alternate(
    ways: dict[str, Callable], rounds: int, warmup: int = 1, threads: int = 1
) -> tuple[dict[str, dict], dict[str, list[dict]], dict[str, str]]:
    """Measure ways of doing the same work, each in its process, in alternating blocks.

    Args:
        ways: `{name: build}`, see `Worker`.
        rounds: blocks per way that count.
        warmup: blocks per way before these.
        threads: CPU threads per process.

    Returns:
        `{name: facts}`, `{name: [block, ...]}`, and `{name: traceback}` of the ways that failed.
    """
    workers, facts, blocks, errors = {}, {}, {}, {}
    try:
        for name, build in ways.items():
            workers[name] = Worker(build, threads)  # imports run at once, builds one by one
        for name, worker in workers.items():
            try:
                facts[name] = worker.build()
                blocks[name] = []
            except RuntimeError as e:
                errors[name] = str(e)
        for r in range(warmup + rounds):
            for name in [name for name in blocks if name not in errors]:
                try:
                    block = workers[name].block()
                except RuntimeError as e:
                    errors[name] = str(e)
                    continue
                if r >= warmup:
                    blocks[name].append(block)
    finally:
        for worker in workers.values():
            worker.close()
    return facts, {n: b for n, b in blocks.items() if n not in errors}, errors


# ----------------------------------------------------------------------- result file


def command(module: str, argv: list[str] | None = None) -> str:
    """The command that was run, without `--out`, which changes no number."""
    words = list(sys.argv[1:] if argv is None else argv)
    while "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    return " ".join(["python -m", module, *map(shlex.quote, words)])


def write(path: Path, command: str, **content) -> None:
    """Write a result file: the command, the hardware, the versions, and the results."""
    hardware = {**html.hardware(), "cores": os.cpu_count()}
    for package in VERSIONS:
        hardware[package] = importlib.metadata.version(package)
    result = {"command": command, "hardware": hardware, **content}
    path.write_text(json.dumps(result, indent=1) + "\n")
