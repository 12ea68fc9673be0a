"""Settings of the clustering default, evaluated by the validation bound: no label is read here.

    python -m benchmarks.clustering_settings [--seeds 2] [--out FILE.json]

Each line varies one setting of `pyro-vae fit gmvae` on digits, with a single restart.
"""

import argparse
from pathlib import Path

import torch

import pyro_vae as pv

from .clustering import mean_sd
from .results import write

VARIATIONS = {
    "the default": {},
    "latent_dim 10": {"latent_dim": 10},
    "latent_dim 16": {"latent_dim": 16},
    "latent_dim 32": {"latent_dim": 32},
    "diagonal components": {"component": "Normal"},
    "two layers of 128": {"hidden": [128, 128]},
    "weight_decay 0": {"initialize.weight_decay": 0.0},
    "weight_decay 0.5": {"initialize.weight_decay": 0.5},
    "x not centered": {"center": False},
    "start on means": {"initialize.draws": 0},
    "no mixture start": {"initialize": None, "epochs": 400, "lr": 2e-3},
}


def bound(change, seed):
    """Mean validation ELBO of one run, 20 samples a data point."""
    start = {} if "initialize" in change else {"initialize.restarts": 1}
    method = pv.method("gmvae", "digits", **{**start, **change, "seed": seed})
    data = method.data
    x = pv.data.Data(pv.data.Split(data.train.x), pv.data.Split(data.valid.x), name="unlabelled")
    model, guide = method.build()
    pv.fit(model, guide, x, **method.fit_options(), progress=False)
    return float(pv.evaluate.elbo(model, guide, data.valid.x, num_samples=20).mean())


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    torch.set_num_threads(a.threads)
    table = {}
    for name, change in VARIATIONS.items():
        table[name] = mean_sd([bound(change, seed) for seed in range(a.seeds)])
        print(f"{name:<24}{table[name]['mean']:>9.2f} ± {table[name]['sd']:.2f}", flush=True)
    if a.out:
        command = f"python -m benchmarks.clustering_settings --seeds {a.seeds}"
        write(a.out, command, validation_elbo=table)


if __name__ == "__main__":
    main()
