"""Time of a training step: this library against hand-written torch, Pyro's SVI and pythae.

    python -m benchmarks.speed [--quick] [--device cuda] [--out FILE.json]

One process, one thread; the ways of a workload take turns, so that they meet the same machine.
Medians, and ratios to the hand-written eager step. All ways have the same networks, the same
estimator (one sample, discrete latents summed), the same batch and Adam; the hand-written ones are
what a careful person writes in torch, with a fused Adam, over the modules of the library's pair, and
before anything is timed their loss and gradients are compared with the pair's, with the same noise.
M2 has no labels here: a label takes nothing off a step of fixed shape, in which every class is summed.
"products" is the time of the step's matrix products alone, forward and backward: no way of running
the step on this processor is faster. pythae's VAE (`pip install -e ".[bench]"`) has networks of the
same sizes, its own loss (the KL in closed form) and its trainer's step.
On a GPU hand-written and recorded steps are also taken as one CUDA graph each, and peak memory is
what a way's first call allocates beyond what there was. First calls are short where Inductor's cache on disk knows the workload from an earlier run.
"""

import argparse
import importlib.util
import math
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import pyro
import torch
import torch.nn as nn
import torch.nn.functional as F
from pyro.infer import SVI, TraceEnum_ELBO
from torch.utils._python_dispatch import TorchDispatchMode

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.conditionals.families import bounded_log_scale
from pyro_vae.train.steps import cuda_graph
from pyro_vae.train.steps.recorded import PlainStep, RecordedStep

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


def m2():
    """Kingma's: y <- x, summed in the guide; z <- x, y; K = 10, z of 50, 500-500."""
    net = MLP((500, 500))
    model = pv.models.M2((X,), K, 50, "bernoulli", net)
    return model, pv.guides.Guide(model, network=net)


def m2_loss(model, guide, x):
    q, y = guide.factors, torch.eye(K, dtype=x.dtype, device=x.device).unsqueeze(1)  # [K, 1, K]
    log_qy = _net(q["y"], x=x).log_softmax(-1).T  # [K, B]
    m, s = _net(q["z"], x=x, y=y).chunk(2, -1)  # [K, B, 50]
    s = bounded_log_scale(s)
    e = torch.randn_like(m)
    z = m + s.exp() * e
    kl = (0.5 * z.square() - 0.5 * e.square() - s).sum(-1) + log_qy + math.log(K)
    logits = _net(model.p_x, y=y, z=z)
    nll = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
    return (log_qy.exp() * (nll + kl)).sum()


def _net(conditional, **parents):
    return conditional.head(**conditional.features(**parents))


#: name: (the pair, its loss written by hand)
WORKLOADS = {"vae": (vae, vae_loss), "gmvae": (gmvae, gmvae_loss), "m2": (m2, m2_loss)}


# ------------------------------------------------------------------------------ ways


def _trainer(pair, loss):
    """A step of `loss(x)`, which leaves gradients, and a fused Adam."""
    parameters = [p for m in pair for p in m.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)

    def step(x):
        optimizer.zero_grad(set_to_none=True)
        loss(x)
        optimizer.step()

    return step


def eager(pair, by_hand):
    return _trainer(pair, lambda x: (by_hand(*pair, x) / len(x)).backward())


def graphed(pair, by_hand):
    """The eager step as a CUDA graph, as torch's documentation shows it."""
    parameters = [p for m in pair for p in m.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True, capturable=True)
    static, replay = None, None

    def train():
        optimizer.zero_grad(set_to_none=True)
        (by_hand(*pair, static) / len(static)).backward()
        optimizer.step()

    def step(x):
        nonlocal static, replay
        if replay is None:
            static = x.clone()
            replay = cuda_graph.capture(train, x.device)
        static.copy_(x)
        replay()

    return step


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


