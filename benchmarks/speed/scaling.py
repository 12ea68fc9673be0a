"""Time and memory of a training step as the problem grows; one result file, one figure.

    python -m benchmarks.speed.scaling [--quick] [--device cuda] [--out FILE.json]

One thing grows and the others stay at BASE: the number of enumerated components (summed in the
model: `mixture-vae`, `gmvae`; in the guide, which runs the decoder once per component: `m2`), the
batch, the particles, the size of the latent, or the rows of the data set. The points of a curve take
turns in one process; medians over rounds. Memory is the peak of what a step allocates, with the
gradients, in addition to weights and Adam's moments. For the rows it is the peak of building and
shuffling the data set, and the time includes a step's part of the epoch's shuffling. `exponent` is
the slope of log time, and of log memory, between the last two points: 1 is linear.
"""

import math
import os
import statistics

import matplotlib
import pyro
import torch

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.data import batches
from pyro_vae.train.steps.recorded import PlainStep, RecordedStep

from .. import harness
from .workloads import X

BASE = {"components": 10, "batch": 128, "particles": 1, "latent": 16, "rows": 10_000, "hidden": 500}
#: what grows: (its values, the models)
CURVES = {
    "components": ((10, 20, 50, 100, 1000), ("mixture-vae", "gmvae", "m2")),
    "batch": ((64, 256, 1024, 4096), ("vae", "gmvae")),
    "particles": ((1, 4, 16, 64), ("vae", "gmvae")),
    "latent": ((2, 16, 64, 256), ("vae", "gmvae")),
    "rows": ((1_000, 10_000, 100_000, 1_000_000), ("vae",)),
}
LARGEST = {"m2": 100}  # components: it runs the decoder for each
QUICK = {"hidden": 32, "batch": 32}


def pair(name, components, latent, hidden, columns=X):
    """A pair of this library for Bernoulli data with this number of columns."""
    net, x_shape = MLP((hidden, hidden)), (columns,)
    if name == "vae":
        model = pv.models.VAE(x_shape, latent, network=net)
    elif name == "mixture-vae":
        model = pv.models.MixtureVAE(x_shape, components, latent, network=net)
    elif name == "gmvae":
        model = pv.models.GMVAE(x_shape, components, latent, network=net, w_network=MLP((hidden,)))
    else:
        model = pv.models.M2(x_shape, components, latent, network=net)
    return model, pv.guides.Guide(model, network=net)


class Point:
    """One setting: `step()` trains a step, on data drawn as `fit` draws them."""

    def __init__(self, name, s, kind, device, columns=X):
        torch.manual_seed(0)
        both = [
            m.to(device) for m in pair(name, s["components"], s["latent"], s["hidden"], columns)
        ]
        objective = pv.objectives.ELBO(num_particles=s["particles"])
        plain = kind == "plain"
        self.train = PlainStep(objective, both) if plain else RecordedStep(objective, both, kind)
        parameters = [p for m in both for p in m.parameters()]
        self.adam = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
        self.s, self.device, self.columns, self.times = s, device, columns, []

    def load(self):
        """Build the data set and take the first steps, which record."""
        x = torch.rand(self.s["rows"], self.columns).round_()
        self.batches = batches(
            pv.data.from_arrays(x, valid=0, test=0), self.s["batch"], self.device
        )
        self.shuffle()
        self.step()
        self.step()

    def shuffle(self):
        """Begin an epoch and draw its first batch."""
        self.drawn = self.batches.epoch(0)
        self.batch = next(self.drawn)

    def step(self):
        self.adam.zero_grad(set_to_none=True)
        self.train({"x": self.batch["x"]})
        self.adam.step()

    def time(self):
        """Measure the seconds of a step with its part of the epoch's shuffling."""
        shuffling, stepping = map(self._seconds, (self.shuffle, self.step))
        self.times.append(shuffling / len(self.batches) + stepping)

    def _seconds(self, action):
        return harness.seconds_per_call(action, 1, self.device)["wall_s"]


