"""`pyro-vae compare`, without torch until it computes: its help answers at once."""

from pathlib import Path
from typing import Any

from ..errors import UserError


def compare_runs_or_guides(
    runs: list[Path],
    model: str | None = None,
    guides: str | None = None,
    objectives: str | None = None,
    seeds: int | None = None,
    share_model: bool | None = None,
    base_guide: str | None = None,
    data: str | None = None,
    labels: str | None = None,
    index: str | None = None,
    epochs: int | None = None,
    settings: dict[str, Any] | None = None,
    split: str = "test",
    num_samples: int = 500,
    num_gap_data: int = 100,
    workers: int = 1,
    out: Path | None = None,
    device: str | None = None,
    root: Path | None = None,
    progress: bool = True,
) -> int:
    """Compare runs, or train and compare the guides of a method: one table, one figure.

    Either folders (compare runs/a runs/b) or --model (compare --model vae --guides diagonal,full).

    Args:
        runs: run folders, of the same data; none with `--model`.
        model: a method by name; see pyro-vae list.
        guides: names separated by commas, of default, constants, per-datum, semi-amortized,
            diagonal, full, low-rank, mixture, iaf, maf, spline, coupling. Default: diagonal,full.
        objectives: of pv.objectives, separated by commas. Default: the method's.
        seeds: how many. Default: 3.
        share_model: true: one model for all guides. Default: each guide trains a separate model.
        base_guide: the guide that trains the shared model. Default: the method's.
        data: a data set, a file or an image folder. Default: digits.
        labels: the column with labels, of a table; those of .h5ad are in obs.
        index: the column that names the rows, of a table.
        epochs: passes over the training data.
        settings: further options of pyro-vae fit, e.g. '{"latent_dim": 2, "hidden": [200]}'.
        split: the split to evaluate: train, valid or test.
        num_samples: importance samples for log p(x), ESS and k-hat.
        num_gap_data: how many data points, from the first, gaps are computed for; 0 for none.
        workers: processes; each trains the guides of one seed.
        out: folder. Default: runs/compare-MODEL-DATA, or runs/compare-runs.
        device: cpu, cuda, ... Default: a GPU if there is one.
        root: folder of the torchvision data sets.
        progress: show a progress bar.
    """
    if (model is None) == (not runs):
        raise UserError("either run folders, or --model NAME --guides A,B,...")
    evaluated: dict[str, Any] = {
        "split": split,
        "num_samples": num_samples,
        "num_gap_data": num_gap_data,
    }
    trained: dict[str, Any] = {
        "guides": guides, "objectives": objectives, "seeds": seeds,
        "share_model": share_model, "base_guide": base_guide,
        "data": data, "labels": labels, "index": index, "epochs": epochs, "settings": settings,
    }  # fmt: skip
    from .. import comparison, methods
    from ..comparison.table import check_no_other
    from .advice import advise
    from .effects import check_root

    if runs:
        _check_no_training(runs, trained)
        out = out or Path("runs/compare-runs")
        loaded: dict[Path | str, methods.Run] = {
            run: methods.load(run, device=device, root=root) for run in runs
        }
        check_no_other(out, [str(run) for run in runs])  # before the work
        result = comparison.compare_runs(loaded, **evaluated, progress=progress)
        try:
            result.save(out)
        except (UserError, OSError) as e:
            print(result)
            advise(f"the comparison was not written: {e}")
            return 0
    else:
        assert model is not None
        check_root(root, data or "digits")
        out = out or Path("runs") / f"compare-{model}-{Path(data or 'digits').stem}"
        trained = {n: v for n, v in trained.items() if v is not None}
        result = methods.compare_guides(
            model, **trained, **evaluated, root=root, workers=workers, out=out, device=device,
            progress=progress,
        )  # fmt: skip
    print(result, "", *(out / f"compare.{kind}" for kind in ("csv", "tex", "png")), sep="\n")
    return 0


def _check_no_training(runs: list[Path], trained: dict[str, Any]) -> None:
    """Raise if runs, which are trained already, came with an option `{name: value}` of training."""
    from .comparing import guide_names

    guide_names(trained["guides"] or "")
    for option, value in trained.items():
        if value is None:
            continue
        flag = f"--{option}".replace("_", "-")
        words = [str(run) for run in runs if not run.exists()]
        if words and isinstance(value, str):
            joined = ",".join([value, *words])
            raise UserError(f"{words[0]} is no run; names are joined by commas: {flag} {joined}")
        raise UserError(f"{flag} is for --model NAME; these runs are trained already")
