"""Clustering by a trained mixture VAE, over seeds, beside classical baselines.

    python -m benchmarks.quality.clustering                      # digits, the method's defaults
    python -m benchmarks.quality.clustering --data mnist --seeds 5 --out FILE.json

Each seed is a whole run of `pyro-vae fit METHOD`, with its settings, initialization, training and
restarts. Accuracy is Hungarian, on the test split, and in addition on all data.
Initialization, training and choices use no label. The seeds 200 to 249 took no part in the choice of
settings. `seconds` depends on how many processes train the first VAEs or the restarts
(`--workers`).
"""

import json
import time
from pathlib import Path

import torch

import pyro_vae as pv

from .. import harness


def train_and_evaluate(
    method, data, seed, overrides, num_samples, device="cpu", root=None, workers=None
):
    """Train with one seed; returns `{elbo, log_likelihood, clustering, seconds}` of the test split."""
    preset = pv.method(method, data, root=root, **{"seed": seed, **overrides})
    started = time.perf_counter()
    run = preset.fit(device=device, progress=False, workers=workers)
    seconds = time.perf_counter() - started
    result = run.evaluate("test", num_samples)
    return {"seed": seed, "seconds": seconds, **result, "all_data": on_all_data(run)}


def on_all_data(run):
    """How the clusters of training, validation and test data match the labels; none without labels."""
    splits = [s for s in (run.data.train, run.data.valid, run.data.test) if s is not None]
    if any(split.y is None for split in splits):
        return {}
    clusters = [run.encode(run.data.unstandardize(split.x))["y"].argmax(-1) for split in splits]
    return pv.evaluate.clustering_metrics(
        torch.cat([split.y for split in splits]), torch.cat(clusters)
    )


def main(argv=None):
    arguments = harness.parser(__doc__, seeds=10)
    arguments.add_argument("--method", default="gmvae")
    arguments.add_argument("--data", default="digits")
    arguments.add_argument("--root")
    arguments.add_argument("--first", type=int, default=200, help="the first seed")
    arguments.add_argument(
        "--workers", type=int, help="processes that train first VAEs or restarts"
    )
    arguments.add_argument("--num-samples", type=int, default=500)
    arguments.add_argument(
        "--settings", type=json.loads, default={}, help="JSON, overrides the method's"
    )
    arguments.add_argument(
        "--merge", type=Path, nargs="*", help="result files to combine instead of training"
    )
    options = harness.parse(arguments, argv)
    runs = []
    command = harness.command("benchmarks.quality.clustering", argv)
    if options.merge:
        results = [json.loads(path.read_text()) for path in options.merge]
        runs = [run for result in results for run in result["runs"]]
        command = "; ".join(result["command"] for result in results)
        options.seeds = 0
    if options.quick:
        options.seeds, options.num_samples = 1, 10
        options.settings = {"initialize": None, "epochs": 2, "restarts": 2, **options.settings}
    for seed in range(options.first, options.first + options.seeds):
        run = train_and_evaluate(
            options.method, options.data, seed, options.settings, options.num_samples,
            options.device, options.root, options.workers,
        )  # fmt: skip
        runs.append(run)
        accuracy = run.get("clustering", {}).get("this model", {}).get("accuracy")
        print(
            f"seed {seed}: {run['seconds']:.0f} s, ELBO {run['elbo']:.2f}, log-likelihood "
            f"{run.get('log_likelihood', float('nan')):.2f}, accuracy {accuracy}",
            flush=True,
        )
    table = {"seconds": harness.mean_sd([r["seconds"] for r in runs])}
    for name in ("elbo", "log_likelihood"):
        table[name] = harness.mean_sd([r[name] for r in runs])
    for name in runs[0].get("clustering", {}):
        for metric in ("accuracy", "nmi", "ari"):
            values = [r["clustering"][name][metric] for r in runs]
            table[f"{metric}, {name}"] = harness.mean_sd(values)
    for metric in ("accuracy", "nmi", "ari"):
        values = [r["all_data"][metric] for r in runs if r.get("all_data")]
        if values:
            table[f"{metric}, this model, all data"] = harness.mean_sd(values)
    repeated = [r.get("restarts") or r.get("initialization") for r in runs]
    stability = [r["stability"] for r in repeated if r]
    if stability:
        table["stability"] = harness.mean_sd(stability)
    for name, v in table.items():
        print(f"{name:<30} {v['mean']:10.3f} ± {v['sd']:.3f}")
    if options.out:
        harness.write(options.out, command, table=table, runs=runs)


if __name__ == "__main__":
    main()
