"""Error with few labels, of semi-supervised models beside classifiers given the same labels.

    python -m benchmarks.semi_supervised --seeds 5 --labels 100 --threads 1 \
        --out benchmarks/results/semi_supervised_100.json

Digits as they are (17 grey levels, exact binomial likelihood, no binarization). A seed draws the
labels (classes in balance), the weights and the noise; the split is always the same: 1,257 to train
on, 180 for validation, 360 for test. The epoch kept is that of the best validation ELBO, which sees
no label. Settings are the named methods' own. They were chosen by the error on the 180 labelled
validation images (more labels than the models train on, as is usual in this literature), in some
fifteen trials with 100 labels and seed 0 (M2's warm-up also by whether its decoder uses y, on
validation images), and are the same for every seed and number of labels. The test
split chose nothing.
"""

import argparse
import json
import time
from pathlib import Path

import torch

import pyro_vae as pv
from pyro_vae.report import summary

from .clustering import mean_sd
from .results import write

RUNS = {  # name: (method, settings, numbers of labels)
    "M1": ("m1", {}, (100, 50)),
    "M2": ("m2", {}, (100, 50)),
    "M2, y sampled (score function)": ("m2", {"discrete": "score_function"}, (100,)),
    "M2, y relaxed": ("m2", {"discrete": "relaxed"}, (100,)),
    "M1+M2": ("m1-m2", {}, (100, 50)),
    "auxiliary DGM": ("auxiliary-dgm", {}, (100, 50)),
    "skip DGM": ("skip-dgm", {}, (100, 50)),
}


def one(name, num_labels, seed, overrides):
    """Train once: `{seconds, elbo, errors}`, errors of validation and test."""
    method, own, _ = RUNS[name]
    labels = {"label_seed": seed, "num_labels": num_labels}
    options = {"seed": seed, "compile": "recorded", **labels, **own, **overrides}
    preset = pv.method(method, "digits", **options)
    started = time.perf_counter()
    run = preset.fit(progress=False)
    seconds = time.perf_counter() - started
    pair, data = (run.model, run.guide), run.data
    x, y = data.observed_split("train").x, data.train.y
    unlabelled = y < 0
    parts = {"unlabelled": (x[unlabelled], data.withheld_labels[unlabelled])}
    parts |= {s: (data.observed_split(s).x, getattr(data, s).y) for s in ("valid", "test")}

    def errors(found, pattern):
        return {
            pattern.format(k): {
                part: float((c != labels).double().mean())
                for (part, (_, labels)), c in zip(parts.items(), classes, strict=True)
            }
            for k, classes in found.items()
        }

    inputs = [v for v, _ in parts.values()]
    found = summary.predictions(*pair, x, y, *inputs)
    result = errors(found, f"{name}: {{}}" if method == "m1" else name)
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
    found = {}
    for run in runs:
        for name, errors in run["errors"].items():
            column = f"test error, %, {run['num_labels']} labels"
            found.setdefault(name, {}).setdefault(column, []).append(100 * errors["test"])
    order = sorted(found, key=lambda n: not n.startswith("pixels"))
    return [{"": n, **{c: mean_sd(v) for c, v in found[n].items()}} for n in order]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", type=int, nargs="*", default=[100, 50])
    parser.add_argument("--only", nargs="*", default=list(RUNS))
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON, over the methods'")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    torch.set_num_threads(a.threads)
    command = (
        f"python -m benchmarks.semi_supervised --seeds {a.seeds} "
        f"--labels {' '.join(map(str, a.labels))} --threads {a.threads}"
    )
    runs = []
    for num_labels in a.labels:
        for seed in range(a.seeds):
            for name in a.only:
                if num_labels not in RUNS[name][2]:
                    continue
                runs.append(one(name, num_labels, seed, a.settings))
                told = {k: round(100 * e["test"], 1) for k, e in runs[-1]["errors"].items()}
                print(
                    f"{num_labels} labels, seed {seed}, {runs[-1]['seconds']} s: {told}", flush=True
                )
                if a.out:  # after each run, so that nothing is lost
                    write(a.out, command, rows=tabulate(runs), runs=runs)


if __name__ == "__main__":
    main()
