"""Time of a training step: this library, hand-written torch, Pyro's SVI, NumPyro, JAX and pythae.

    python -m benchmarks.speed.step [--quick] [--device cuda] [--out FILE.json]

Every way runs in a process of its own, with one thread and kept on one core, so that no way depends
on what ran before it, or on how many cores it sees. The processes take turns in blocks of one second,
so that all ways meet the same machine. A number is the median over blocks; a ratio is the median over
rounds of two blocks of the same round. On a CPU the time is CPU time; on a GPU it is wall-clock time, and every block ends with a
synchronization.

All ways have the same networks, the same estimator (one sample, discrete latents summed), the same
batch and Adam. The hand-written ways use a fused Adam over the modules of the library's pair; before
anything is timed, their loss and gradients are compared with the pair's. "Inductor" is the step of
`fit(compile=True)`: on a CPU, its program contains AdamW's update. "products" is the time of the
step's matrix products alone, forward and backward. It bounds every way that leaves the products to
the same library. "products and Adam" adds the optimizer's update, which reads and writes every weight
and two moments; no way can leave it out either. pythae's VAE (`pip install -e ".[bench]"`) has networks
of the same sizes, its own loss (the KL in closed form) and its trainer's step. NumPyro and JAX by hand
(the same extra) take 20 steps per call by `lax.scan`, over batches on the device; see `jax_ways`.

On a GPU the hand-written and the recorded steps are also measured as one CUDA graph each. Peak
memory is what the first call allocates in addition to weights and batch. First calls are short
where Inductor's cache on disk knows the workload from an earlier run.
"""

import importlib.util
import statistics
from functools import partial

import pyro
import torch

from .. import harness
from . import jax_ways, ways
from .workloads import WORKLOADS, batch_of, check

EAGER, SVI, PYTHAE = "hand-written, eager", "pyro SVI", "pythae"
PRODUCTS, FLOOR = "products", "products and Adam"
#: The ways that every way is compared with.
REFERENCES = {
    "eager": EAGER,
    "svi": SVI,
    "numpyro": "NumPyro SVI, scan",
    "products": PRODUCTS,
    "floor": FLOOR,
}
JAX = ("jax", "numpyro", "funsor")
#: Steps before the clock starts. `fit` compares a replay with the plain step after 2, 4, 8, ...
#: steps: of the later ones, at most one block of a way contains a comparison.
WARM_UP = 64


def way_names(workload, device):
    """The ways that apply to a workload on a device."""
    names = [*ways.WAYS, *(ways.GPU_WAYS if torch.device(device).type == "cuda" else ())]
    if torch.device(device).type == "cpu" and all(map(importlib.util.find_spec, JAX)):
        names += jax_ways.WAYS
    if workload == "vae" and importlib.util.find_spec("pythae"):
        names.append(PYTHAE)
    return [*names, PRODUCTS, FLOOR]


def build(workload, size, way, device, seconds):
    """`(block, facts)` of one way, in its process: see `harness.Worker`."""
    make, by_hand = WORKLOADS[workload]
    if way in jax_ways.WAYS:
        return build_jax(workload, size, way, seconds)
    pyro.enable_validation(False)  # `ways.svi` enables it within its step, as Pyro does by default
    if way.startswith("pyro_vae"):
        torch.set_flush_denormal(True)  # as `fit` does, and XLA's code
    x = batch_of(size, device)
    torch.manual_seed(0)
    if way == PRODUCTS:
        step = ways.products(make(), by_hand, x)
    elif way == FLOOR:
        step = ways.products_and_update(make(), by_hand, x)
    elif way == PYTHAE:
        step = ways.pythae(device)
    else:
        step = {**ways.WAYS, **ways.GPU_WAYS}[way]([m.to(device) for m in make()], by_hand)
    before = allocated(device)
    facts = {"first_call_s": harness.seconds_per_call(partial(step, x), 1, device)["wall_s"]}
    if before is not None:
        facts["peak_MiB"] = torch.cuda.max_memory_allocated(device) / 2**20 - before
    for _ in range(WARM_UP):
        step(x)
    return harness.block_of(partial(step, x), seconds, device), facts


