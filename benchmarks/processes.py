"""Data a second in one process and in several, the global batch the same, on one machine.

    python -m benchmarks.processes [--processes 1 2] [--device cpu] [--out FILE.json]

A VAE 784-400-20 on 10,000 images of noise, batch 512, one thread a process, recorded step. Launched
in turn, `--repeats` times; the median epoch of each run without its first, and the median of runs.
Meaningful only where each process has a core (or GPU) to itself: the load average is recorded.
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

from .results import write


def train(out, epochs, device):
    """What each process runs."""
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
    """Data a second of one run."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc_per_node={processes}", "-m", "benchmarks.processes", "--train", out]
        command += ["--epochs", str(epochs)] + (["--device", device] if device else [])
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        lines = (Path(out) / "metrics.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["data_per_second"] for line in lines[1:])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    a = parser.parse_args(argv)
    if a.train:
        train(a.train, a.epochs, a.device)
        return
    runs = {n: [] for n in a.processes}
    load = os.getloadavg()[0]
    for _ in range(a.repeats):
        for n in a.processes:
            runs[n].append(measure(n, a.epochs, a.device))
    one = statistics.median(runs[a.processes[0]])
    rows = []
    for n in a.processes:
        median = statistics.median(runs[n])
        rows.append({"processes": n, "data_per_second": median, "ratio": median / one})
        print(f"{n:>3} processes {median:>12,.0f} data/s   x {median / one:.2f}")
    print(f"cores {os.cpu_count()}, load average before {load:.1f}")
    if a.out:
        write(
            a.out, f"python -m benchmarks.processes --repeats {a.repeats}", rows=rows, runs=runs,
            cores=os.cpu_count(), load_average_before=load,
        )  # fmt: skip


if __name__ == "__main__":
    main()
