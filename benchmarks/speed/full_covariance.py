"""A normal distribution with full covariance: this library's, beside torch's with a Cholesky factor.

    python -m benchmarks.speed.full_covariance [--rounds N] [--out FILE.json]

Both take the same numbers, as a network supplies them: means, scales and the entries below a diagonal.
`log_prob` is the density of given values (as of a mixture's components), `draw` a draw and its density
(as of a guide), each with the gradients of all. "constant" has the correlations of the data points in
common (`ConstantCorrelationNormal`). CPU ms, in turn, medians over rounds, and their ratios.
"""

import json
from functools import partial

import pyro.distributions as dist
import torch

from pyro_vae.distributions import ModifiedCholeskyNormal
from pyro_vae.distributions.modified_cholesky import unit_lower

from .. import harness

SHAPES = {"components": (10, 128, 24), "guide": (128, 24), "plane": (10, 128, 2), "wide": (64, 512)}


def torchs(loc, scale, below):
    """torch's distribution, its factor scale * (I + S) made of the same entries."""
    unit = unit_lower(below, loc.shape[-1])
    return dist.MultivariateNormal(loc, scale_tril=scale[..., None] * unit, validate_args=False)


def constant(loc, scale, below):
    """This library's distribution with the entries of the first data point for all."""
    return ours(loc, scale, below[..., :1, :] if loc.dim() > 2 else below[0])


ours = partial(ModifiedCholeskyNormal, validate_args=False)
KINDS = {"ours": ours, "torch": torchs, "constant": constant}


def arguments_of(shape):
    d = shape[-1]
    torch.manual_seed(0)
    below = 0.1 * torch.randn(*shape[:-1], d * (d - 1) // 2)
    return [v.requires_grad_() for v in (torch.randn(shape), torch.rand(shape) + 0.5, below)]


def step(kind, values, x, draws):
    """One density with its gradients."""
    q = KINDS[kind](*values)
    q.log_prob(q.rsample() if draws else x).sum().backward()


def measure(shape, draws, rounds):
    """`{kind: median ms, "ratio": ours / torch, "constant ratio": constant / ours}`."""
    values, x = arguments_of(shape), torch.randn(shape)
    times = {kind: [] for kind in KINDS}
    for kind in KINDS:  # the first calls are slower
        harness.seconds_per_call(partial(step, kind, values, x, draws), 3, "cpu")
    for _ in range(rounds):
        for kind in KINDS:
            call = partial(step, kind, values, x, draws)
            times[kind].append(1e3 * harness.seconds_per_call(call, 5, "cpu")["cpu_s"])
    row = {f"{kind} ms": sorted(v)[len(v) // 2] for kind, v in times.items()}
    return {
        **row,
        "ratio": harness.median_ratio(times["ours"], times["torch"]),
        "constant ratio": harness.median_ratio(times["constant"], times["ours"]),
    }


def main(argv=None):
    arguments = harness.parser(__doc__, cpu_only=True)
    arguments.add_argument("--rounds", type=int, default=21)
    options = harness.parse(arguments, argv)
    if options.quick:
        options.rounds = 1
    rows = [
        {"shape": list(shape), "what": what, **measure(shape, what == "draw", options.rounds)}
        for shape in SHAPES.values()
        for what in ("log_prob", "draw")
    ]
    print(json.dumps(rows, indent=1))
    if options.out:
        command = harness.command("benchmarks.speed.full_covariance", argv)
        harness.write(options.out, command, rows=rows)
    return rows


if __name__ == "__main__":
    main()