def peak(function, device):
    """MiB that `function` allocates at most, in addition to what is allocated before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        function()
    now, most = 0, 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most / 2**20


def measure(curve, kind, rounds, base, device, quick):
    """The rows of one curve."""
    values, names = CURVES[curve]
    points = {}
    harness.touch_constants()  # the points share a process
    columns = 64 if curve == "rows" else X  # a million rows of 784 are 3 GB
    with pyro.validation_enabled(False):
        for name in names:
            most = LARGEST.get(name, math.inf) if curve == "components" else math.inf
            for value in [v for v in values if v <= most][: 2 if quick else None]:
                point = points[name, value] = Point(
                    name, {**base, curve: value}, kind, device, columns
                )
                held = peak(point.load, device)
                point.adam.zero_grad(set_to_none=True)
                point.memory = held if curve == "rows" else peak(point.step, device)
        for _ in range(rounds):
            for point in points.values():
                point.time()
    return [
        {
            "curve": curve,
            "model": name,
            "value": value,
            "ms": 1e3 * statistics.median(point.times),
            "MiB": point.memory,
        }
        for (name, value), point in points.items()
    ]


def exponent(measured, key):
    """Slope of the log of `key` against the log of what grows, between the last two points."""
    a, b = measured[-2:]
    return math.log(b[key] / a[key]) / math.log(b["value"] / a["value"])


def lines(rows):
    """`{(curve, model): rows}`"""
    curves = {}
    for row in rows:
        curves.setdefault((row["curve"], row["model"]), []).append(row)
    return curves


def figure(rows):
    """Time above, memory below, a column for each thing that grows; dotted: linear growth."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = list(dict.fromkeys(row["curve"] for row in rows))
    size = 2.4 * len(curves) + 0.8, 4.8
    fig, axes = plt.subplots(
        2,
        len(curves),
        figsize=size,
        squeeze=False,
        sharey="row",
        sharex="col",
        layout="constrained",
    )
    colors = {m: f"C{i}" for i, m in enumerate(dict.fromkeys(r["model"] for r in rows))}
    for (curve, model), measured in lines(rows).items():
        for ax, key in zip(axes[:, curves.index(curve)], ("ms", "MiB"), strict=True):
            x, y = [r["value"] for r in measured], [r[key] for r in measured]
            ax.loglog(x, y, "o-", color=colors[model], label=model, markersize=4)
            ax.loglog(x, [y[-1] * v / x[-1] for v in x], ":", color="0.75", zorder=0)
    for curve, ax in zip(curves, axes[1], strict=True):
        values = sorted({r["value"] for r in rows if r["curve"] == curve})
        ax.set_xticks(values, [_short(v) for v in values])
        ax.set_xlabel(curve)
        ax.minorticks_off()
    for ax, key in zip(axes[:, 0], ("ms", "MiB"), strict=True):
        ax.set_ylabel(f"{key} per step")
        values = [row[key] for row in rows]
        ax.set_ylim(0.7 * min(values), 1.5 * max(values))
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:,g}")
    handles = {
        label: h for ax in axes[0] for h, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    fig.legend(
        handles.values(), handles, loc="outside upper center", ncols=len(handles), frameon=False
    )
    return fig


def _short(value):
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if value % size == 0:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def main(argv=None):
    arguments = harness.parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=15)
    arguments.add_argument("--curves", nargs="+", default=list(CURVES), choices=CURVES)
    arguments.add_argument("--kind", default="recorded", choices=("plain", "recorded", "inductor"))
    options = harness.parse(arguments, argv)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's messages
    base = {**BASE, **(QUICK if options.quick else {})}
    rounds = 3 if options.quick else options.rounds
    device, rows = torch.device(options.device), []
    for curve in options.curves:
        measured = measure(curve, options.kind, rounds, base, device, options.quick)
        rows += measured
        for (_, model), line in lines(measured).items():
            slope = f"exponent {exponent(line, 'ms'):.2f} time, {exponent(line, 'MiB'):.2f} memory"
            print(f"\n{model}, {curve}: {slope}")
            for row in line:
                print(f"  {row['value']:>9,}{row['ms']:10.2f} ms{row['MiB']:10.1f} MiB", flush=True)
    if options.out:
        command = harness.command("benchmarks.speed.scaling", argv)
        harness.write(options.out, command, base=base, kind=options.kind, rows=rows)
        figure(rows).savefig(options.out.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
