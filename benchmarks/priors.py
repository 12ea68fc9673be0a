"""What the prior is worth: VAEs of digits that differ in p(z) alone, and a second layer.

    python -m benchmarks.priors --seeds 5 --threads 1 --out benchmarks/results/priors.json
    python -m benchmarks.priors --compare --out benchmarks/results/priors_settings.json

Grey digits, exact binomial likelihood. Encoder, decoder, optimizer and number of epochs are the same
for every row; validation picks the epoch. `--compare` is where the priors' own settings (K, family,
flow, draws) come from: seed 0, validation only; of each kind the best bound, but four affine layers
in the place of four splines, half a nat better at three times the cost. The ex-post rows are the standard VAE's own networks,
its prior alone replaced, after training, by a density fitted to encodings of the training data.
Milliseconds a step: medians, the rows taken in turn, batch 128, the recorded step without a compiler
(`compile="recorded"`) and plain Pyro.
"""

import argparse
import statistics
import time
from pathlib import Path

import pyro
import torch

import pyro_vae as pv
from pyro_vae.models import with_prior
from pyro_vae.train.steps.recorded import PlainStep, RecordedStep

from .clustering import mean_sd
from .results import write

SHARED = {
    "latent_dim": 24, "hidden": [500], "lr": 2e-3, "weight_decay": 0.2, "epochs": 200,
    "compile": "recorded",
}  # fmt: skip
#: row: method, its own settings
ROWS = {
    "standard": ("vae", {}),
    "mixture": ("mixture-prior", {"num_components": 50, "prior.family": "MultivariateNormal"}),
    "VampPrior": ("vampprior", {"num_components": 50, "initialize": None}),
    "flow": ("flow-prior", {"prior.flow": "maf", "prior.transforms": 4}),
    "two layers": ("hierarchical-vae", {"z2_dim": 5}),
}
EX_POST = {
    "standard, ex-post mixture": {"kind": "mixture", "num_components": 30},
    "standard, ex-post flow": {"kind": "flow", "epochs": 40},
}
COMPARED = {
    "standard": ("vae", {}),
    "mixture, 10 full": (
        "mixture-prior",
        {"num_components": 10, "prior.family": "MultivariateNormal"},
    ),
    "mixture, 50 full": (
        "mixture-prior",
        {"num_components": 50, "prior.family": "MultivariateNormal"},
    ),
    "mixture, 50 diagonal": ("mixture-prior", {"num_components": 50, "prior.family": "Normal"}),
    "VampPrior, 50": ("vampprior", {"num_components": 50}),
    "VampPrior, 200": ("vampprior", {"num_components": 200}),
    "VampPrior, 50 from noise": ("vampprior", {"initialize": None}),
    "flow, 2 splines": ("flow-prior", {"prior.flow": "spline", "prior.transforms": 2}),
    "flow, 4 splines": ("flow-prior", {"prior.flow": "spline", "prior.transforms": 4}),
    "flow, 4 affine": ("flow-prior", {"prior.flow": "maf", "prior.transforms": 4}),
    "two layers, z2 of 5": ("hierarchical-vae", {"z2_dim": 5}),
    "two layers, z2 of 12": ("hierarchical-vae", {"z2_dim": 12}),
}
COMPARED_EX_POST = {
    "ex-post mixture of means, 10": {"draws": 0},
    "ex-post mixture of draws, 10": {},
    "ex-post mixture of draws, 30": {"num_components": 30},
    "ex-post flow of means": {"kind": "flow", "draws": 0, "epochs": 100},
    "ex-post flow of draws, 2 splines": {"kind": "flow", "epochs": 40},
    "ex-post flow of draws, 4 splines": {"kind": "flow", "epochs": 40, "transforms": 4},
}


def build(method, overrides, seed):
    method = pv.method(method, "digits", **{**SHARED, **overrides, "seed": seed})
    return (method.model, method.guide), method


def trained(method, overrides, seed):
    pair, method = build(method, overrides, seed)
    return pair, method.data, method.fit(device="cpu", progress=False).best_epoch


def parameters(*modules):
    return sum(p.numel() for p in {p for m in modules for p in m.parameters()})


