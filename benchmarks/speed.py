"""Time of a training step: this library against hand-written torch and against Pyro's SVI.

    python -m benchmarks.speed [--quick] [--out FILE.json]

One process, one thread; the ways of a workload take turns, so that they meet the same machine.
Medians, and ratios to the hand-written eager step. All ways have the same networks, the same
estimator (one sample, discrete latents summed), the same batch and Adam; the hand-written ones are
what a careful person writes in torch, with a fused Adam. "products" is the time of the step's
matrix products alone, forward and backward: no way of running the step on this processor is faster.
First calls are short where Inductor's cache on disk knows the workload from an earlier run.
"""

import argparse
import math
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import pyro
import torch
import torch.nn.functional as F
from pyro.infer import SVI, TraceEnum_ELBO
from torch.utils._python_dispatch import TorchDispatchMode

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.conditionals.families import bounded_log_scale
from pyro_vae.train.recorded import PlainStep, RecordedStep

from .results import write

A = torch.ops.aten
X, K = 784, 10


# ------------------------------------------------------------------------- workloads


def vae():
    """784-400-20, softplus: the network of Pyro's VAE tutorial."""
    net = MLP((400,), "softplus")
    model = pv.models.VAE((X,), 20, "bernoulli", net)
    return model, pv.guides.Guide(model, network=net)


def vae_loss(model, guide, x):
    """The negative ELBO by hand, over the same modules' weights."""
    m, s = _net(guide.factors["z"], x=x).chunk(2, -1)
    s = bounded_log_scale(s)
    e = torch.randn_like(m)
    z = m + s.exp() * e
    kl = (0.5 * z.square() - 0.5 * e.square() - s).sum()
    return F.binary_cross_entropy_with_logits(_net(model.p_x, z=z), x, reduction="sum") + kl


def gmvae():
    """Final version of the paper: w <- x; z <- x; y summed; K = 10, 500-500."""
    net = MLP((500, 500))
    model = pv.models.GMVAE((X,), K, 16, 10, "bernoulli", net, w_network=MLP((500,), "tanh"))
    return model, pv.guides.Guide(model, network=net)


def gmvae_loss(model, guide, x):
    q = guide.factors
    h = q["w"].features(x=x)  # the trunk is shared
    wm, ws = q["w"].head(**h).chunk(2, -1)
    zm, zs = q["z"].head(**h).chunk(2, -1)
    ws, zs = bounded_log_scale(ws), bounded_log_scale(zs)
    ew, ez = torch.randn_like(wm), torch.randn_like(zm)
    w, z = wm + ws.exp() * ew, zm + zs.exp() * ez
    heads = _net(model.p_z, w=w).reshape(len(x), K, 32)
    m, s = heads.chunk(2, -1)
    s = bounded_log_scale(s)
    log_pz = (-0.5 * ((z.unsqueeze(1) - m) * (-s).exp()).square() - s).sum(-1).logsumexp(-1)
    kl = (0.5 * w.square() - 0.5 * ew.square() - ws).sum() + (-0.5 * ez.square() - zs).sum()
    kl = kl - (log_pz - math.log(K)).sum()
    return F.binary_cross_entropy_with_logits(_net(model.p_x, z=z), x, reduction="sum") + kl


def _net(conditional, **parents):
    return conditional.head(**conditional.features(**parents))


#: name: (the pair, its loss written by hand)
WORKLOADS = {"vae": (vae, vae_loss), "gmvae": (gmvae, gmvae_loss)}


# ------------------------------------------------------------------------------ ways


def _trainer(pair, loss):
    """A step of `loss(x)`, which leaves gradients, and a fused Adam."""
    parameters = [p for m in pair for p in m.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=1e-3, fused=True)

    def step(x):
        optimiser.zero_grad(set_to_none=True)
        loss(x)
        optimiser.step()

    return step


def eager(pair, by_hand):
    return _trainer(pair, lambda x: (by_hand(*pair, x) / len(x)).backward())


def compiled(pair, by_hand):
    loss = torch.compile(partial(by_hand, *pair), dynamic=False)
    return _trainer(pair, lambda x: (loss(x) / len(x)).backward())


