"""KL in closed form against a sample of it: variance of the gradient, time of a step, the bound reached.

    python -m benchmarks.kl [--quick] [--out FILE.json]

Methods on the digits with their defaults (`pyro-vae fit NAME`, no start). The variance is that of the
gradient of one batch's loss over the noise, summed over all parameters, `analytic_kl` ÷ sampled, for
the same weights: at the start, and after training by either; `noise` is the part of the sampled
gradient's squared length that is noise. Times are of recorded steps, in turns. The bound
is the test ELBO of runs trained with either.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.programs.contexts import fork_rng
from pyro_vae.train.steps.recorded import PlainStep, RecordedStep

from .clustering import mean_sd
from .results import write

NAMES = ("vae", "m2", "gmvae", "hierarchical-vae")
KINDS = {"sampled": False, "analytic": True}


def noise(pair, x, analytic, draws):
    """`(variance, squared mean)` of the loss's gradient over the noise, over all parameters."""
    step = PlainStep(pv.objectives.ELBO(analytic_kl=analytic), pair)
    parameters = [p for m in pair for p in m.parameters() if p.requires_grad]
    total, square = 0.0, 0.0
    for _ in range(draws):
        for p in parameters:
            p.grad = None
        step({"x": x})
        g = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).double()
        total, square = total + g, square + g**2
    mean = total / draws
    variance = (square / draws - mean**2).sum() * draws / (draws - 1)
    return float(variance), float((mean**2).sum() - variance / draws)


def times(pair, x, rounds):
    """A recorded step: milliseconds with sampled KLs, and the median of the paired ratios."""
    steps = {
        kind: RecordedStep(pv.objectives.ELBO(analytic_kl=analytic), pair, "recorded")
        for kind, analytic in KINDS.items()
    }
    found = {kind: [] for kind in KINDS}
    for r in range(rounds + 2):
        for kind, step in steps.items():
            started = time.perf_counter()
            for _ in range(5):
                step({"x": x})
            if r >= 2:
                found[kind].append((time.perf_counter() - started) / 5)
    ratios = [a / b for a, b in zip(found["analytic"], found["sampled"], strict=True)]
    ms = 1e3 * statistics.median(found["sampled"])
    return {"ms per step, sampled": ms, "time, analytic / sampled": statistics.median(ratios)}


def measure(name, seed, epochs, draws, rounds):
    """The numbers of a method and a seed."""
    overrides = {
        "initialize": None,
        "warmup": 0,
        "epochs": epochs,
        "compile": "recorded",
        "seed": seed,
    }
    data = pv.method(name, "digits", **overrides).data
    x, test = (data.observed_split(split).x for split in ("train", "test"))
    x = x[:128]
    found = {}
    for kind, analytic in KINDS.items():
        method = pv.method(name, "digits", analytic_kl=analytic, **overrides)
        pair = method.build()
        if kind == "sampled":
            found |= times(pair, x, rounds)
            found |= variances("start", pair, x, draws)
        pv.fit(*pair, data, **method.fit_options(), device="cpu", progress=False)
        found |= variances(f"trained, {kind}", pair, x, draws)
        found[f"test ELBO, {kind}"] = float(pv.evaluate.elbo(*pair, test, num_samples=100).mean())
    return found


def variances(when, pair, x, draws):
    """The ratio of the variances, and the sampled one's share of the squared gradient."""
    for m in pair:
        m.train()
    with fork_rng():
        torch.manual_seed(0)
        sampled, mean = noise(pair, x, False, draws)
        torch.manual_seed(0)
        analytic, _ = noise(pair, x, True, draws)
    for m in pair:
        m.eval()
    return {f"variance, {when}": analytic / sampled, f"noise, {when}": sampled / (sampled + mean)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="few epochs and draws, one seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=list(NAMES), choices=methods.METHODS)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    torch.set_num_threads(1)
    seeds, epochs, draws, rounds = (1, 2, 20, 5) if a.quick else (a.seeds, a.epochs, 200, 30)
    rows = []
    for name in a.methods:
        found = [measure(name, seed, epochs, draws, rounds) for seed in range(seeds)]
        rows.append({"method": name, **{k: mean_sd([f[k] for f in found]) for k in found[0]}})
        print(f"\n{name}")
        for key, value in rows[-1].items():
            if key != "method":
                print(f"  {key:<32}{value['mean']:10.3f} ± {value['sd']:.3f}", flush=True)
    if a.out:
        said = sys.argv[1:] if argv is None else argv
        write(
            a.out, " ".join(["python -m benchmarks.kl", *said]), threads=1, epochs=epochs,
            seeds=seeds, rows=rows,
        )  # fmt: skip


if __name__ == "__main__":
    main()
