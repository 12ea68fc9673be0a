"""Time of log_likelihood and of AIS: this library beside loops written by hand over the same network.

    python -m benchmarks.speed.evaluation [--quick] [--rounds N] [--out FILE.json]

The network is a VAE's, 784-400-20 (`workloads.vae`), with its random weights. log_likelihood takes 500
importance samples of 200 images, and 5,000 of 1,000, of which the library compiles the program: `first call`
has the seconds of a call in a process that has not done so. AIS takes 16 chains (and the 4 that adapt its steps) of 20 images
through 50 temperatures, with 10 gradients for each. "products" is the time of the decoder's matrix
products alone that the importance samples need. Every way has a process of its own with one thread,
in which freed memory is kept (see `freed_memory`); they take turns. CPU time, medians over rounds; a
ratio is the median over rounds.
"""

import math
import statistics
import time
from functools import partial

import pyro
import torch
import torch.nn.functional as F

import pyro_vae as pv
from pyro_vae._torch_internals import keep_freed_memory
from pyro_vae.conditionals.families import bounded_log_scale

from .. import harness
from .workloads import batch_of, vae

TASKS = {"log_likelihood": (200, 500), "log_likelihood, large": (1000, 5000), "ais": (20, None)}
IMAGES, CHUNK = 200, 10  # of images and samples at once, by hand: more are slower here
CHAINS, TEMPERATURES, LEAPFROG = 16, 50, 10
HAND, OURS, PRODUCTS = "by hand", "pyro_vae", "products"