def pythae(device):
    """The step of pythae's `BaseTrainer` on its VAE: 784-400-20, softplus."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(X, 400), nn.Softplus(), nn.Linear(400, 40))

        def forward(self, x):
            m, s = self.net(x).chunk(2, -1)
            return ModelOutput(embedding=m, log_covariance=s)

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(20, 400), nn.Softplus(), nn.Linear(400, X), nn.Sigmoid()
            )

        def forward(self, z):
            return ModelOutput(reconstruction=self.net(z))

    config = VAEConfig(input_dim=(X,), latent_dim=20, reconstruction_loss="bce")
    model = VAE(config, Encoder(), Decoder()).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(x):
        loss = model({"data": x}, epoch=1, dataset_size=len(x), uses_ddp=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def recorded_graph(backend, pair, by_hand):
    """As `fit` trains on a GPU."""
    parameters = [p for m in pair for p in m.parameters()]
    lr = torch.tensor(1e-3, device=parameters[0].device)
    optimizer = torch.optim.AdamW(parameters, lr=lr, fused=True, capturable=True)
    step = RecordedStep(pv.objectives.ELBO(), pair, backend)
    training = cuda_graph.GraphedStep(step, optimizer)
    return lambda x: training({"x": x})


WAYS = {
    "hand-written, eager": eager,
    "hand-written, torch.compile": compiled,
    "pyro SVI": svi,
    "pyro_vae, plain": plain,
    "pyro_vae, recorded, aten": partial(recorded, "recorded"),
    "pyro_vae, recorded, inductor": partial(recorded, "inductor"),
}


GPU_WAYS = {
    "hand-written, CUDA graph": graphed,
    "pyro_vae, CUDA graph, aten": partial(recorded_graph, "recorded"),
    "pyro_vae, CUDA graph, inductor": partial(recorded_graph, "inductor"),
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
        [torch.empty_strided(shape, stride, device=x.device).normal_() for shape, stride in both]
        for both in seen.found
    ]

    def step(x):
        for a, b in operands:
            torch.matmul(a, b)

    return step


# --------------------------------------------------------------------------- measuring


def check(name, make, by_hand):
    """The hand-written loss and gradients are the pair's, or the comparison would mean nothing."""
    torch.manual_seed(0)
    pair = [m.double() for m in make()]
    parameters = [p for m in pair for p in m.parameters()]
    x, found = torch.bernoulli(torch.rand(16, X, dtype=torch.float64)), []
    for loss in (by_hand, pv.objectives.ELBO().differentiable_loss):
        torch.manual_seed(1)
        value = loss(*pair, x)
        found.append([value.detach(), *torch.autograd.grad(value, parameters)])
    for a, b in zip(*found, strict=True):
        if (a - b).abs().max() > 1e-9 * b.abs().max():
            raise RuntimeError(f"{name}: by hand it is not the objective of the library's pair")


def measure(name, size, rounds, device):
    """`{way: {median seconds, ratio, first call}}` of one workload at one batch size."""
    make, by_hand = WORKLOADS[name]
    check(name, make, by_hand)
    torch.manual_seed(0)
    x = torch.bernoulli(torch.rand(size, X)).to(device)
    cuda = device.type == "cuda"
    ways = {**WAYS, **(GPU_WAYS if cuda else {})}
    builds = {way: partial(_build, build, make, by_hand, device) for way, build in ways.items()}
    if name == "vae" and importlib.util.find_spec("pythae"):
        builds["pythae"] = partial(pythae, device)
    steps, first, memory = {}, {}, {}
    for way, build in builds.items():
        torch.manual_seed(0)
        steps[way] = build()
        with pyro.validation_enabled(False):
            before = _used(cuda)
            first[way] = _seconds(steps[way], x)
            memory[way] = _used(cuda, peak=True) - before
    steps["products"] = products([m.to(device) for m in make()], by_hand, x)
    times = {way: [] for way in steps}
    # steps a turn: long ones need no averaging
    turn = 5 if _seconds(steps["hand-written, eager"], x) < 0.05 else 1
    for r in range(rounds + 2):
        for way, step in steps.items():
            with pyro.validation_enabled(False):
                seconds = _seconds(step, x, turn)
            if r >= 2:
                times[way].append(seconds)
    pyro.clear_param_store()
    return [
        {
            "workload": name,
            "batch": size,
            "way": way,
            "median_ms": 1e3 * statistics.median(t),
            "ratio_to_eager": ratio(t, times["hand-written, eager"]),
            "ratio_to_svi": ratio(t, times["pyro SVI"]),
            "first_call_s": first.get(way),
            **({"peak_MiB": memory.get(way)} if cuda else {}),
        }
        for way, t in times.items()
    ]


def _build(way, make, by_hand, device):
    return way([m.to(device) for m in make()], by_hand)


def _seconds(step, x, turn=1):
    """Seconds a step; on a GPU, until it is done."""
    started = time.perf_counter()
    for _ in range(turn):
        step(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / turn


def _used(cuda, peak=False):
    """MiB of GPU memory: now, or at most since it was last asked how much it is now."""
    if not cuda:
        return 0.0
    if peak:
        return torch.cuda.max_memory_allocated() / 2**20
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 2**20


def ratio(a, b):
    """Median over rounds, each against its neighbor in time."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--rounds", type=int, default=30, help="of some steps of every way")
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--out", type=Path)
    a = parser.parse_args(argv)
    torch.set_num_threads(1)
    if "vae" in a.workloads and not importlib.util.find_spec("pythae"):
        print('pythae is not installed, and left out: pip install -e ".[bench]"')
    rows = []
    for name in a.workloads:
        for size in a.batches:
            found = measure(name, size, 6 if a.quick else a.rounds, a.device)
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
