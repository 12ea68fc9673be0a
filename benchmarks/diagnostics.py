"""Error of every judge where log p(x) is known: linear-Gaussian, and two latents on a grid.

    python -m benchmarks.diagnostics [--seeds 3] [--out FILE.json]

Linear-Gaussian: that of `benchmarks.linear_gaussian`, 5 latents, 20 data, closed form; the guide is
the exact posterior, its mean moved by 0.3 and its scale doubled. Grid: a tanh decoder of 2 latents to
10 pixels, an untrained encoder as guide, 20 data from the model, quadrature on 200 x 200 points. Float64,
one thread.
"""

import argparse
import time
from pathlib import Path

import torch

import pyro_vae as pv
from pyro_vae.conditionals import MLP

from .linear_gaussian import D, problem
from .results import write

N = 20
MOVE, WIDEN = 0.3, 2.0


def linear(seed):
    model, guide, x, exact = problem(seed, MOVE, WIDEN)
    return model, guide, x[:N], exact[:N]


def grid(seed):
    torch.manual_seed(seed)
    net = MLP((16,), "tanh")
    model = pv.models.VAE((10,), 2, network=net)
    for parameter in model.p_x.parameters():
        parameter.data.mul_(3)
    guide = pv.guides.Guide(model, network=net)
    x = model(size=N).detach()
    return model, guide, x, pv.diagnostics.posterior_grid(model, x, num=200).log_likelihood


def kl_of_the_guide(seed):
    """KL(q || posterior) of the linear-Gaussian guide: its amortization gap, in closed form."""
    model, _, _, _ = problem(seed, 0, 1)
    w = model.p_x.head.maps["z"].weight.data
    precision = torch.eye(D) + w.T @ w / 0.5**2
    move = torch.full((D,), MOVE)
    trace = WIDEN**2 * D + move @ precision @ move
    return 0.5 * (trace - D) - D * torch.tensor(WIDEN).log()


def judgements(name, seed):
    """`(name, judge)` of one problem; a judge returns its errors `[N]` in nats, or some of them."""
    model, guide, x, exact = {"linear-Gaussian": linear, "grid": grid}[name](seed)
    judge = pv.evaluate
    for k in (10, 100, 1000, 5000):
        yield f"IWAE, {k}", lambda k=k: judge.log_likelihood(model, guide, x, k, seed) - exact
    for start, q in (("prior", None), ("guide", guide)):
        for steps in (20, 100, 500):
            yield (
                f"AIS from the {start}, {steps} steps",
                lambda q=q, steps=steps: judge.ais(model, x, q, steps, seed=seed) - exact,
            )
    for steps in (20, 100, 500):
        yield (
            f"BDMC's gap, {steps} steps",
            lambda steps=steps: judge.bdmc(model, num_data=N, num_steps=steps, seed=seed)["gap"],
        )
    if name == "linear-Gaussian":
        truth = kl_of_the_guide(seed)

        def gaps():
            found = judge.inference_gaps(model, guide, x, annealing=False, seed=seed)
            return [found["approximation"], found["amortization"] - truth]

        yield ("approximation gap (is 0)", "amortization gap"), gaps
    else:

        def evidence():
            found = judge.inference_gaps(model, guide, x, annealing=False, seed=seed)
            return found["log_likelihood"] - exact

        yield "log p(x) of inference_gaps", evidence


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    found = {}
    for name in ("linear-Gaussian", "grid"):
        for seed in range(a.seeds):
            for label, judge in judgements(name, seed):
                start = time.perf_counter()
                value = judge()
                seconds = time.perf_counter() - start
                labels, values = (label, value) if isinstance(label, tuple) else ((label,), [value])
                for one, error in zip(labels, values, strict=True):
                    found.setdefault((name, one), []).append(
                        (float(error.mean()), float(error.abs().max()), seconds)
                    )
    rows = []
    for (name, label), values in found.items():
        mean, largest, seconds = torch.tensor(values).T
        row = {
            "problem": name,
            "judge": label,
            "mean error, nats": summary(mean),
            "largest of a data point": float(largest.max()),
            "seconds": summary(seconds),
        }
        rows.append(row)
        print(*row.values())
    if a.out:
        write(a.out, f"python -m benchmarks.diagnostics --seeds {a.seeds}", rows=rows)


def summary(values):
    return {"mean": float(values.mean()), "sd": float(values.std())}


if __name__ == "__main__":
    main()
