"""Error with few labels: semi-supervised models, and classifiers with the same labels.

    python -m benchmarks.quality.semi_supervised --seeds 5 --labels 100 --threads 1 \
        --out benchmarks/results/semi_supervised_100.json

The digits have 17 gray levels and the exact binomial likelihood, without binarization. A seed draws the
labels (with balanced classes), the weights and the noise. The split is always the same: 1,257 to train
on, 180 for validation, 360 for test. The best validation ELBO, which uses no label, chooses the epoch.
The settings are the methods' defaults, the same for every seed and number of labels. They were chosen
by the error on the 180 labelled validation images (more labels than the models train on, as is usual
in this literature), in some fifteen trials with 100 labels and seed 0. M2's warm-up was also chosen by
whether its decoder uses y, on validation images. No choice was made by the test split.
"""

import json
import time

import pyro_vae as pv
from pyro_vae.report import summary

from .. import harness

RUNS = {  # name: (method, settings, numbers of labels)
    "M1": ("m1", {}, (100, 50)),
    "M2": ("m2", {}, (100, 50)),
    "M2, y sampled (score function)": ("m2", {"discrete": "score_function"}, (100,)),
    "M2, y relaxed": ("m2", {"discrete": "relaxed"}, (100,)),
    "M1+M2": ("m1-m2", {}, (100, 50)),
    "auxiliary DGM": ("auxiliary-dgm", {}, (100, 50)),
    "skip DGM": ("skip-dgm", {}, (100, 50)),
}


def train_and_evaluate(name, num_labels, seed, overrides, device):
    """Train once: `{seconds, elbo, errors}`, errors of validation and test."""
    method, settings, _ = RUNS[name]
    labels = {"label_seed": seed, "num_labels": num_labels}
    options = {"seed": seed, "compile": "recorded", **labels, **settings, **overrides}
    preset = pv.method(method, "digits", **options)
    started = time.perf_counter()
    run = preset.fit(device=device, progress=False)
    seconds = time.perf_counter() - started
    pair, data = (run.model, run.guide), run.data
    x, y = data.observed_split("train").x, data.train.y
    unlabelled = y < 0
    parts = {"unlabelled": (x[unlabelled], data.withheld_labels[unlabelled])}
    parts |= {s: (data.observed_split(s).x, getattr(data, s).y) for s in ("valid", "test")}

    def errors(predicted, pattern):
        return {
            pattern.format(k): {
                part: float((c != labels).double().mean())
                for (part, (_, labels)), c in zip(parts.items(), classes, strict=True)
            }
            for k, classes in predicted.items()
        }

    inputs = [v for v, _ in parts.values()]
    predicted = summary.predictions(*pair, x, y, *inputs)
    result = errors(predicted, f"{name}: {{}}" if method == "m1" else name)
    if method == "m1":
        on_x = pv.evaluate.classifier_baselines(x, y, *inputs, spreading=True)
        result |= errors(on_x, "pixels: {}")
    elbo = float(pv.evaluate.elbo(*pair, data.observed_split("test").x).mean())
    return {
        "run": name, "seed": seed, "num_labels": num_labels, "seconds": round(seconds, 1),
        "test_elbo": elbo, "errors": result,
    }  # fmt: skip


def tabulate(runs):
    """Rows of test errors in per cent, `{error, "100 labels": {mean, sd}, ...}`."""
    values = {}
    for run in runs:
        for name, errors in run["errors"].items():
            column = f"test error, %, {run['num_labels']} labels"
            values.setdefault(name, {}).setdefault(column, []).append(100 * errors["test"])
    order = sorted(values, key=lambda n: not n.startswith("pixels"))
    return [{"": n, **{c: harness.mean_sd(v) for c, v in values[n].items()}} for n in order]


def main(argv=None):
    arguments = harness.parser(__doc__, seeds=5)
    arguments.add_argument("--labels", type=int, nargs="*", default=[100, 50])
    arguments.add_argument("--only", nargs="*", default=list(RUNS))
    arguments.add_argument(
        "--settings", type=json.loads, default={}, help="JSON, overrides the methods'"
    )
    options = harness.parse(arguments, argv)
    command = harness.command("benchmarks.quality.semi_supervised", argv)
    if options.quick:
        options.seeds, options.labels = 1, options.labels[:1]
        options.settings = {"epochs": 2, **options.settings}
    runs = []
    for num_labels in options.labels:
        for seed in range(options.seeds):
            for name in options.only:
                if num_labels not in RUNS[name][2]:
                    continue
                runs.append(
                    train_and_evaluate(name, num_labels, seed, options.settings, options.device)
                )
                errors = {k: round(100 * e["test"], 1) for k, e in runs[-1]["errors"].items()}
                print(
                    f"{num_labels} labels, seed {seed}, {runs[-1]['seconds']} s: {errors}",
                    flush=True,
                )
                if options.out:  # after each run, so that nothing is lost
                    harness.write(options.out, command, rows=tabulate(runs), runs=runs)


if __name__ == "__main__":
    main()
