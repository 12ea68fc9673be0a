"""The command `pyro-vae`: train, evaluate and sample deep latent-variable models, and compare them."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .data.registry import DATASETS, FILE_KINDS
from .errors import (
    OUT_OF_MEMORY,
    UserError,
    check_int_at_least,
    is_out_of_memory,
    unknown_name_error,
)
from .methods.compare_command import compare_runs_or_guides
from .methods.parser import one_line_warnings, parse_command, print_columns
from .methods.table import METHODS

PARTS = ("pair", "encoder", "decoder")  # of a run, that are exported

# torch is imported by the commands that compute: --help, --version and list answer at once. No command
# function has the name of an attribute of the package, which jsonargparse would look up and import.


def train_and_report(
    config: dict[str, Any],
    out: Path | None = None,
    resume: bool = False,
    device: str | None = None,
    root: Path | None = None,
    num_samples: int = 500,
    progress: bool = True,
    workers: int | None = None,
) -> int:
    """Train a method, evaluate it, and write a report.

    Args:
        config: the method's configuration.
        out: run folder. Default: runs/METHOD-DATA-SEED.
        resume: continue the run in the run folder, with the settings that it was started with; start
            it if there is none.
        device: cpu, cuda, ... Default: a GPU if there is one.
        root: folder of the torchvision data sets. Default: $PYRO_VAE_DATA, or ~/.cache/pyro_vae.
        num_samples: importance samples of the final log-likelihood.
        progress: show a progress bar.
        workers: processes that train restarts or first VAEs on a CPU. Default: one for each idle core.
    """
    from .methods import Method
    from .methods.options import default_folder
    from .methods.records import CONFIG
    from .train import choose_device, distributed
    from .train.folder import RunFolder

    check_int_at_least(1, num_samples=num_samples)  # now, not after hours of training
    out = default_folder(config) if out is None else out
    resume = resume and (out / CONFIG).exists()  # before a process of the group writes it
    with distributed.group(choose_device(device)):
        if not resume:
            hint = "use --resume to continue it or --out to choose another directory"
            distributed.on_rank_zero(lambda: RunFolder(out).check_free(hint))
            distributed.on_rank_zero(RunFolder(out).check_writable)
        method = Method(config, root=root)
        prints = distributed.rank() == 0  # one process prints and reports for all
        if prints and not resume:
            method_and_guide = f"{method.name}: {method.preset.paper}; guide {method.preset.guide}"
            print(f"{method_and_guide}; run folder {out}", flush=True)
        try:
            run = method.fit(out, resume, device, progress, workers)
        except KeyboardInterrupt:  # during an initialization
            if not (out / CONFIG).exists():
                raise
            run = None
        if run is None or run.interrupted:
            if prints:
                print(f"\ninterrupted; rerun with --resume to continue from {out}")
            return 130
        result = distributed.on_rank_zero(lambda: run.report(num_samples=num_samples))
        if prints:
            print(f"{result}\n\nreport: {out / 'report.html'}")
            if run.stop_reason == "max_time":
                print(f"stopped by max_time; rerun with --resume to continue from {out}")
    return 0


def evaluate_run(
    run: Path,
    split: str | None = None,
    num_samples: int = 5000,
    data: Path | None = None,
    device: str | None = None,
    root: Path | None = None,
) -> int:
    """Evaluate a run on a split of its data, or on new data from a file.

    Args:
        run: run folder, or the .safetensors file of an export.
        split: train, valid or test. Default: test, if there is one.
        num_samples: importance samples per data point.
        data: file or image folder of new data, of any kind that fit takes, instead of a split. Labels
            in it score the clusters or classes; the results are printed and not written.
        device: cpu, cuda, ... Default: a GPU if there is one.
        root: folder of the torchvision data sets. Default: $PYRO_VAE_DATA, or ~/.cache/pyro_vae.
    """
    from .methods import load

    check_int_at_least(1, num_samples=num_samples)
    loaded = load(run, device=device, root=root)
    print(loaded.evaluate(split, num_samples, write=data is None, data=data))
    return 0


def sample_from_run(
    run: Path,
    source: str = "prior",
    num: int | None = None,
    y: str | None = None,
    latent: str | None = None,
    mean: bool | None = None,
    steps: int | None = None,
    path: str | None = None,
    observed: str | None = None,
    split: str | None = None,
    c: Path | None = None,
    seed: int = 0,
    out: Path | None = None,
    device: str | None = None,
    root: Path | None = None,
) -> int:
    """Generate new data with a run: an .npz file, a picture of images, a .csv file of a table.

    Sources: prior; component (one row each); aggregate (posterior of a random training data point);
    ex-post (mixture fitted to encodings); interpolate (between data); traverse (one latent unit at a
    time); impute (the missing values of data, or a hidden half; in the .csv file `row` is the row
    number in the split, and draw 0 the data point itself).

    Args:
        run: run folder, or the .safetensors file of an export.
        source: prior, component, aggregate, ex-post, interpolate, traverse or impute.
        num: how many samples (of a component), paths, units, or completions. Default: as many as a picture shows.
        y: from this component alone, by its number; of this class or label, by its name or number.
            Default: all.
        latent: which latent is refitted, walked along or traversed. Default: z, or the topmost.
        mean: true: the likelihood's means, which are smooth pictures; false: draws. Default: true for
            images.
        steps: points on a path, or steps of the chains that complete data. Default: 9, or 200.
        path: spherical or linear. Default: spherical.
        observed: the half that is not hidden: top, bottom, left or right; top and left are the first
            columns of a table. Default: top; of data with missing values, all that are not missing.
        split: of the data that paths, traversals and completions start from. Default: test, if there is one.
        c: file of covariates of a conditional model, in their original units: a table that has their
            columns, or an .npy array. One sample for each row, or num samples, with the rows in turn.
            Default: the covariates of the data.
        seed: seed of the draws.
        out: where to write. Default: samples.npz, .png or .csv in the run folder (interpolate.npz, ...),
            in place of those of an earlier call.
        device: cpu, cuda, ... Default: a GPU if there is one.
        root: folder of the torchvision data sets. Default: $PYRO_VAE_DATA, or ~/.cache/pyro_vae.
    """
    from .methods import load
    from .methods.new_files import check_is_no_input, read_covariates
    from .report.samples import files_of_samples

    loaded = load(run, device=device, root=root)
    out = out or _output(run, "samples" if source == "prior" else source)
    check_is_no_input(loaded, c, *files_of_samples(out))
    sheet = loaded.sheet(
        source, num=num, y=y, latent=latent, mean=mean, steps=steps, path=path, observed=observed,
        split=split, seed=seed, c=None if c is None else read_covariates(loaded, c),
    )  # fmt: skip
    assert loaded.data is not None  # the commands have loaded them
    print(*([] if sheet.note is None else [sheet.note]), *sheet.write(out, loaded.data), sep="\n")
    return 0


def encode_with_run(
    run: Path,
    data: Path | None = None,
    split: str | None = None,
    out: Path | None = None,
    device: str | None = None,
    root: Path | None = None,
) -> int:
    """Encode data with a run, as a CSV file: posterior means, and the most probable component.

    Its first column names the rows: the index of a table, the `file` of an image, else the row number.
    Of splits, the first columns are the split, the row (in the file; of a data set in the split), and the
    label.

    Args:
        run: run folder, or the .safetensors file of an export.
        data: file or image folder. Default: the file that the run was trained on, or the splits of
            its data set.
        split: train, valid or test, of the data that the run was trained on.
        out: the file to write. Default: codes.csv in the run folder.
        device: cpu, cuda, ... Default: a GPU if there is one.
        root: folder of the torchvision data sets. Default: $PYRO_VAE_DATA, or ~/.cache/pyro_vae.
    """
    from .methods import load
    from .methods.new_files import write_codes

    out = out or _output(run, "codes.csv")
    path = write_codes(load(run, device=device, root=root), data, out, split)
    print(path)
    return 0


def impute_with_run(
    run: Path,
    data: Path | None = None,
    num: int = 1,
    steps: int = 200,
    seed: int = 0,
    out: Path | None = None,
    device: str | None = None,
    root: Path | None = None,
) -> int:
    """Fill in the missing values of a file, by draws of the model given all that is observed.

    A table becomes a .csv file of all its columns; several draws follow each other in it, numbered in
    a column `draw`. Arrays become an .npy file.

    Args:
        run: run folder, or the .safetensors file of an export.
        data: file with missing values. Default: the file that the run was trained on.
        num: how many draws of each missing value.
        steps: of the Markov chains that draw.
        seed: seed of the draws.
        out: the file to write. Default: imputed.csv or imputed.npy in the run folder.
        device: cpu, cuda, ... Default: a GPU if there is one.
        root: folder of the torchvision data sets. Default: $PYRO_VAE_DATA, or ~/.cache/pyro_vae.
    """
    from .methods import load
    from .methods.new_files import write_imputed

    check_int_at_least(1, num=num, steps=steps)
    loaded = load(run, device=device, root=root)
    print(write_imputed(loaded, data, out or _output(run, "imputed"), num, steps, seed))
    return 0


def write_export(
    run: Path,
    out: Path | None = None,
    part: str = "pair",
    license: str | None = None,
    root: Path | None = None,
) -> int:
    """Write the weights of a run to share, without its data; or its encoder or decoder as a program.

    The other commands, and pv.load, take the file of the weights in place of a run folder. A program
    (torch.export, .pt2) needs torch alone.

    Args:
        run: run folder, or the .safetensors file of an export.
        out: a file .safetensors, or a folder, which also gets a model card; of a program a file .pt2.
            Default: the folder export in the run folder; of a program encoder.pt2 or decoder.pt2 in
            the run folder.
        part: pair (model and guide), encoder or decoder.
        license: of the weights, for the model card, such as CC-BY-4.0.
        root: folder of the torchvision data sets. Default: $PYRO_VAE_DATA, or ~/.cache/pyro_vae.
    """
    from .methods import load

    if part not in PARTS:
        raise unknown_name_error("part", part, PARTS)
    if part != "pair" and license is not None:
        raise UserError("--license is for the model card of --part pair; a program has none")
    loaded = load(run, device="cpu", root=root)
    if part == "pair":
        print(loaded.export(out or _output(run, "export"), license))
    else:
        write = loaded.export_encoder if part == "encoder" else loaded.export_decoder
        print(write(out or _output(run, f"{part}.pt2")))
    return 0


def _output(run: Path, name: str) -> Path:
    """A file in the folder of a run; of an export, beside its file and named after it."""
    is_export = run.suffix == ".safetensors"
    return run.with_name(f"{run.stem}-{name}") if is_export else run / name


def explore_run_or_comparison(
    run: Path,
    out: Path | None = None,
    split: str | None = None,
    device: str | None = None,
    root: Path | None = None,
) -> int:
    """Write a page on which the latent space can be explored in a browser, offline.

    Args:
        run: run folder, or the folder of a comparison whose model has two latent numbers.
        out: the page. Default: explore.html in the folder.
        split: train, valid or test. Default: test, if there is one.
        device: cpu, cuda, ... Default: a GPU if there is one.
        root: folder of the torchvision data sets. Default: $PYRO_VAE_DATA, or ~/.cache/pyro_vae.
    """
    from .methods import explore

    if out is not None and (out.suffix.lower() != ".html" or out.name == "report.html"):
        raise UserError(
            f"the page is an .html file, and not the report of the run: --out cannot be {out.name}"
        )
    print(explore(run, out, split, device, root))
    return 0


def list_methods() -> int:
    """List the methods: model, guide, paper."""
    table = [(name, p.model_name, p.guide, p.paper) for name, p in METHODS.items()]
    print_columns([("method", "model", "guide", "paper"), *table])
    print(f"\ndata: {', '.join(DATASETS)}, or {FILE_KINDS}")
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "fit": train_and_report,
    "evaluate": evaluate_run,
    "sample": sample_from_run,
    "encode": encode_with_run,
    "impute": impute_with_run,
    "export": write_export,
    "explore": explore_run_or_comparison,
    "compare": compare_runs_or_guides,
    "list": list_methods,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    status = 1
    try:
        with one_line_warnings():
            return _run(argv)
    except UserError as e:
        message = str(e)
    except BrokenPipeError:  # of `pyro-vae list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as e:
        message = f"{e.filename}: {e.strerror}"
    except (MemoryError, RuntimeError) as e:
        if not is_out_of_memory(e):
            raise
        message = OUT_OF_MEMORY
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    rank = int(os.environ.get("RANK", 0))
    print(f"pyro-vae{f' (process {rank})' if rank else ''}: {message}", file=sys.stderr)
    return status


def _run(argv: list[str]) -> int:
    if argv and argv[0] == "fit" and argv[1:] not in (["--help"], ["-h"]):
        from .methods import to_yaml
        from .methods.arguments import parse_fit

        config, arguments, print_config = parse_fit(argv[1:], train_and_report)
        if print_config:
            print(to_yaml(config), end="")
            return 0
        return train_and_report(config, **arguments)
    command, arguments = parse_command(argv, COMMANDS, __doc__, __version__)
    return COMMANDS[command](**arguments)
