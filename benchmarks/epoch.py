"""Time of an epoch of MNIST, end to end: this library against Pyro's examples and hand-written torch.

    python -m benchmarks.epoch [--quick] [--device cuda] [--out FILE.json]

60,000 images in shuffled batches, binarized anew, loss, gradients and Adam. "loader" is what Pyro's
examples do: torchvision's MNIST with `ToTensor` in a shuffling `DataLoader`; "indexed" has the data as
one tensor on the device, shuffled there by `randperm`, as `fit` does. The rows of `pyro_vae` are
`pv.fit` itself, without validation: the second epoch of two; `first` is the first one, with the
recording. All ways have the same networks and estimator (`benchmarks.speed` checks that) and take
turns in one process; medians over rounds. MNIST lies in `$PYRO_VAE_DATA`, else in `~/.cache/pyro_vae`.
"""

import argparse
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import pyro
import torch
import torchvision
from torch.utils.data import DataLoader, Subset

import pyro_vae as pv

from . import speed
from .results import write


def with_loader(step, mnist, size, device):
    """A function that trains an epoch as Pyro's examples do."""
    loader = DataLoader(mnist, batch_size=size, shuffle=True)

    def epoch():
        for x, _ in loader:
            step(torch.bernoulli(x.view(-1, speed.X).to(device)))

    return epoch


def indexed(step, x, size):
    """A function that trains an epoch on one tensor, shuffled where it lies."""

    def epoch():
        for rows in torch.randperm(len(x), device=x.device).split(size):
            step(torch.bernoulli(x[rows]))

    return epoch


def fitted(make, x, size, compile):
    """A function that runs `fit` and returns the seconds of its first and of its second epoch."""
    data = pv.data.Data(pv.data.Split(x), binarize="dynamic", likelihood="bernoulli")

    def epochs():
        run = pv.fit(
            *make(), data, 2, batch_size=size, compile=compile, device=x.device, progress=False
        )
        return [row["seconds"] for row in run.history]

    return epochs


def _timed(epoch, device):
    """Seconds of an epoch; nothing waits for a GPU but the end."""
    started = time.perf_counter()
    epoch()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return None, time.perf_counter() - started


def measure(name, size, rounds, images, device):
    """`[{way, median seconds, ratios, first epoch}]` of one workload at one batch size."""
    make, by_hand = speed.WORKLOADS[name]
    speed.check(name, make, by_hand)
    root = Path(os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae").expanduser()
    to_tensor = torchvision.transforms.ToTensor()
    mnist = torchvision.datasets.MNIST(root, download=True, transform=to_tensor)
    x = (mnist.data[:images].float() / 255).reshape(-1, speed.X).to(device)

    def build(step):
        torch.manual_seed(0)
        return step([m.to(device) for m in make()], by_hand)

    loader = partial(with_loader, mnist=Subset(mnist, range(images)), size=size, device=device)
    epochs = {
        "pyro SVI, loader": loader(build(speed.svi)),
        "hand-written, loader": loader(build(speed.eager)),
        "hand-written, indexed": indexed(build(speed.eager), x, size),
    }
    ways = {way: partial(_timed, epoch, device) for way, epoch in epochs.items()}
    for compile in (False, "recorded", True):
        kind = {False: "plain", True: "inductor"}.get(compile, compile)
        ways[f"pyro_vae.fit, {kind}"] = fitted(make, x, size, compile)
    first, times = {}, {way: [] for way in ways}
    for _ in range(rounds):
        for way, epoch in ways.items():
            with pyro.validation_enabled(False):
                before, seconds = epoch()
            first.setdefault(way, before)
            times[way].append(seconds)
    pyro.clear_param_store()
    return [
        {
            "workload": name,
            "batch": size,
            "way": way,
            "median_s": statistics.median(t),
            "ratio_to_indexed": speed.ratio(t, times["hand-written, indexed"]),
            "ratio_to_pyro": speed.ratio(t, times["pyro SVI, loader"]),
            "first_epoch_s": first[way],
        }
        for way, t in times.items()
    ]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the images, one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workloads", nargs="+", default=["vae"], choices=speed.WORKLOADS)
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    torch.set_num_threads(1)
    images, rounds = (6_000, 1) if a.quick else (60_000, a.rounds)
    rows = []
    for name in a.workloads:
        for size in a.batches:
            found = measure(name, size, rounds, images, torch.device(a.device))
            rows += found
            print(
                f"\n{name}, batch {size}, {images} images     s  ÷ indexed  ÷ Pyro  first epoch, s"
            )
            for row in found:
                first = "" if row["first_epoch_s"] is None else f"{row['first_epoch_s']:10.2f}"
                print(
                    f"  {row['way']:<24}{row['median_s']:9.2f}{row['ratio_to_indexed']:10.2f}"
                    f"{row['ratio_to_pyro']:9.2f}{first}",
                    flush=True,
                )
    if a.out:
        said = sys.argv[1:] if argv is None else argv
        write(
            a.out, " ".join(["python -m benchmarks.epoch", *said]), threads=1, images=images,
            rows=rows,
        )  # fmt: skip


if __name__ == "__main__":
    main()
