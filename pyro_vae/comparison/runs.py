"""Runs that are trained already, side by side."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..data import Data
from ..data.dataset import difference
from ..errors import UserError
from ..programs.calling import name_of
from ..programs.identity import identity
from ..programs.inspection import is_per_datum
from ..train import checkpoint
from ..train.checkpoint import check_config
from ..train.display import make_bar
from .cell import training_numbers
from .evaluation import (
    CellResult,
    EvaluationOptions,
    Row,
    count_guide_parameters,
    evaluate_pair,
    x_and_inputs,
)
from .evidence import table_rows
from .plan import PyroProgram
from .table import Comparison

if TYPE_CHECKING:
    from ..methods import Run  # which imports this package


def compare_runs(
    runs: Mapping[Path | str, "Run"],
    split: str = "test",
    num_samples: int = 500,
    num_gap_data: int = 100,
    gap_options: dict[str, Any] | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare run folders, each as it was trained.

    The numbers of a method's run are kept in its folder, `comparison-SPLIT.json`: the same call reads
    them there, and a call that was interrupted continues with the next run.

    Args:
        runs: `{folder: run}`, of `pv.load`. A folder's name without its seed is the guide's name in
            the table.
        split: the split to evaluate.
        num_samples: importance samples per data point for log p(x), ESS and k-hat.
        num_gap_data: how many data points, from the first, inference gaps are computed for; 0: none.
        gap_options: of `diagnostics.inference_gaps`.
        progress: whether to show a progress bar.

    Raises:
        UserError: runs of different data, of a guide with parameters per training data point, or
            whose configuration was edited since training.

    Example:
        >>> import tempfile, torch, pyro_vae as pv
        >>> folder = tempfile.mkdtemp()
        >>> net = pv.conditionals.MLP((4,))
        >>> model = pv.models.VAE((4,), 1, "normal", net)
        >>> guide = pv.guides.Guide(model, network=net)
        >>> run = pv.fit(model, guide, torch.randn(20, 4), epochs=1, out=folder, compile=False,
        ...              progress=False)
        >>> result = pv.comparison.compare_runs({folder: run}, "train", 10, num_gap_data=0)
        >>> result.rows[0]["model"], result.rows[0]["parameters"]
        ('VAE', 30)
    """
    options = EvaluationOptions(split, num_samples, num_gap_data, gap_options)
    checked: list[_CheckedRun] = []
    for folder, run in runs.items():  # all of them, before the first is evaluated
        first = checked[0].data if checked else None
        checked.append(_checked(Path(folder), run, first, options))
    if not checked:
        raise UserError("there are no runs to compare")
    results = []
    with make_bar(progress, total=len(checked), unit="run") as bar:

        def on_gaps(fraction: float) -> None:
            bar.set_postfix_str(f"gaps {fraction:.0%}")

        for one in checked:
            bar.set_description(f"{one.row['guide']}, seed {one.row['seed']}", refresh=False)
            bar.set_postfix_str("log p(x)")
            results.append(one.result(on_gaps))
            bar.update()
    rows, values = table_rows(results, range(len(results)))
    num_data = len(getattr(checked[0].data, split))
    num_gap_data = min(num_gap_data, num_data)
    folders = [str(folder) for folder in runs]
    return Comparison(
        rows, split, num_data, num_samples, num_gap_data, False, per_datum=values, runs=folders
    )


@dataclass(frozen=True)
class _CheckedRun:
    """What a comparison needs of a run; `_checked` alone knows the run itself.

    Args:
        row: its names, and the numbers of its training.
        model, guide: the pair.
        data: that it was trained on.
        options: of its evaluation.
        kept: the file of its numbers; None if they are not kept.
    """

    row: Row
    model: PyroProgram
    guide: PyroProgram
    data: Data
    options: EvaluationOptions
    kept: "_Kept | None"

    def result(self, on_gaps: Callable[[float], None]) -> CellResult:
        """The result of its evaluation, which is read where it was kept."""
        result = None if self.kept is None else self.kept.read()
        if result is None:
            result = self._evaluated(on_gaps)
            if self.kept is not None:
                self.kept.write(result)
        return replace(result, row=self.row | result.row)

    def _evaluated(self, on_gaps: Callable[[float], None]) -> CellResult:
        model, guide, data = self.model, self.guide, self.data
        x, others = x_and_inputs(model, guide, data, self.options.split, None)
        valid_guide = None if data.valid is None else guide
        numbers, per_datum = evaluate_pair(
            model, guide, data, self.options, valid_guide, on_progress=on_gaps
        )
        numbers["parameters"] = count_guide_parameters(model, guide, x, others)
        return CellResult(numbers, per_datum)


def _checked(
    folder: Path, run: "Run", first: Data | None, options: EvaluationOptions
) -> _CheckedRun:
    """What a comparison needs of a run, if it can be compared.

    Args:
        folder: of the run.
        run: the run.
        first: the data of the first run; None if it is this one.
        options: of the evaluation, apart from the seed.
    """
    check_config(folder)
    data = _checked_data(folder, run.data, first)
    model, guide = run.model, run.guide
    if not (callable(model) and callable(guide)):
        raise UserError(f"{folder} holds no pair of programs")
    if not run.history:
        raise UserError(f"{folder} has not been trained for an epoch yet")
    if is_per_datum(guide):
        raise UserError(
            f"{folder} has parameters per training data point, and none for {options.split} data"
        )
    config = run.config or {"method": name_of(model), "objective": "ELBO"}
    row = {
        "model": config["method"], "guide": folder.name.removesuffix(f"-{run.seed}"),
        "objective": config["objective"], "seed": run.seed, **training_numbers([run]),
    }  # fmt: skip
    options = replace(options, seed=run.seed)
    # the code of a pair that no method made may change, and its folder does not tell
    kept = None if run.config is None else _Kept.of(folder, model, guide, data, options)
    return _CheckedRun(row, model, guide, data, options, kept)


@dataclass(frozen=True)
class _Kept:
    """The file in a run's folder with the numbers of one evaluation.

    Args:
        path: of the file.
        digest: of all that the numbers depend on: weights, data, options, and the library's version.
    """

    path: Path
    digest: str

    @classmethod
    def of(
        cls,
        folder: Path,
        model: PyroProgram,
        guide: PyroProgram,
        data: Data,
        options: EvaluationOptions,
    ) -> "_Kept":
        digest = identity(__version__, options, data, model, guide)
        return cls(folder / f"comparison-{options.split}.json", digest)

    def read(self) -> CellResult | None:
        """The numbers of the same evaluation; None if the file is of another."""
        if not self.path.exists():
            return None
        with suppress(UserError):
            content = checkpoint.read_json(self.path)
            if isinstance(content, dict) and content.get("digest") == self.digest:
                return CellResult.of(content.get("result"), self.path)
        return None

    def write(self, result: CellResult) -> None:
        """Keep the numbers; a folder that cannot be written to keeps none."""
        with suppress(OSError):
            checkpoint.write_json(self.path, {"digest": self.digest, "result": asdict(result)})


def _checked_data(folder: Path, data: Data | None, first: Data | None) -> Data:
    """The data of a run, which must be those of the first run."""
    if data is None:
        raise UserError(f"the data of {folder} cannot be loaded again: use pv.compare in Python")
    if data.absent is not None:
        raise UserError(f"{folder}: {data.absent.error(data.name)}")
    other = None if first is None else difference(data.fingerprint(), first.fingerprint())
    if other is not None:
        raise UserError(
            f"{folder} has other data than the first run ({other}): their numbers cannot be compared"
        )
    return data