def build_jax(workload, size, way, seconds):
    """As `build`; the time of a call of several steps is divided by their number."""
    jax_ways.one_thread()
    make, by_hand = WORKLOADS[workload]
    jax_ways.check(workload, make, by_hand)
    steps = jax_ways.WAYS[way](workload, make, batch_of(size))
    facts = {"first_call_s": harness.seconds_per_call(steps, 1, "cpu")["wall_s"]}
    block = harness.block_of(steps, seconds, "cpu")
    return lambda: {clock: s / jax_ways.STEPS for clock, s in block().items()}, facts


def allocated(device):
    """MiB of GPU memory in use, from where the peak is counted; None on a CPU."""
    if torch.device(device).type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device) / 2**20


def measure(workload, size, options):
    """A row for each way of one workload at one batch size."""
    check(workload, *WORKLOADS[workload])
    builds = {
        way: partial(build, workload, size, way, options.device, options.seconds)
        for way in way_names(workload, options.device)
    }
    facts, blocks, errors = harness.alternate(builds, options.rounds, threads=options.threads)
    clock = "cpu_s" if torch.device(options.device).type == "cpu" else "wall_s"
    times = {way: [block[clock] for block in measured] for way, measured in blocks.items()}
    rows = []
    for way in builds:
        row = {"workload": workload, "batch": size, "way": way}
        if way in errors:
            rows.append({**row, "error": errors[way].strip().splitlines()[-1]})
            continue
        row["median_ms"] = 1e3 * statistics.median(times[way])
        row["wall_ms"] = 1e3 * statistics.median(block["wall_s"] for block in blocks[way])
        for name, reference in REFERENCES.items():
            if reference in times:
                row[f"ratio_to_{name}"] = harness.median_ratio(times[way], times[reference])
        rows.append({**row, **facts[way]})
    return rows


def show(rows):
    """Print the rows of one workload and batch size."""
    title = f"{rows[0]['workload']}, batch {rows[0]['batch']}"
    heads = "".join(f"{f'÷ {name}':>11}" for name in REFERENCES)
    print(f"\n{title:<34}{'ms':>8}{heads}  first call, s")
    for row in rows:
        line = f"  {row['way']:<32}"
        if "error" in row:
            print(f"{line}failed: {row['error']}", flush=True)
            continue
        ratios = [row.get(f"ratio_to_{name}", float("nan")) for name in REFERENCES]
        line += f"{row['median_ms']:8.3f}" + "".join(f"{ratio:11.2f}" for ratio in ratios)
        line += f"{row['first_call_s']:10.2f}"
        print(line + (f"{row['peak_MiB']:10.1f} MiB" if "peak_MiB" in row else ""), flush=True)


def main(argv=None):
    arguments = harness.parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=6, help="blocks per way")
    arguments.add_argument("--seconds", type=float, default=1.0, help="length of a block")
    arguments.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    arguments.add_argument("--batches", nargs="+", type=int, default=[128, 512])
    options = harness.parse(arguments, argv)
    if options.quick:
        options.rounds, options.seconds = min(options.rounds, 3), min(options.seconds, 0.2)
    if "vae" in options.workloads and not importlib.util.find_spec("pythae"):
        print('pythae is not installed and is left out: pip install -e ".[bench]"')
    if not all(map(importlib.util.find_spec, JAX)):
        print('NumPyro and JAX are not installed and are left out: pip install -e ".[bench]"')
    rows = []
    for workload in options.workloads:
        for size in options.batches:
            rows += (measured := measure(workload, size, options))
            show(measured)
            if options.out:  # after each, so that an interruption loses little
                command = harness.command("benchmarks.speed.step", argv)
                harness.write(options.out, command, rounds=options.rounds, rows=rows)


if __name__ == "__main__":
    main()
