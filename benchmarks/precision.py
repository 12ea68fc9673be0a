"""What low precision in training costs the bound, and what it gains in time.

    python -m benchmarks.precision [--device cuda] [--out FILE.json]

Methods on the digits with their defaults, no start: the test ELBO (float32, 100 samples) of runs
trained with each precision from the same weights and noise, its difference to float32's by seed,
and the milliseconds of a step, median of epochs. On a processor there is `bf16`, on a GPU `tf32` too.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch

import pyro_vae as pv
from pyro_vae import methods

from .clustering import mean_sd
from .results import write

NAMES = ("vae", "m2", "gmvae")


def trained(name, seed, epochs, precision, device):
    """`(test ELBO, ms per step)`"""
    overrides = {"initialize": None, "epochs": epochs, "precision": precision, "seed": seed}
    run = pv.method(name, "digits", **overrides).fit(device=device, progress=False)
    steps = -(-len(run.data.train.x) // run.config["batch_size"])
    seconds = statistics.median(row["seconds"] for row in run.history)
    x = run.data.observed_split("test").x
    bound = pv.evaluate.elbo(run.model, run.guide, x, num_samples=100).mean()
    return float(bound), 1e3 * seconds / steps


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=list(NAMES), choices=methods.METHODS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    torch.set_num_threads(1)
    precisions = (None, "bf16", "tf32") if a.device.startswith("cuda") else (None, "bf16")
    rows = []
    for name in a.methods:
        found = {
            p: [trained(name, seed, a.epochs, p, a.device) for seed in range(a.seeds)]
            for p in precisions
        }
        bounds = {p: [bound for bound, _ in runs] for p, runs in found.items()}
        for p, runs in found.items():
            differences = [b - c for b, c in zip(bounds[p], bounds[None], strict=True)]
            rows.append(
                {
                    "method": name,
                    "precision": p or "float32",
                    "test ELBO": mean_sd(bounds[p]),
                    "less float32's": mean_sd(differences),
                    "ms per step": mean_sd([ms for _, ms in runs]),
                }
            )
            said = "  ".join(
                f"{k} {v['mean']:.3f} ± {v['sd']:.3f}" for k, v in list(rows[-1].items())[2:]
            )
            print(f"{name:<8}{p or 'float32':<9}{said}", flush=True)
    if a.out:
        said = sys.argv[1:] if argv is None else argv
        write(
            a.out, " ".join(["python -m benchmarks.precision", *said]), threads=1,
            epochs=a.epochs, seeds=a.seeds, rows=rows,
        )  # fmt: skip


if __name__ == "__main__":
    main()
