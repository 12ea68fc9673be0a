"""What a training step takes with and without numbers below the smallest normal one.

    python -m benchmarks.speed.denormals [--quick] [--out FILE.json]

A run is trained for some epochs, and then its step is timed at these weights, the two ways in turn:
the processor computes such numbers, or returns zero (`programs.runtime.flushed_denormals`). A number is
the median CPU time of a step over blocks, in ms, on one core. The step is the recorded loss and its gradients; the weights stay.
"""

import statistics
from functools import partial

import torch

import pyro_vae as pv
from pyro_vae.programs.runtime import flushed_denormals
from pyro_vae.train.steps.recorded import RecordedStep

from .. import harness

METHODS = ("vae", "vade", "gmvae")
EPOCHS = (0, 10, 50)


def measure(name, epochs, rounds):
    """The row of one method after some epochs."""
    first = {} if name == "vae" else {"initialize.vaes": 1}
    method = pv.method(name, "digits", seed=0, epochs=max(epochs, 1), **first)
    pair = method.build()
    if epochs:
        run = method.fit(progress=False)
        pair = run.model, run.guide
    step = RecordedStep(pv.objectives.ELBO(), pair, "recorded")
    batch = {"x": method.data.train.x[:128]}
    step(batch)
    block = harness.block_of(partial(step, batch), 0.5, "cpu")
    times = {"computed": [], "flushed": []}
    for _ in range(rounds):
        times["computed"].append(block()["cpu_s"])
        with flushed_denormals():
            times["flushed"].append(block()["cpu_s"])
    row = {"method": name, "epochs": epochs}
    row |= {f"{way}, ms": 1e3 * statistics.median(values) for way, values in times.items()}
    return row | {"flushed / computed": row["flushed, ms"] / row["computed, ms"]}


def main(argv=None):
    arguments = harness.parser(__doc__, cpu_only=True)
    options = harness.parse(arguments, argv)
    torch.set_num_threads(options.threads)
    rows = []
    for name in METHODS[: 1 if options.quick else None]:
        for epochs in EPOCHS[: 1 if options.quick else None]:
            rows.append(measure(name, epochs, 1 if options.quick else 7))
            print(rows[-1], flush=True)
    if options.out:
        command = harness.command("benchmarks.speed.denormals", argv)
        harness.write(options.out, command, rows=rows)
    return rows


if __name__ == "__main__":
    main()
