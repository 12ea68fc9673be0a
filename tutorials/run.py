"""Execute the tutorials in place, or check what is committed.

    python tutorials/run.py                    # execute all, write their outputs
    python tutorials/run.py 01_vae_from_scratch
    python tutorials/run.py --check            # execute nothing; is every output there and current?

A notebook is committed as it ran: top to bottom, in one process, with its outputs. Its first code
cell sets every size, small where `PYRO_VAE_TUTORIAL_QUICK` is set (the tests do):

    QUICK = "PYRO_VAE_TUTORIAL_QUICK" in os.environ
    EPOCHS = 2 if QUICK else 100
"""

import argparse
import hashlib
import os
import re
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
MAX_BYTES = 600_000
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
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


def execute(path, folder, quick=False, timeout=1200):
    """The notebook, run in `folder` on one thread with this Python; an error is raised."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    environment = {k: v for k, v in os.environ.items() if k != "PYRO_VAE_TUTORIAL_QUICK"}
    search = [str(HERE.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(p for p in search if p)
    environment["OMP_NUM_THREADS"] = "1"  # sums in one order, whatever the machine
    # tqdm warns where ipywidgets is not installed: a fact of the machine, not of the notebook
    environment["PYTHONWARNINGS"] = "ignore:IProgress not found"
    if quick:
        environment["PYRO_VAE_TUTORIAL_QUICK"] = "1"
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,  # else where a stream is cut in two is chance
    )
    client.execute(env=environment)
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


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="01_vae_from_scratch ...; all unless said")
    parser.add_argument("--check", action="store_true", help="execute nothing, check the outputs")
    options = parser.parse_args(argv)
    failed = False
    for path in notebooks(options.names):
        started = time.monotonic()
        if not options.check:
            import nbformat

            nbformat.write(tidy(execute(path, HERE)), path)
        found = problems(path)
        failed |= bool(found)
        took = "" if options.check else f", {time.monotonic() - started:.0f} s"
        print(f"{path.stem}: {'; '.join(found) or 'fine'}{took}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
