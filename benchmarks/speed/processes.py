"""Data points per second in one process and in several, with the same global batch, on one machine.

    python -m benchmarks.speed.processes [--processes 1 2] [--device cuda] [--out FILE.json]

A VAE 784-400-20 on 10,000 images of noise, batch 512, one thread per process, recorded step. The
numbers of processes take turns, `--rounds` times. A run counts with its median epoch, the first one
left out; the table has the median over runs. The result means something only where each process has
a core (or GPU) to itself, so the load average is recorded.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import pyro_vae as pv
from pyro_vae.conditionals import MLP

from .. import harness


def train(out, epochs, device):
    """Train in one of the processes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.rand(10_000, 784).round()
    net = MLP((400,))
    model = pv.models.VAE((784,), 20, network=net)
    guide = pv.guides.Guide(model, network=net)
    pv.fit(
        model, guide, x, epochs, batch_size=512, compile="recorded", device=device, out=out,
        progress=False,
    )  # fmt: skip


def measure(processes, epochs, device):
    """Data points per second of one run."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [
            f"--nproc_per_node={processes}",
            "-m",
            "benchmarks.speed.processes",
            "--train",
            out,
        ]
        command += ["--epochs", str(epochs), "--device", device]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        lines = (Path(out) / "metrics.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["data_per_second"] for line in lines[1:])


def main(argv=None):
    arguments = harness.parser(__doc__)
    arguments.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--epochs", type=int, default=6)
    arguments.add_argument("--train", help=argparse.SUPPRESS)
    options = harness.parse(arguments, argv)
    if options.train:
        train(options.train, options.epochs, options.device)
        return
    if options.quick:
        options.rounds, options.epochs = 1, 3
    runs = {n: [] for n in options.processes}
    load = os.getloadavg()[0]
    for _ in range(options.rounds):
        for n in options.processes:
            runs[n].append(measure(n, options.epochs, options.device))
    one = statistics.median(runs[options.processes[0]])
    rows = []
    for n in options.processes:
        median = statistics.median(runs[n])
        rows.append({"processes": n, "data_per_second": median, "ratio": median / one})
        print(f"{n:>3} processes {median:>12,.0f} data points/s   x {median / one:.2f}")
    print(f"cores {os.cpu_count()}, load average before {load:.1f}")
    if options.out:
        command = harness.command("benchmarks.speed.processes", argv)
        harness.write(options.out, command, rows=rows, runs=runs, load_average_before=load)


if __name__ == "__main__":
    main()