def svi(pair, by_hand):
    """As Pyro's examples do it."""
    model, guide = pair
    elbo = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    inference = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo)

    def step(x):
        with pyro.validation_enabled(True):
            inference.step(x)

    return step


def plain(pair, by_hand):
    step = PlainStep(pv.objectives.ELBO(), pair)
    return _trainer(pair, lambda x: step({"x": x}))


def recorded(backend, pair, by_hand):
    step = RecordedStep(pv.objectives.ELBO(), pair, backend)
    return _trainer(pair, lambda x: step({"x": x}))


WAYS = {
    "hand-written, eager": eager,
    "hand-written, torch.compile": compiled,
    "pyro SVI": svi,
    "pyro_vae, plain": plain,
    "pyro_vae, recorded, aten": partial(recorded, "aten"),
    "pyro_vae, recorded, inductor": partial(recorded, "inductor"),
}


class _Products(TorchDispatchMode):
    """Collects the operands of every matrix product of a step."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (A.mm.default, A.addmm.default, A.bmm.default):
            self.found.append([(t.shape, t.stride()) for t in args[-2:]])
        return func(*args, **(kwargs or {}))


def products(pair, by_hand, x):
    """A function that does the hand-written step's matrix products and nothing else."""
    with _Products() as seen:
        by_hand(*pair, x).backward()
    operands = [
        [torch.empty_strided(shape, stride).normal_() for shape, stride in both]
        for both in seen.found
    ]

    def step(x):
        for a, b in operands:
            torch.matmul(a, b)

    return step


# --------------------------------------------------------------------------- measuring


def check(name, by_hand, make, x):
    """The hand-written loss is the library's, or the comparison would mean nothing."""
    pair = make()
    torch.manual_seed(1)
    a = by_hand(*pair, x).item()
    torch.manual_seed(1)
    b = pv.objectives.ELBO().differentiable_loss(*pair, x).item()
    if abs(a - b) > 1e-4 * abs(a):
        raise RuntimeError(f"{name}: by hand {a}, the library {b}: not the same objective")


def measure(name, size, rounds):
    """`{way: {median seconds, ratio, first call}}` of one workload at one batch size."""
    make, by_hand = WORKLOADS[name]
    torch.manual_seed(0)
    x = torch.bernoulli(torch.rand(size, X))
    check(name, by_hand, make, x)
    steps, first = {}, {}
    for way, build in WAYS.items():
        torch.manual_seed(0)
        steps[way] = build(make(), by_hand)
        with pyro.validation_enabled(False):
            started = time.perf_counter()
            steps[way](x)
        first[way] = time.perf_counter() - started
    steps["products"] = products(make(), by_hand, x)
    times = {way: [] for way in steps}
    for r in range(rounds + 2):
        for way, step in steps.items():
            with pyro.validation_enabled(False):
                started = time.perf_counter()
                for _ in range(5):
                    step(x)
                seconds = (time.perf_counter() - started) / 5
            if r >= 2:
                times[way].append(seconds)
    pyro.clear_param_store()
    return [
        {
            "workload": name,
            "batch": size,
            "way": way,
            "median_ms": 1e3 * statistics.median(t),
            "ratio_to_eager": _ratio(t, times["hand-written, eager"]),
            "ratio_to_svi": _ratio(t, times["pyro SVI"]),
            "first_call_s": first.get(way),
        }
        for way, t in times.items()
    ]


def _ratio(a, b):
    """Median over rounds, each against its neighbour in time."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--rounds", type=int, default=30, help="of five steps of every way")
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for name in a.workloads:
        for size in (128, 512):
            found = measure(name, size, 6 if a.quick else a.rounds)
            rows += found
            print(f"\n{name}, batch {size}{'ms':>25}  ÷ eager    ÷ SVI  first call, s")
            for row in found:
                first = "" if row["first_call_s"] is None else f"{row['first_call_s']:10.1f}"
                print(
                    f"  {row['way']:<30}{row['median_ms']:8.2f}{row['ratio_to_eager']:9.2f}{row['ratio_to_svi']:9.2f}{first}",
                    flush=True,
                )
    if a.out:
        said = sys.argv[1:] if argv is None else argv
        write(a.out, " ".join(["python -m benchmarks.speed", *said]), threads=1, rows=rows)


if __name__ == "__main__":
    main()
