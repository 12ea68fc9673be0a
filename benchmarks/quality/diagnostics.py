"""Error of every estimator where log p(x) is known: linear-Gaussian, and two latents on a grid.

    python -m benchmarks.quality.diagnostics [--seeds 3] [--out FILE.json]

Linear-Gaussian: the problem of `benchmarks.quality.linear_gaussian`, 5 latents, 20 data points, closed
form. The guide is the exact posterior with its mean shifted by 0.3 and its scale doubled. Grid: a tanh
decoder from 2 latents to 10 pixels, an untrained encoder as guide, 20 data points from the model,
quadrature on 200 x 200 points. Float64.
"""

import time

import torch

import pyro_vae as pv
from pyro_vae.conditionals import MLP

from .. import harness
from .linear_gaussian import D, problem

N = 20
SHIFT, WIDEN = 0.3, 2.0


def linear(seed):
    model, guide, x, exact = problem(seed, SHIFT, WIDEN)
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


def amortization_gap(seed):
    """KL(q || posterior) of the linear-Gaussian guide, in closed form."""
    model, _, _, _ = problem(seed, 0, 1)
    w = model.p_x.head.maps["z"].weight.data
    precision = torch.eye(D) + w.T @ w / 0.5**2
    shift = torch.full((D,), SHIFT)
    trace = WIDEN**2 * D + shift @ precision @ shift
    return 0.5 * (trace - D) - D * torch.tensor(WIDEN).log()


def estimators(name, seed, steps_of_ais):
    """`(name, estimator)` of one problem; an estimator returns its errors in nats, `[N]`.

    An estimator of two numbers has two names and returns two tensors.
    """
    model, guide, x, exact = {"linear-Gaussian": linear, "grid": grid}[name](seed)
    for k in (10, 100, 1000, 5000):
        yield f"IWAE, {k}", lambda k=k: pv.evaluate.log_likelihood(model, guide, x, k, seed) - exact
    for start, q in (("prior", None), ("guide", guide)):
        for steps in steps_of_ais:
            yield (
                f"AIS from the {start}, {steps} steps",
                lambda q=q, steps=steps: pv.diagnostics.ais(model, x, q, steps, seed=seed) - exact,
            )
    for steps in steps_of_ais:
        yield (
            f"BDMC's gap, {steps} steps",
            lambda steps=steps: pv.diagnostics.bdmc(model, num_data=N, num_steps=steps, seed=seed)[
                "gap"
            ],
        )
    if name == "linear-Gaussian":
        exact_gap = amortization_gap(seed)

        def gaps():
            result = pv.diagnostics.inference_gaps(model, guide, x, annealing=False, seed=seed)
            return [result["approximation"], result["amortization"] - exact_gap]

        yield ("approximation gap (is 0)", "amortization gap"), gaps
    else:

        def evidence():
            result = pv.diagnostics.inference_gaps(model, guide, x, annealing=False, seed=seed)
            return result["log_likelihood"] - exact

        yield "log p(x) of inference_gaps", evidence


def main(argv=None):
    arguments = harness.parser(__doc__, seeds=3, cpu_only=True)
    options = harness.parse(arguments, argv)
    torch.set_default_dtype(torch.float64)
    steps = (20,) if options.quick else (20, 100, 500)
    if options.quick:
        options.seeds = 1
    errors = {}
    for name in ("linear-Gaussian", "grid"):
        for seed in range(options.seeds):
            for label, estimator in estimators(name, seed, steps):
                start = time.perf_counter()
                value = estimator()
                seconds = time.perf_counter() - start
                labels, values = (label, value) if isinstance(label, tuple) else ((label,), [value])
                for one, error in zip(labels, values, strict=True):
                    errors.setdefault((name, one), []).append(
                        (float(error.mean()), float(error.abs().max()), seconds)
                    )
    rows = []
    for (name, label), values in errors.items():
        mean, largest, seconds = torch.tensor(values).T
        row = {
            "problem": name,
            "estimator": label,
            "mean error, nats": harness.mean_sd(mean.tolist()),
            "largest of a data point": float(largest.max()),
            "seconds": harness.mean_sd(seconds.tolist()),
        }
        rows.append(row)
        print(*row.values())
    if options.out:
        harness.write(
            options.out,
            harness.command("benchmarks.quality.diagnostics", argv),
            rows=rows,
        )


if __name__ == "__main__":
    main()
