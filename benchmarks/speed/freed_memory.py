"""What work on a CPU takes where glibc keeps freed memory for the next tensors, and where it returns it.

    python -m benchmarks.speed.freed_memory [--processes N] [--quick] [--out FILE.json]

Each measurement is a fresh process with one thread, the two ways in turn: the least CPU time of some
calls, in ms, and how many pages the kernel filled in that call. log_likelihood takes 500 importance
samples of 200 images with a VAE, 784-400-20; a step is a plain or a recorded training step of a VAE or a
GMVAE at a batch of 512 (`workloads`). Reported are medians over processes. `needed` says whether keeping
gains a tenth or more anywhere: else `_torch_internals.keep_freed_memory` can go.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time

import pyro
import torch

import pyro_vae as pv
from pyro_vae.programs import layout
from pyro_vae.train.steps.recorded import RecordedStep

from .. import harness
from .workloads import batch_of, gmvae, vae

PAIRS = {"VAE": vae, "GMVAE": gmvae}
TASKS = ("log_likelihood", "VAE, plain", "VAE, recorded", "GMVAE, plain", "GMVAE, recorded")
NEEDED = 1.1


def work(task: str, quick: bool):
    """`(function, calls)` of one task."""
    torch.manual_seed(0)
    pyro.enable_validation(False)
    if task == "log_likelihood":
        model, guide = vae()
        x, samples = batch_of(200), 50 if quick else 500
        return lambda: pv.evaluate.log_likelihood(model, guide, x, samples), 3
    name, _, backend = task.partition(", ")
    pair, batch = PAIRS[name](), {"x": batch_of(512)}
    step = RecordedStep(pv.objectives.ELBO(), pair, "recorded")
    return lambda: (step if backend == "recorded" else step.plain)(batch), 3 if quick else 20


def measure_here(task: str, state: str, quick: bool) -> dict[str, float]:
    """The least CPU time of a call, and its page faults."""
    torch.set_num_threads(1)
    if state == "returned":
        layout.keep_freed_memory = lambda: None
    function, calls = work(task, quick)
    function()
    least = {"ms": float("inf"), "faults": 0}
    for _ in range(calls):
        faults, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        function()
        ms = 1e3 * (time.process_time() - start)
        if ms < least["ms"]:
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
            least = {"ms": ms, "faults": faults}
    return least


def measure(task: str, state: str, quick: bool) -> dict[str, float]:
    """`measure_here` in a fresh process."""
    module = "benchmarks.speed.freed_memory"
    command = [sys.executable, "-m", module, "--task", task, "--state", state]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(
        command + ["--quick"] * quick, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(output.stdout.splitlines()[-1])


def compare(task: str, processes: int, quick: bool) -> dict[str, object]:
    """One task, returned and kept in turn: a row of the result."""
    found: dict[str, list[dict[str, float]]] = {"returned": [], "kept": []}
    for _ in range(processes):
        for state in found:
            found[state].append(measure(task, state, quick))
    times = {s: [each["ms"] for each in values] for s, values in found.items()}
    row: dict[str, object] = {"task": task}
    for state, values in found.items():
        row[f"{state}, ms"] = statistics.median(times[state])
        row[f"{state}, pages"] = statistics.median(each["faults"] for each in values)
    return row | {"returned / kept": harness.median_ratio(times["returned"], times["kept"])}


def main(argv: list[str] | None = None) -> dict[str, object] | None:
    arguments = harness.parser(__doc__, cpu_only=True)
    arguments.add_argument("--processes", type=int, default=5, help="of each state")
    arguments.add_argument("--task", choices=TASKS, help="measure in this process")
    arguments.add_argument("--state", choices=("returned", "kept"), default="kept")
    options = harness.parse(arguments, argv)
    if options.task:
        print(json.dumps(measure_here(options.task, options.state, options.quick)))
        return None
    tasks, processes = (TASKS[:1], 1) if options.quick else (TASKS, options.processes)
    rows = []
    for task in tasks:
        rows.append(compare(task, processes, options.quick))
        print(rows[-1], flush=True)
    result = {"rows": rows, "needed": any(row["returned / kept"] >= NEEDED for row in rows)}
    if options.out:
        harness.write(options.out, harness.command("benchmarks.speed.freed_memory", argv), **result)
    return result


if __name__ == "__main__":
    main()
