"""What recording and compiling a step save, by the operations of its loss, on one CPU core.

    python -m benchmarks.speed.backends [--quick] [--out FILE.json]

The constants of `fit(compile="auto")` are fitted to these rows (`pyro_vae/programs/backends.py`). Each way runs in a separate
process, and the processes take turns in blocks of one second. A number is the median CPU time over
blocks. The first call is measured with an empty cache of Inductor (`first_call_s`) and once more in a
process that finds the code there (`cached_call_s`).
"""

import os
import statistics
import tempfile
from functools import partial

import torch

import pyro_vae as pv
from pyro_vae.programs.backends import Work, measure_work
from pyro_vae.programs.runtime import flushed_denormals

from .. import harness
from . import ways
from .workloads import WORKLOADS, batch_of

BACKENDS = ("plain", "recorded", "inductor")
CACHE = "TORCHINDUCTOR_CACHE_DIR"


def digits(name):
    """The pair of a method for digits, and its training images."""
    method = pv.method(name, "digits")
    return method.build(), method.data.train.x


def cases():
    """`{name: function that returns (pair, batch)}`."""

    def of_method(name, size):
        pair, x = digits(name)
        return pair, x[:size]

    def of_workload(name, size):
        return WORKLOADS[name][0](), batch_of(size, "cpu")

    result = {f"{n}, digits, 128": partial(of_method, n, 128) for n in ("vae", "vade", "gmvae")}
    for name in ("vae", "gmvae", "m2"):
        result[f"{name}, 784 pixels, 128"] = partial(of_workload, name, 128)
    return result


def build(case, backend, cache):
    """`(block, facts)` of one way, in its process: see `harness.Worker`."""
    os.environ[CACHE] = cache
    pair, x = cases()[case]()
    way = {"plain": ways.plain, "recorded": ways.recorded, "inductor": ways.inductor}[backend]
    step = way(pair, None)
    first = harness.seconds_per_call(partial(step, x), 1, "cpu")["wall_s"]
    loss = partial(pv.objectives.ELBO().differentiable_loss, *pair)
    _, work = measure_work(partial(loss, x=x))
    facts = {"first_call_s": first, **work._asdict()}

    def flushed():
        with flushed_denormals():  # as in `fit`
            return step(x)

    return harness.block_of(flushed, 1.0, "cpu"), facts


def measure(case, rounds, threads):
    """The row of one case."""
    with tempfile.TemporaryDirectory() as cache:
        builds = {b: partial(build, case, b, cache) for b in BACKENDS}
        facts, blocks, errors = harness.alternate(builds, rounds, threads=threads)
        if errors:
            raise RuntimeError(errors)
        again, _, _ = harness.alternate({"inductor": builds["inductor"]}, 0, 0, threads)
    row = {"step": case, **{n: facts["plain"][n] for n in Work._fields}}
    for backend in BACKENDS:
        row[f"{backend}, ms"] = 1e3 * statistics.median(b["cpu_s"] for b in blocks[backend])
    row["recording, first call, s"] = facts["recorded"]["first_call_s"]
    row["compiling, first call, s"] = facts["inductor"]["first_call_s"]
    row["compiled before, first call, s"] = again["inductor"]["first_call_s"]
    return row


def main(argv=None):
    arguments = harness.parser(__doc__, cpu_only=True)
    options = harness.parse(arguments, argv)
    torch.manual_seed(0)
    rows = []
    for case in list(cases())[: 1 if options.quick else None]:
        rows.append(measure(case, 1 if options.quick else 5, options.threads))
        print(rows[-1], flush=True)
    if options.out:
        command = harness.command("benchmarks.speed.backends", argv)
        harness.write(options.out, command, rows=rows)


if __name__ == "__main__":
    main()
