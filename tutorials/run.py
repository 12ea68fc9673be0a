"""Execute the tutorials in place, or check what is committed.

    python tutorials/run.py                    # execute all, write their outputs
    python tutorials/run.py 02_amortization
    python tutorials/run.py --check            # execute nothing; are all outputs there and current?
    python tutorials/run.py 02_amortization --set DATA=mnist --set DEVICE=cuda --out runs/mnist
    python tutorials/run.py --record           # also write the time of each to benchmarks/results/

A notebook is committed as it ran: top to bottom, in one process, with its outputs. One code cell, the
constants cell, holds every size. It assigns QUICK, and every other constant by an expression of it:

    QUICK = False  # True: a short run, as the tests make it
    DATA, DEVICE = "digits", "cpu"
    EPOCHS = 2 if QUICK else 100

`--set NAME=VALUE` replaces the value of a constant in the executed copy, which is written to `--out`.
`--record` writes the wall-clock and CPU seconds of each execution, with hardware and versions, to
benchmarks/results/tutorials.json; rows of notebooks that were not executed stay. The compiler then
starts with an empty cache, as on a new machine.
The tests execute every notebook with QUICK = True. They also read the committed outputs: each
number in the text that has a decimal point, a percent sign or a unit must be printed by a cell.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECORD = HERE.parent / "benchmarks" / "results" / "tutorials.json"
MAX_BYTES = 600_000
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
NUMBER = r"(?<![\w.^{])\d[\d,]*(?:\.\d+)?(?![\w]|\.\d)"
CLAIM = re.compile(rf"({NUMBER})(?:[ \u00a0]?(%|nats|percent|seconds|ms))?")
NOT_CLAIMED = re.compile(r"\d+e-?\d+|arXiv:? ?[\d.v]+|`[^`]*`|\(http[^)]*\)|```.*?```", re.S)
VOLATILE = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|mnt|var|usr)/|\bat 0x[0-9a-f]{6,}")


def notebooks(names=()):
    """The tutorials, in order; those named (`01_vae_from_scratch`), where names are given."""
    found = {path.stem: path for path in sorted(HERE.glob("*.ipynb"))}
    names = [Path(name).stem for name in names]
    unknown = [name for name in names if name not in found]
    if unknown:
        raise SystemExit(f"no tutorial {unknown[0]!r}; there are {', '.join(found) or 'none'}")
    return [found[name] for name in names or found]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def source_hash(notebook):
    """What the outputs were made from: edited code without a new run is found by it."""
    text = "\0".join(cell.source for cell in code_cells(notebook))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def constants_cell(notebook):
    """The one cell that assigns QUICK."""
    cells = [cell for cell in code_cells(notebook) if "QUICK" in assignments(cell.source)]
    if len(cells) != 1:
        raise ValueError(f"{len(cells)} cells assign QUICK; one, the constants cell, must")
    return cells[0]


def assignments(source):
    """`{name: the syntax tree of its value}` of a cell's assignments."""
    # a line of IPython's own (%, !) is no Python; no constants cell has one
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return {}
    values = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = zip(target.elts, value.elts, strict=True)
            else:
                pairs = [(target, value)]
            values |= {t.id: v for t, v in pairs if isinstance(t, ast.Name)}
    return values


def set_constants(notebook, constants):
    """Replace the values of constants, `{name: value}`, in the constants cell."""
    cell = constants_cell(notebook)
    for name, value in constants.items():
        node = assignments(cell.source).get(name)
        if node is None:
            known = ", ".join(assignments(cell.source))
            raise SystemExit(f"no constant {name!r}; the constants cell assigns {known}")
        lines = cell.source.split("\n")
        if node.lineno != node.end_lineno:
            raise SystemExit(f"the value of {name} takes several lines: edit the notebook instead")
        line = lines[node.lineno - 1].encode()
        line = line[: node.col_offset] + repr(value).encode() + line[node.end_col_offset :]
        lines[node.lineno - 1] = line.decode()
        cell.source = "\n".join(lines)


def client(notebook, folder, kernel=None, timeout=3600):
    """What executes a notebook in `folder`, in a kernel of its own or in a running one."""
    from nbclient import NotebookClient

    return NotebookClient(
        notebook,
        km=kernel,
        timeout=timeout,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,  # else where a stream is cut in two is chance
    )


def environment():
    """A kernel's: this library, one thread, no warning about the machine."""
    search = [str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in search if p),
        "OMP_NUM_THREADS": "1",  # sums in one order, whatever the machine
        # tqdm warns where ipywidgets is not installed: a fact of the machine, not of the notebook
        "PYTHONWARNINGS": "ignore:IProgress not found",
    }


