"""Priors: VAEs of digits that differ only in p(z), and one with a second layer.

    python -m benchmarks.quality.priors --seeds 5 --threads 1 --out benchmarks/results/priors.json
    python -m benchmarks.quality.priors --compare --out benchmarks/results/priors_settings.json

Gray digits, exact binomial likelihood. Encoder, decoder, optimizer and number of epochs are the same
for every row; validation chooses the epoch. `--compare` chose the settings of the priors (K, family,
flow, draws) by validation with seed 0: the best bound of each kind, with one exception. Four splines
were half a nat better than four affine layers at three times the cost, and the affine layers were
taken. In the ex-post rows, the prior of the trained standard VAE is replaced by a density fitted to
encodings of the training data. Milliseconds per step are medians; the rows take turns, with batch 128,
for the recorded step without a compiler (`compile="recorded"`) and for plain Pyro.
"""

import statistics
import time

import pyro
import torch

import pyro_vae as pv
from pyro_vae.models import with_prior
from pyro_vae.train.steps.recorded import PlainStep, RecordedStep

from .. import harness

SHARED = {
    "latent_dim": 24, "hidden": [500], "lr": 2e-3, "weight_decay": 0.2, "epochs": 200,
    "compile": "recorded",
}  # fmt: skip
#: row: (method, settings)
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


def train(method, overrides, seed):
    pair, method = build(method, overrides, seed)
    return pair, method.data, method.fit(device="cpu", progress=False).best_epoch


def parameters(*modules):
    return sum(p.numel() for p in {p for m in modules for p in m.parameters()})


def evaluate(pair, data, split, num_samples):
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
        pair, data, best = train(method, overrides, seed)
        seconds = time.perf_counter() - started
        numbers = evaluate(pair, data, split, num_samples)
        yield name, {**numbers, "seconds": seconds, "best_epoch": best}
        if name != "standard":
            continue
        model, guide = pair
        for other, options in fit_ex_post_prior.items():
            started = time.perf_counter()
            density = pv.evaluate.fit_ex_post_prior(*pair, data.train.x, seed=seed, **options)
            seconds = time.perf_counter() - started
            numbers = evaluate((with_prior(model, density), guide), data, split, num_samples)
            yield other, {**numbers, "seconds": seconds, "best_epoch": best}


def step_times(repeats=60):
    """`{row: {"recorded": ms, "plain": ms}}`: loss, gradients and Adam, medians, interleaved."""
    harness.touch_constants()  # all rows share a process
    steps, times = {}, {}
    for name, (method, overrides) in ROWS.items():
        pair, method = build(method, overrides, 0)
        batch = {"x": method.data.train.x[:128]}
        weights = [p for m in pair for p in m.parameters()]
        for kind in ("recorded", "plain"):
            objective = pv.objectives.ELBO()
            step = (
                RecordedStep(objective, pair, "recorded", 128)
                if kind == "recorded"
                else PlainStep(objective, pair)
            )
            adam = torch.optim.AdamW(dict.fromkeys(weights), lr=1e-4, fused=True)
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
    arguments = harness.parser(__doc__, seeds=5, cpu_only=True)
    arguments.add_argument("--num-samples", type=int, default=500)
    arguments.add_argument("--compare", action="store_true", help="settings, on validation, seed 0")
    options = harness.parse(arguments, argv)
    seeds = [0] if options.compare else range(options.seeds)
    chosen = (COMPARED, COMPARED_EX_POST, "valid") if options.compare else (ROWS, EX_POST, "test")
    if options.quick:
        seeds, options.num_samples = [0], 10
        chosen = ({"standard": ("vae", {"epochs": 2})}, {}, chosen[2])
    runs = {}
    for seed in seeds:
        for name, numbers in rows(seed, *chosen, options.num_samples):
            runs.setdefault(name, []).append({"seed": seed, **numbers})
            print(
                f"seed {seed} {name:<34} ELBO {numbers['elbo']:8.2f}  log-likelihood "
                f"{numbers['log_likelihood']:8.2f}  {numbers['seconds']:5.0f} s",
                flush=True,
            )
    times = {} if options.compare else step_times(2 if options.quick else 60)
    table = []
    for name, numbers in runs.items():
        row = {"prior": name}
        for key in ("log_likelihood", "elbo", "active_units", "seconds"):
            values = [r[key] for r in numbers]
            row[key] = harness.mean_sd(values) if len(values) > 1 else values[0]
        row["parameters"] = numbers[0]["parameters"]
        for kind, ms in times.get(name, {}).items():
            row[f"ms per step, {kind}"] = ms
        table.append(row)
    if options.out:
        harness.write(
            options.out,
            harness.command("benchmarks.quality.priors", argv),
            split=chosen[2],
            settings={"shared": SHARED, "rows": chosen[0], "fit_ex_post_prior": chosen[1]},
            rows=table,
            runs=runs,
        )


if __name__ == "__main__":
    main()
