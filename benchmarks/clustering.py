"""Clustering by a trained mixture VAE, over seeds, beside classical baselines.

    python -m benchmarks.clustering                                   # digits, the command's defaults
    python -m benchmarks.clustering --data mnist --seeds 5 --out FILE.json

Each seed is the whole of `pyro-vae fit METHOD`: the same settings, start and training. Accuracy is
Hungarian, on the test split; no label enters training, restarts or settings.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

import pyro_vae as pv

from .results import write


def one(method, data_name, seed, root, overrides, num_samples):
    """Train with one seed; `{elbo, log_likelihood, clustering, seconds}` on the test split."""
    preset = pv.method(method, data_name, root=root, **{"seed": seed, **overrides})
    started = time.perf_counter()
    run = preset.fit(progress=False)
    seconds = time.perf_counter() - started
    result = run.evaluate("test", num_samples)
    return {"seed": seed, "seconds": seconds, **result}


def mean_sd(values):
    return {
        "mean": statistics.mean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else 0,
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--method", default="gmvae")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--root")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--num_samples", type=int, default=500)
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON, over the defaults")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--merge", type=Path, nargs="*", help="result files to put together")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    torch.set_num_threads(a.threads)
    runs = []
    command = (
        f"python -m benchmarks.clustering --method {a.method} --data {a.data} --seeds {a.seeds} "
        f"--first {a.first} --num_samples {a.num_samples} --settings '{json.dumps(a.settings)}'"
    )
    if a.merge:
        found = [json.loads(path.read_text()) for path in a.merge]
        runs = [run for result in found for run in result["runs"]]
        command = "; ".join(result["command"] for result in found)
        a.seeds = 0
    for seed in range(a.first, a.first + a.seeds):
        runs.append(one(a.method, a.data, seed, a.root, a.settings, a.num_samples))
        accuracy = runs[-1].get("clustering", {}).get("this model", {}).get("accuracy")
        print(
            f"seed {seed}: {runs[-1]['seconds']:.0f} s, ELBO {runs[-1]['elbo']:.2f}, log-likelihood "
            f"{runs[-1].get('log_likelihood', float('nan')):.2f}, accuracy {accuracy}",
            flush=True,
        )
    table = {"seconds": mean_sd([r["seconds"] for r in runs])}
    for name in ("elbo", "log_likelihood"):
        table[name] = mean_sd([r[name] for r in runs])
    for name in runs[0].get("clustering", {}):
        for metric in ("accuracy", "nmi", "ari"):
            values = [r["clustering"][name][metric] for r in runs]
            table[f"{metric}, {name}"] = mean_sd(values)
    for name, v in table.items():
        print(f"{name:<30} {v['mean']:10.3f} ± {v['sd']:.3f}")
    if a.out:
        write(a.out, command, table=table, runs=runs)


if __name__ == "__main__":
    main()
