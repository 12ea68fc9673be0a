"""Whether torch's log1p and softplus are slow in a fresh process until -0.0 was passed to log1p once.

    python -m benchmarks.speed.constant_table [--processes N] [--bare] [--out FILE.json]

Each measurement is a fresh process with one thread, cold and touched in turn: the least CPU time of 50
calls on `[512, 784]`, in ms, which other load on the machine changes least. Reported are medians over
processes, their ratio, and whether the values are the same to the last bit. `needed` says whether
touching gains a fifth or more anywhere: else `_torch_internals.touch_constant_table` can go.
"""

import json
import os
import statistics
import subprocess
import sys

import torch

from .. import harness

FUNCTIONS = {"log1p": "torch.log1p", "softplus": "torch.nn.functional.softplus"}
NEEDED = 1.2

PROGRAM = """
import hashlib, json, sys, time
import torch
name, touched, bare = sys.argv[1], sys.argv[2] == "touched", sys.argv[3] == "bare"
if not bare:
    import pyro_vae
torch.set_num_threads(1)
x = torch.rand(512, 784, generator=torch.Generator().manual_seed(0))
function = eval(name)
if touched:
    torch.log1p(torch.tensor([-0.0]))
times = []
for _ in range(50):
    start = time.thread_time()
    value = function(x)
    times.append(1e3 * (time.thread_time() - start))
digest = hashlib.sha256(value.numpy().tobytes()).hexdigest()
print(json.dumps([min(times), digest]))
"""


def measure(name: str, state: str, bare: bool) -> tuple[float, str]:
    """`(ms, digest of the values)` of one function in a fresh process, `cold` or `touched`."""
    arguments = [FUNCTIONS[name], state, "bare" if bare else "library"]
    command = [sys.executable, "-c", PROGRAM, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    milliseconds, digest = json.loads(output.stdout.splitlines()[-1])
    return milliseconds, digest


def compare(name: str, processes: int, bare: bool) -> dict[str, object]:
    """One function, cold and touched in turn: a row of the result."""
    times: dict[str, list[float]] = {"cold": [], "touched": []}
    digests = set()
    for _ in range(processes):
        for state in times:
            milliseconds, digest = measure(name, state, bare)
            times[state].append(milliseconds)
            digests.add(digest)
    cold, touched = (statistics.median(values) for values in times.values())
    return {
        "function": name,
        "cold ms": round(cold, 4),
        "touched ms": round(touched, 4),
        "ratio": round(cold / touched, 3),
        "same values": len(digests) == 1,
    }


def main(argv: list[str] | None = None) -> dict[str, object]:
    arguments = harness.parser(__doc__, cpu_only=True)
    arguments.add_argument("--processes", type=int, default=7, help="of each state")
    arguments.add_argument("--bare", action="store_true", help="import torch alone")
    options = harness.parse(arguments, argv)
    if options.quick:
        options.processes = 1
    rows = [compare(name, options.processes, options.bare) for name in FUNCTIONS]
    result = {
        "torch": torch.__version__,
        "processes": options.processes,
        "rows": rows,
        "needed": any(row["ratio"] >= NEEDED for row in rows),
    }
    print(json.dumps(result, indent=1))
    if options.out:
        harness.write(
            options.out, harness.command("benchmarks.speed.constant_table", argv), **result
        )
    return result


if __name__ == "__main__":
    main()
