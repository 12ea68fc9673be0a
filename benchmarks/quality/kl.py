"""KL in closed form or sampled: variance of the gradient, time of a step, the bound reached.

    python -m benchmarks.quality.kl [--quick] [--out FILE.json]

Methods on the digits with their defaults (`pyro-vae fit NAME`, no start). The variance is that of the
gradient of one batch's loss over the noise, summed over all parameters, `analytic_kl` ÷ sampled, for
the same weights: at the start, and after training with either. `noise` is the part of the sampled
gradient's squared length that is noise. Times are those of recorded steps that take turns. The bound
is the test ELBO of runs trained with either.
"""

import statistics
import time

import torch

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.programs.contexts import fork_rng
from pyro_vae.train.steps.recorded import PlainStep, RecordedStep

from .. import harness

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
    harness.touch_constants()  # both kinds share a process
    steps = {
        kind: RecordedStep(pv.objectives.ELBO(analytic_kl=analytic), pair, "recorded")
        for kind, analytic in KINDS.items()
    }
    seconds = {kind: [] for kind in KINDS}
    for r in range(rounds + 2):
        for kind, step in steps.items():
            started = time.perf_counter()
            for _ in range(5):
                step({"x": x})
            if r >= 2:
                seconds[kind].append((time.perf_counter() - started) / 5)
    ratio = harness.median_ratio(seconds["analytic"], seconds["sampled"])
    ms = 1e3 * statistics.median(seconds["sampled"])
    return {"ms per step, sampled": ms, "time, analytic / sampled": ratio}


def measure(name, seed, epochs, draws, rounds):
    """The numbers of one method and seed."""
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
    results = {}
    for kind, analytic in KINDS.items():
        method = pv.method(name, "digits", analytic_kl=analytic, **overrides)
        pair = method.build()
        if kind == "sampled":
            results |= times(pair, x, rounds)
            results |= variances("start", pair, x, draws)
        pv.fit(*pair, data, **method.fit_options(), device="cpu", progress=False)
        results |= variances(f"trained, {kind}", pair, x, draws)
        results[f"test ELBO, {kind}"] = float(pv.evaluate.elbo(*pair, test, num_samples=100).mean())
    return results


def variances(when, pair, x, draws):
    """The ratio of the variances, and the part of the squared gradient that is noise."""
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
    arguments = harness.parser(__doc__, seeds=3, cpu_only=True)
    arguments.add_argument("--epochs", type=int, default=100)
    arguments.add_argument("--methods", nargs="+", default=list(NAMES), choices=methods.METHODS)
    options = harness.parse(arguments, argv)
    seeds, epochs, draws, rounds = (
        (1, 2, 20, 5) if options.quick else (options.seeds, options.epochs, 200, 30)
    )
    rows = []
    for name in options.methods:
        measured = [measure(name, seed, epochs, draws, rounds) for seed in range(seeds)]
        rows.append(
            {"method": name, **{k: harness.mean_sd([m[k] for m in measured]) for k in measured[0]}}
        )
        print(f"\n{name}")
        for key, value in rows[-1].items():
            if key != "method":
                print(f"  {key:<32}{value['mean']:10.3f} ± {value['sd']:.3f}", flush=True)
    if options.out:
        command = harness.command("benchmarks.quality.kl", argv)
        harness.write(options.out, command, epochs=epochs, seeds=seeds, rows=rows)


if __name__ == "__main__":
    main()