def execute(path, folder, constants=None, kernel=None):
    """The notebook, run in `folder` on one thread with this Python; an error is raised."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    if constants:
        set_constants(notebook, constants)
    client(notebook, folder, kernel).execute(env=environment())
    return notebook


def tidy(notebook):
    """Leave nothing that differs from one run, or one machine, to the next."""
    notebook.metadata = {
        "kernelspec": KERNEL,
        "language_info": {"name": "python"},
        "executed_source": source_hash(notebook),
    }
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
        for output in cell.get("outputs", ()):
            if "metadata" in output:
                output.metadata = {}
            if {"image/png", "text/plain"} <= set(output.get("data", ())):
                del output.data["text/plain"]  # <Figure size ...>
    return notebook


def problems(path):
    """What is wrong with a committed notebook, a line each; nothing is executed."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    found = []
    if path.stat().st_size > MAX_BYTES:
        found.append(f"{path.stat().st_size:,} bytes; at most {MAX_BYTES:,}")
    if notebook.metadata.get("executed_source") != source_hash(notebook):
        found.append("its code has changed since it was executed")
    if set(notebook.metadata) != {"kernelspec", "language_info", "executed_source"}:
        found.append(f"metadata that run.py did not write: {sorted(notebook.metadata)}")
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        found.append(f"its cells were not executed once, in order: {counts}")
    if not any(cell.outputs for cell in code_cells(notebook)):
        found.append("it has no outputs")
    if claims := unsupported_claims(notebook):
        found.append(f"its text has numbers that no cell prints: {', '.join(claims)}")
    for number, cell in enumerate(code_cells(notebook), 1):
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {number} ends in {output.ename}: {output.evalue}")
            if output.get("name") == "stderr":
                found.append(f"cell {number} writes to stderr: {output.text.strip()[:80]}")
            text = [output.get("text", "")]
            text += [v for k, v in output.get("data", {}).items() if k.startswith("text/")]
            if match := VOLATILE.search("\n".join(text)):
                found.append(f"cell {number} shows a path or an address: {match[0]}")
    return found


def unsupported_claims(notebook):
    """Numbers in the text that no cell prints: `["3.5 nats", ...]`.

    A claim is a number with a decimal point, a percent sign or a unit. It is supported by a printed
    number (or a constant of the code) that rounds to it; signs are not compared.
    """
    printed = " ".join(
        "".join(text if isinstance(text, str) else "" for text in texts)
        for cell in code_cells(notebook)
        for texts in [
            [cell.source]
            + [output.get("text", "") for output in cell.outputs]
            + [output.get("data", {}).get("text/plain", "") for output in cell.outputs]
        ]
    )
    known = re.findall(r"(\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)(%?)", printed)
    known = {float(number.replace(",", "")) for number, _ in known}
    unsupported = []
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for number, unit in CLAIM.findall(NOT_CLAIMED.sub(" ", cell.source)):
            if "." not in number and not unit:
                continue
            digits = len(number.partition(".")[2])
            value, half = float(number.replace(",", "")), 0.5 * 10**-digits
            if not any(abs(value - k) <= half + 1e-9 for k in known):
                unsupported.append(f"{number} {unit}".strip())
    return unsupported


def constant(text):
    """`NAME=VALUE` as a pair; the value is a Python literal, else a string."""
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def cpu_seconds():
    """CPU time of the kernels that have ended; 0 where the system does not say."""
    return os.times().children_user + os.times().children_system


def record(name, seconds, cpu):
    """Write the times of one notebook to `RECORD`; the rows of the others stay."""
    sys.path.insert(0, str(HERE.parent))
    import torch

    from benchmarks import harness

    torch.set_num_threads(1)  # as the kernels have
    rows = json.loads(RECORD.read_text())["rows"] if RECORD.exists() else []
    by_name = {row["notebook"]: row for row in rows}
    by_name[name] = {"notebook": name, "seconds": seconds, "CPU seconds": cpu}
    harness.write(
        RECORD,
        "python tutorials/run.py --record",
        note="One execution of each, one after the other, on one thread, the compiler's cache empty. "
        "Where the CPU seconds are fewer than the seconds, the notebook waited for other jobs on the "
        "machine.",
        rows=[by_name[path.stem] for path in notebooks() if path.stem in by_name],
    )


def main(argv=None):
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="01_vae_from_scratch ... Default: all")
    parser.add_argument("--check", action="store_true", help="execute nothing, check the outputs")
    parser.add_argument("--set", action="append", type=constant, default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--out", type=Path, help="folder for the executed notebooks. Default: in place"
    )
    parser.add_argument("--record", action="store_true", help=f"write the times to {RECORD.name}")
    options = parser.parse_args(argv)
    if options.set and not options.out:
        parser.error("--set needs --out: committed outputs are those of the constants")
    if options.record and (options.set or options.check):
        parser.error("--record measures what is committed: not with --set or --check")
    if options.record:
        cache = tempfile.TemporaryDirectory()  # until the end of the process
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache.name
    failed, cpu = False, cpu_seconds()
    for path in notebooks(options.names):
        started, target = time.monotonic(), path
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            target = options.out / path.name
        if not options.check:
            nbformat.write(tidy(execute(path, HERE, dict(options.set))), target)
        found = [] if options.out else problems(path)
        failed |= bool(found)
        used, cpu = cpu, cpu_seconds()
        seconds = time.monotonic() - started
        if options.record:
            record(path.stem, seconds, cpu - used)
        took = "" if options.check else f", {seconds:.0f} s, {cpu - used:.0f} s of CPU"
        print(f"{path.stem}: {'; '.join(found) or 'fine'}{took}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
