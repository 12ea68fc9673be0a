"""The quadrant task: log p(x | c) of conditional models, over seeds.

    python -m benchmarks.conditional --choose --out benchmarks/results/conditional_settings.json
    python -m benchmarks.conditional --seeds 5 --threads 1 --out benchmarks/results/conditional.json
    python -m benchmarks.conditional --picture benchmarks/results/conditional.png

Sohn, Lee and Yan's (2015) task: one, two or three quadrants of a binary image are given, the pixels
of the others are x. Images are binarized once (static), so every seed has the same data. Validation
chooses each run's epoch and, by `--choose`, one group of settings for all rows (seed 0, one quadrant,
the mean of the rows' validation ELBOs); the test split reports. Per data point, in nats:

* `IS`: importance weighted with the trained guide, `--num_samples`.
* `MC`: Monte Carlo from the prior, `--mc_samples`, and with a tenth of them, to see how far it has
  converged.
* `ELBO`: of the trained guide; the baseline's is its exact log-likelihood.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path

import torch

import pyro_vae as pv
from benchmarks.clustering import mean_sd
from benchmarks.results import write
from pyro_vae import plots
from pyro_vae.report import sample_figures, samples

ROWS = {
    "nn-baseline": "NN baseline",
    "gsnn": "GSNN",
    "relaxed-cvae": "CVAE, relaxed prior p(z)",
    "cvae": "CVAE, prior p(z given c)",
    "cvae-baseline": "CVAE + baseline's guess",
    "hybrid-cvae": "hybrid, alpha = 0.5",
}
NUMBERS = ("ELBO", "IS", "MC", "MC, a tenth of the samples")
GRID = {"hidden": [[128, 128], [500]], "warmup": [0, 20], "weight_decay": [0.0, 1.0]}


def train(method, data_name, quadrants, seed, root=None, **overrides):
    """`(model, guide, data)` of one run with the method's settings."""
    same = {"binarize": "static", "compile": "recorded"}
    overrides = {"quadrants": quadrants, "seed": seed, **same, **overrides}
    run = pv.method(method, data_name, root=root, **overrides).fit(progress=False)
    return run.model, run.guide, run.data


def judge(model, guide, data, num_samples, mc_samples, seed):
    """Means over the test split."""
    part = data.observed_split("test")

    def bound(guide, samples):
        found = pv.evaluate.log_likelihood(model, guide, part.x, samples, seed=seed, c=part.c)
        return float(found.mean())

    elbo = pv.evaluate.elbo(model, guide, part.x, num_samples=20, seed=seed, c=part.c)
    result = {"ELBO": float(elbo.mean())}
    if isinstance(model, pv.models.NNBaseline):
        return dict.fromkeys(NUMBERS, result["ELBO"])  # no latent: exact
    prior = pv.guides.PriorGuide(model)
    if not isinstance(guide, pv.guides.PriorGuide):
        result["IS"] = bound(guide, num_samples)
    result["MC"] = bound(prior, mc_samples)
    result["MC, a tenth of the samples"] = bound(prior, mc_samples // 10)
    return result


def choose(a):
    """`[{setting: value, row: validation ELBO, "mean of rows": ...}]` for each group in `GRID`."""
    groups = []
    for values in itertools.product(*GRID.values()):
        settings, elbos = dict(zip(GRID, values, strict=True)), {}
        for method in ROWS:
            model, guide, data = train(method, a.data, 1, 0, a.root, **settings, **a.settings)
            valid = data.observed_split("valid")
            bound = pv.evaluate.elbo(model, guide, valid.x, num_samples=20, c=valid.c)
            elbos[ROWS[method]] = float(bound.mean())
        mean = statistics.mean(elbos.values())
        groups.append({**settings, "mean of rows": mean, **elbos})
        print(f"{mean:8.3f} {settings}", flush=True)
    return groups


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--root")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quadrants", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--num_samples", type=int, default=500)
    parser.add_argument("--mc_samples", type=int, default=1000)
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON, over the methods'")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--choose", action="store_true", help="compare settings by validation")
    parser.add_argument("--picture", type=Path, help="draw completions of seed 0, one quadrant")
    parser.add_argument("--out", type=Path, default=Path("/dev/stdout"))
    a = parser.parse_args(argv)
    torch.set_num_threads(a.threads)
    if a.picture:
        return draw(a)
    command = "python -m benchmarks.conditional" + (" --choose" if a.choose else "")
    command += f" --data {a.data} --seeds {a.seeds} --threads {a.threads}"
    command += f" --num_samples {a.num_samples} --mc_samples {a.mc_samples}"
    command += f" --settings '{json.dumps(a.settings)}'" if a.settings else ""
    if a.choose:
        rows = sorted(choose(a), key=lambda row: -row["mean of rows"])
        write(a.out, command, rows=rows, digits=4)
        return
    runs = []
    for seed in range(a.seeds):
        for quadrants, method in itertools.product(a.quadrants, ROWS):
            *pair, data = train(method, a.data, quadrants, seed, a.root, **a.settings)
            found = judge(*pair, data, a.num_samples, a.mc_samples, seed)
            run = {"quadrants": quadrants, "method": method, "seed": seed}
            runs.append({**run, **found})
            numbers = ", ".join(f"{k} {v:.2f}" for k, v in found.items())
            print(f"{quadrants} {method} {seed}: {numbers}", flush=True)
        write(a.out, command, rows=table(runs), runs=runs)


def draw(a):
    """Completions of the first test images: the baseline's answer beside a CVAE's samples."""
    baseline, _, data = train("nn-baseline", a.data, 1, 0, a.root, **a.settings)
    model, _, _ = train("cvae", a.data, 1, 0, a.root, **a.settings)
    part = data.observed_split("test")[:6]
    columns = sample_figures.completions(model, data, part.x, part.c)
    guess = samples.joined(data, pv.generate.predict_mean(baseline, part.c), part.c)
    shown = {"given": columns.pop("given"), "NN baseline": guess}
    del columns["prediction"]
    shown |= {name.replace("sample", "CVAE"): images for name, images in columns.items()}
    figure, ax = plots.axes(9.5, 6.3)
    plots.columns_of_images(ax, shown)
    figure.savefig(a.picture, dpi=160)


def table(runs):
    """A row for each number of quadrants and method, mean and sd over the seeds.

    The last column is paired: the same seed's relaxed CVAE is subtracted from each run, both by IS
    (the GSNN by MC).
    """
    found = {(r["quadrants"], r["method"], r["seed"]): r for r in runs}
    rows = []
    for quadrants in sorted({run["quadrants"] for run in runs}):
        for method, name in ROWS.items():
            same = [r for r in runs if (r["quadrants"], r["method"]) == (quadrants, method)]
            row = {k: mean_sd([r[k] for r in same]) for k in NUMBERS if k in same[0]}
            relaxed = [found[quadrants, "relaxed-cvae", r["seed"]]["IS"] for r in same]
            gain = [r.get("IS", r["MC"]) - b for r, b in zip(same, relaxed, strict=True)]
            row = {"given": quadrants, "": name, **dict.fromkeys(NUMBERS, ""), **row}
            rows.append({**row, "over the relaxed CVAE": mean_sd(gain)})
    return rows


if __name__ == "__main__":
    main()
