"""Time of an epoch of MNIST, end to end: this library, Pyro's examples and hand-written torch.

    python -m benchmarks.speed.epoch [--quick] [--device cuda] [--out FILE.json]

An epoch is 60,000 images in shuffled batches, binarized anew, with loss, gradients and Adam.
"loader" is what Pyro's examples do: torchvision's MNIST with `ToTensor` in a shuffling `DataLoader`.
"indexed" has the data as one tensor on the device, shuffled there by `randperm`, as `fit` does. The
rows of `pyro_vae` are `pv.fit` itself, without validation: the second epoch of two. `first_epoch_s`
is the first one, with the recording. All ways have the same networks and estimator
(`benchmarks.speed.step` checks that). Each has a process with one thread; the processes take turns;
medians of wall-clock time over rounds. MNIST lies in `$PYRO_VAE_DATA`, else in `~/.cache/pyro_vae`.
"""

import os
import statistics
from functools import partial
from pathlib import Path

import pyro
import torch
import torchvision
from torch.utils.data import DataLoader, Subset

import pyro_vae as pv

from .. import harness
from . import ways
from .workloads import WORKLOADS, X, check

#: name: (step, how the data are read)
BY_HAND = {
    "pyro SVI, loader": (ways.svi, "loader"),
    "hand-written, loader": (ways.eager, "loader"),
    "hand-written, indexed": (ways.eager, "indexed"),
}
FITS = {
    "pyro_vae.fit, plain": False,
    "pyro_vae.fit, recorded": "recorded",
    "pyro_vae.fit, Inductor": True,
}
INDEXED, PYRO = "hand-written, indexed", "pyro SVI, loader"


def load_mnist():
    root = Path(os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae").expanduser()
    to_tensor = torchvision.transforms.ToTensor()
    return torchvision.datasets.MNIST(root, download=True, transform=to_tensor)


def with_loader(step, mnist, size, device):
    """A function that trains an epoch as Pyro's examples do."""
    loader = DataLoader(mnist, batch_size=size, shuffle=True)

    def epoch():
        for x, _ in loader:
            step(torch.bernoulli(x.view(-1, X).to(device)))

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
        first, second = [row["seconds"] for row in run.history]
        return {"first_s": first, "wall_s": second}

    return epochs


def build(workload, size, images, way, device):
    """`(block, facts)` of one way, in its process: see `harness.Worker`; a block is an epoch."""
    make, by_hand = WORKLOADS[workload]
    pyro.enable_validation(False)  # `ways.svi` enables it within its step, as Pyro does by default
    mnist = load_mnist()
    x = (mnist.data[:images].float() / 255).reshape(-1, X).to(device)
    torch.manual_seed(0)
    if way in FITS:
        return fitted(make, x, size, FITS[way]), {}
    make_step, reader = BY_HAND[way]
    step = make_step([m.to(device) for m in make()], by_hand)
    if reader == "loader":
        epoch = with_loader(step, Subset(mnist, range(images)), size, device)
    else:
        epoch = indexed(step, x, size)
    return partial(harness.seconds_per_call, epoch, 1, device), {}


def measure(workload, size, images, options):
    """A row for each way of one workload at one batch size."""
    check(workload, *WORKLOADS[workload])
    builds = {
        way: partial(build, workload, size, images, way, options.device) for way in BY_HAND | FITS
    }
    _, blocks, errors = harness.alternate(builds, options.rounds, 0, options.threads)
    if errors:
        raise RuntimeError("\n".join(f"{way}: {error}" for way, error in errors.items()))
    times = {way: [block["wall_s"] for block in measured] for way, measured in blocks.items()}
    return [
        {
            "workload": workload,
            "batch": size,
            "way": way,
            "median_s": statistics.median(times[way]),
            "ratio_to_indexed": harness.median_ratio(times[way], times[INDEXED]),
            "ratio_to_pyro": harness.median_ratio(times[way], times[PYRO]),
            "first_epoch_s": blocks[way][0].get("first_s"),
        }
        for way in builds
    ]


def main(argv=None):
    arguments = harness.parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--workloads", nargs="+", default=["vae"], choices=WORKLOADS)
    arguments.add_argument("--batches", nargs="+", type=int, default=[128, 512])
    options = harness.parse(arguments, argv)
    images = 60_000
    if options.quick:
        images, options.rounds = 6_000, 1
    load_mnist()  # so that no two processes download it
    rows = []
    for workload in options.workloads:
        for size in options.batches:
            rows += (measured := measure(workload, size, images, options))
            print(f"\n{workload}, batch {size}, {images} images")
            print(f"{'s':>35}  ÷ indexed  ÷ Pyro  first epoch, s")
            for row in measured:
                first = "" if row["first_epoch_s"] is None else f"{row['first_epoch_s']:10.2f}"
                print(
                    f"  {row['way']:<24}{row['median_s']:9.2f}{row['ratio_to_indexed']:10.2f}"
                    f"{row['ratio_to_pyro']:9.2f}{first}",
                    flush=True,
                )
            if options.out:
                command = harness.command("benchmarks.speed.epoch", argv)
                harness.write(options.out, command, images=images, rows=rows)


if __name__ == "__main__":
    main()