def log_likelihood_by_hand(decoder, encoder, x, num_samples):
    """`[N]`: importance-weighted log p(x) of a VAE."""
    m, s = encoder(x).chunk(2, -1)
    s = bounded_log_scale(s)
    scale, total = s.exp(), torch.full((len(x),), -math.inf, dtype=torch.float64)
    for _ in range(num_samples // CHUNK):
        e = torch.randn(CHUNK, *m.shape)
        z = m + scale * e
        logits = decoder(z)
        log_w = (0.5 * e.square() - 0.5 * z.square() + s).sum(
            -1
        ) - F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(
            -1
        )
        total = torch.logaddexp(total, log_w.double().logsumexp(0))
    return total - math.log(num_samples)


def ais_by_hand(decoder, x, num_steps):
    """`[N]`: log p(x) by annealed importance sampling from the prior, as `pv.diagnostics.ais` takes it."""
    num_chains = CHAINS + 4

    def densities(u):
        logits = decoder(u)
        start = -0.5 * (u.square() + math.log(2 * math.pi)).sum(-1)
        nll = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
        return start, start - nll.sum(-1)

    def annealed(start, log_p, beta):
        return (1 - beta) * start + beta * log_p

    def gradient(u, beta):
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            return torch.autograd.grad(annealed(*densities(u), beta).sum(), u)[0]

    t = torch.linspace(-4, 4, num_steps + 1, dtype=torch.float64).sigmoid()
    betas = ((t - t[0]) / (t[-1] - t[0])).tolist()
    u = torch.randn(num_chains, len(x), 20)
    scale, log_step = u.std(0), torch.full((len(x),), math.log(0.5))
    start, log_p = densities(u)
    log_w = torch.zeros(num_chains, len(x), dtype=torch.float64)
    for previous, beta in zip(betas, betas[1:], strict=False):
        log_w = log_w + (beta - previous) * (log_p - start)
        if beta == 1:
            break
        size = log_step.exp().unsqueeze(-1) * scale * (0.2 + torch.rand_like(u[..., :1]))
        p = torch.randn_like(u)
        energy = annealed(start, log_p, beta) - 0.5 * p.square().sum(-1)
        v = u + 0.5 * size * p
        for i in range(LEAPFROG):
            p = p + size * gradient(v, beta)
            v = v + (size if i < LEAPFROG - 1 else 0.5 * size) * p
        proposed = densities(v)
        gain = annealed(*proposed, beta) - 0.5 * p.square().sum(-1) - energy
        acceptance = gain.exp().clamp(max=1)
        accepted = torch.rand_like(acceptance) < acceptance
        u = torch.where(accepted.unsqueeze(-1), v, u)
        start, log_p = (
            torch.where(accepted, a, b) for a, b in zip(proposed, (start, log_p), strict=True)
        )
        log_step = log_step + 0.3 * (acceptance[CHAINS:].mean(0) - 0.8)
    return log_w[:CHAINS].logsumexp(0) - math.log(CHAINS)


def build(task, way, quick):
    """`(block, facts)` of one way, in its process: see `harness.Worker`."""
    pyro.enable_validation(False)
    keep_freed_memory()  # the library does so itself; without it, the loops by hand are slower
    torch.manual_seed(0)
    model, guide = vae()
    p, q = model.p_x, guide.factors["z"]
    images, samples = TASKS[task]
    temperatures = 10 if quick else TEMPERATURES
    if quick:
        images, samples = 20, 50

    def decoder(z):
        return p.head(**p.features(z=z))

    def encoder(x):
        return q.head(**q.features(x=x))

    def products(x):
        weights = {w.shape[1]: w.t() for w in p.parameters() if w.dim() == 2}
        first, second = weights[20], weights[400]
        z, h = torch.randn(CHUNK * len(x), 20), torch.randn(CHUNK * len(x), 400)
        for _ in range(samples // CHUNK):
            torch.mm(z, first)
            torch.mm(h, second)

    def by_hand():
        parts = [
            log_likelihood_by_hand(decoder, encoder, part, samples) for part in x.split(IMAGES)
        ]
        return torch.cat(parts)

    x = batch_of(images)
    of_likelihood = {
        HAND: by_hand,
        OURS: lambda: pv.evaluate.log_likelihood(model, guide, x, samples),
        PRODUCTS: lambda: [products(part) for part in x.split(IMAGES)],
    }
    of_ais = {
        HAND: lambda: ais_by_hand(decoder, x, temperatures),
        OURS: lambda: pv.diagnostics.ais(
            model, x, num_steps=temperatures, num_chains=CHAINS, leapfrog=LEAPFROG
        ),
    }

    def call():
        with torch.no_grad():
            return (of_ais if task == "ais" else of_likelihood)[way]()

    started = time.process_time()
    value = call()
    first = time.process_time() - started
    mean = None if way == PRODUCTS else float(value.mean())
    facts = {"first call": first, "mean, nats": mean}
    return partial(harness.seconds_per_call, call, 1, "cpu"), facts


def measure(task, rounds, quick):
    """The rows of one task."""
    names = [HAND, OURS, *([] if task == "ais" else [PRODUCTS])]
    builds = {way: partial(build, task, way, quick) for way in names}
    facts, blocks, errors = harness.alternate(builds, rounds)
    if errors:
        raise RuntimeError(next(iter(errors.values())))
    times = {way: [block["cpu_s"] for block in blocks[way]] for way in names}
    return [
        {
            "task": task,
            "way": way,
            "seconds": statistics.median(times[way]),
            "ratio to by hand": harness.median_ratio(times[way], times[HAND]),
            **facts[way],
        }
        for way in names
    ]


def main(argv=None):
    arguments = harness.parser(__doc__, cpu_only=True)
    arguments.add_argument("--rounds", type=int, default=9, help="calls per way")
    options = harness.parse(arguments, argv)
    rows = []
    for task in TASKS:
        rounds = 2 if options.quick or "large" in task else options.rounds
        new = measure(task, rounds, options.quick)
        print(*new, sep="\n", flush=True)
        rows += new
    if options.out:
        harness.write(options.out, harness.command("benchmarks.speed.evaluation", argv), rows=rows)
    return rows


if __name__ == "__main__":
    main()