def evaluated(pair, data, split, num_samples):
    x = data.observed_split(split).x
    return {
        "log_likelihood": float(pv.evaluate.log_likelihood(*pair, x, num_samples).mean()),
        "elbo": float(pv.evaluate.elbo(*pair, x, num_samples=20).mean()),
        "active_units": sum(pv.evaluate.active_units(*pair, x).values()),
        "parameters": parameters(*pair),
    }


def rows(seed, compared, fit_ex_post_prior, split, num_samples):
    """`(name, numbers)` of each row of one seed."""
    for name, (method, overrides) in compared.items():
        started = time.perf_counter()
        pair, data, best = trained(method, overrides, seed)
        seconds = time.perf_counter() - started
        found = evaluated(pair, data, split, num_samples)
        yield name, {**found, "seconds": seconds, "best_epoch": best}
        if name != "standard":
            continue
        model, guide = pair
        for other, options in fit_ex_post_prior.items():
            started = time.perf_counter()
            density = pv.evaluate.fit_ex_post_prior(*pair, data.train.x, seed=seed, **options)
            seconds = time.perf_counter() - started
            found = evaluated((with_prior(model, density), guide), data, split, num_samples)
            yield other, {**found, "seconds": seconds, "best_epoch": best}


def step_times(repeats=60):
    """`{row: {"recorded": ms, "plain": ms}}`: loss, gradients and Adam, medians, interleaved."""
    steps, times = {}, {}
    for name, (method, overrides) in ROWS.items():
        pair, method = build(method, overrides, 0)
        batch = {"x": method.data.train.x[:128]}
        found = [p for m in pair for p in m.parameters()]
        for kind in ("recorded", "plain"):
            objective = pv.objectives.ELBO()
            step = (
                RecordedStep(objective, pair, "recorded", 128)
                if kind == "recorded"
                else PlainStep(objective, pair)
            )
            adam = torch.optim.AdamW(dict.fromkeys(found), lr=1e-4, fused=True)
            steps[name, kind], times[name, kind] = (step, adam, batch), []
    with pyro.validation_enabled(False):
        for i in range(repeats + 5):
            for key, (step, adam, batch) in steps.items():
                started = time.perf_counter()
                adam.zero_grad(set_to_none=True)
                step(batch)
                adam.step()
                if i >= 5:
                    times[key].append(1000 * (time.perf_counter() - started))
    return {
        name: {kind: statistics.median(times[name, kind]) for kind in ("recorded", "plain")}
        for name in ROWS
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--num_samples", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compare", action="store_true", help="settings, on validation, seed 0")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    torch.set_num_threads(a.threads)
    seeds = [0] if a.compare else range(a.seeds)
    chosen = (COMPARED, COMPARED_EX_POST, "valid") if a.compare else (ROWS, EX_POST, "test")
    runs = {}
    for seed in seeds:
        for name, found in rows(seed, *chosen, a.num_samples):
            runs.setdefault(name, []).append({"seed": seed, **found})
            print(
                f"seed {seed} {name:<34} ELBO {found['elbo']:8.2f}  log-likelihood "
                f"{found['log_likelihood']:8.2f}  {found['seconds']:5.0f} s",
                flush=True,
            )
    times = {} if a.compare else step_times()
    table = []
    for name, found in runs.items():
        row = {"prior": name}
        for key in ("log_likelihood", "elbo", "active_units", "seconds"):
            values = [r[key] for r in found]
            row[key] = mean_sd(values) if len(values) > 1 else values[0]
        row["parameters"] = found[0]["parameters"]
        for kind, ms in times.get(name, {}).items():
            row[f"ms per step, {kind}"] = ms
        table.append(row)
    if a.out:
        which = "--compare" if a.compare else f"--seeds {a.seeds}"
        write(
            a.out,
            f"python -m benchmarks.priors {which} --num_samples {a.num_samples} --threads {a.threads}",
            split=chosen[2],
            settings={"shared": SHARED, "rows": chosen[0], "fit_ex_post_prior": chosen[1]},
            rows=table,
            runs=runs,
        )


if __name__ == "__main__":
    main()
