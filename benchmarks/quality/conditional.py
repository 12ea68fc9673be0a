"""The quadrant task: log p(x | c) of conditional models, over seeds.

    python -m benchmarks.quality.conditional --choose --out benchmarks/results/conditional_settings.json
    python -m benchmarks.quality.conditional --seeds 5 --threads 1 --out benchmarks/results/conditional.json
    python -m benchmarks.quality.conditional --picture benchmarks/results/conditional.png

The task of Sohn, Lee and Yan (2015): one, two or three quadrants of a binary image are the
covariates c, and the pixels of the others are x. Images are binarized once (static), so every seed
has the same data. Validation chooses each run's epoch and, by `--choose`, one group of settings for
all rows (seed 0, one quadrant, the mean of the rows' validation ELBOs). The numbers are those of the
test split, in nats per data point:

* `IS`: importance weighted with the trained guide, `--num-samples`.
* `MC`: Monte Carlo from the prior, `--mc-samples`, and with a tenth of them, which shows how far it
  has converged.
* `ELBO`: of the trained guide. For the baseline it is the exact log-likelihood.
"""

import itertools
import json
import statistics
from pathlib import Path

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.report import sample_figures, samples

from .. import harness

ROWS = {
    "nn-baseline": "NN baseline",
    "gsnn": "GSNN",
    "relaxed-cvae": "CVAE, relaxed prior p(z)",
    "cvae": "CVAE, prior p(z given c)",
    "cvae-baseline": "CVAE + baseline's prediction",
    "hybrid-cvae": "hybrid, alpha = 0.5",
}
NUMBERS = ("ELBO", "IS", "MC", "MC, a tenth of the samples")
GRID = {"hidden": [[128, 128], [500]], "warmup": [0, 20], "weight_decay": [0.0, 1.0]}


def train(method, options, quadrants, seed, **settings):
    """`(model, guide, data)` of one run with the method's settings."""
    same = {"binarize": "static", "compile": "recorded", "quadrants": quadrants, "seed": seed}
    settings = {**same, **settings, **options.settings}
    preset = pv.method(method, options.data, root=options.root, **settings)
    run = preset.fit(device=options.device, progress=False)
    return run.model, run.guide, run.data


def evaluate(model, guide, data, num_samples, mc_samples, seed):
    """Means over the test split."""
    part = data.observed_split("test")

    def bound(guide, samples):
        values = pv.evaluate.log_likelihood(model, guide, part.x, samples, seed=seed, c=part.c)
        return float(values.mean())

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


def choose(options):
    """`[{setting: value, row: validation ELBO, "mean of rows": ...}]` for each group in `GRID`."""
    groups = []
    for values in itertools.product(*GRID.values()):
        settings, elbos = dict(zip(GRID, values, strict=True)), {}
        for method in ROWS:
            model, guide, data = train(method, options, 1, 0, **settings)
            valid = data.observed_split("valid")
            bound = pv.evaluate.elbo(model, guide, valid.x, num_samples=20, c=valid.c)
            elbos[ROWS[method]] = float(bound.mean())
        mean = statistics.mean(elbos.values())
        groups.append({**settings, "mean of rows": mean, **elbos})
        print(f"{mean:8.3f} {settings}", flush=True)
    return groups


def main(argv=None):
    arguments = harness.parser(__doc__, seeds=5)
    arguments.add_argument("--data", default="digits")
    arguments.add_argument("--root")
    arguments.add_argument("--quadrants", type=int, nargs="*", default=[1, 2, 3])
    arguments.add_argument("--num-samples", type=int, default=500)
    arguments.add_argument("--mc-samples", type=int, default=1000)
    arguments.add_argument(
        "--settings", type=json.loads, default={}, help="JSON, overrides the methods'"
    )
    arguments.add_argument("--choose", action="store_true", help="compare settings by validation")
    arguments.add_argument("--picture", type=Path, help="draw completions of seed 0, one quadrant")
    options = harness.parse(arguments, argv)
    if options.quick:
        options.settings = {"epochs": 2, "hidden": [16], **options.settings}
    if options.picture:
        return draw(options)
    command = harness.command("benchmarks.quality.conditional", argv)
    if options.choose:
        rows = sorted(choose(options), key=lambda row: -row["mean of rows"])
        if options.out:
            harness.write(options.out, command, rows=rows, digits=4)
        return
    if options.quick:
        options.seeds, options.quadrants = 1, options.quadrants[:1]
        options.num_samples, options.mc_samples = 10, 10
    runs = []
    for seed in range(options.seeds):
        for quadrants, method in itertools.product(options.quadrants, ROWS):
            *pair, data = train(method, options, quadrants, seed)
            values = evaluate(*pair, data, options.num_samples, options.mc_samples, seed)
            run = {"quadrants": quadrants, "method": method, "seed": seed}
            runs.append({**run, **values})
            numbers = ", ".join(f"{k} {v:.2f}" for k, v in values.items())
            print(f"{quadrants} {method} {seed}: {numbers}", flush=True)
        if options.out:
            harness.write(options.out, command, rows=table(runs), runs=runs)


def draw(options):
    """Draw completions of the first test images: the baseline's prediction and a CVAE's samples."""
    baseline, _, data = train("nn-baseline", options, 1, 0)
    model, _, _ = train("cvae", options, 1, 0)
    part = data.observed_split("test")[:6]
    columns = sample_figures.completions(model, data, part.x, part.c)
    prediction = samples.joined(data, pv.generate.predict_mean(baseline, part.c), part.c)
    shown = {"given": columns.pop("given"), "NN baseline": prediction}
    del columns["prediction"]
    shown |= {name.replace("sample", "CVAE"): images for name, images in columns.items()}
    figure, ax = plots.axes(9.5, 6.3)
    plots.columns_of_images(ax, shown)
    figure.savefig(options.picture, dpi=160)


def table(runs):
    """A row for each number of quadrants and method, mean and sd over the seeds.

    The last column is paired: the same seed's relaxed CVAE is subtracted from each run, both by IS
    (the GSNN by MC).
    """
    by_key = {(r["quadrants"], r["method"], r["seed"]): r for r in runs}
    rows = []
    for quadrants in sorted({run["quadrants"] for run in runs}):
        for method, name in ROWS.items():
            same = [r for r in runs if (r["quadrants"], r["method"]) == (quadrants, method)]
            row = {k: harness.mean_sd([r[k] for r in same]) for k in NUMBERS if k in same[0]}
            relaxed = [by_key[quadrants, "relaxed-cvae", r["seed"]]["IS"] for r in same]
            gain = [r.get("IS", r["MC"]) - b for r, b in zip(same, relaxed, strict=True)]
            row = {"given": quadrants, "": name, **dict.fromkeys(NUMBERS, ""), **row}
            rows.append({**row, "over the relaxed CVAE": harness.mean_sd(gain)})
    return rows


if __name__ == "__main__":
    main()
