"""The result of a comparison: its rows, their means over seeds, and the formats that show them."""

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..diagnostics.grid import PosteriorGrid
from ..errors import UserError, folder_to_write
from ..train.checkpoint import read_json, write_atomically, write_json
from .differences import paired_differences
from .evaluation import Row
from .evidence import FLAGS, NAMES, NUMBERS, Bounds
from .formats import to_html, to_latex, to_text
from .summary_table import OF_GAPS, OF_SPLIT, summary_table

COMPARISON = "compare.json"  # of a folder, with the rows and what they are of

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure


def check_no_other(out: Path | str, runs: Sequence[str]) -> None:
    """Raise if a folder has the comparison of other runs, or of cells and not of runs.

    Args:
        out: a folder, which need not exist.
        runs: the run folders that are compared; none of a comparison that trains its cells.
    """
    path = Path(out) / COMPARISON
    if not path.exists():
        return
    known = read_json(path)
    if not isinstance(known, dict) or known.get("runs", []) != list(runs):
        raise UserError(
            f"{out} has another comparison, which would be lost: choose another directory (--out, out=)"
        )


@dataclass
class Comparison:
    """What `compare` returns; printed, it is a table.

    Attributes:
        rows: a dict per cell: the names `model, guide, objective, seed`, and the numbers, in nats per
            data point; None where a number is not defined.

            * On the whole split: `elbo`; `log_likelihood`, a lower bound on log p(x) by importance
              weights: of a model that guides share, the best that any of them gives, the same in
              every row; `ess` (mean, of `num_samples` weights) and `pareto_k` (median; None of fewer
              than 100 samples, if all weights are equal, or if a few have all the weight).
            * On the first `num_gap_data` of the split: `gap_log_likelihood`, the best bound known for
              the model; `approximation` and `amortization`.
            * On the validation data: `valid_elbo`.
            * `NAME_se`: the Monte Carlo standard error of NAME.
            * `heavy_tailed`: whether k-hat of the guide's weights is above 0.7;
              `log_likelihood_heavy_tailed` and `gap_log_likelihood_heavy_tailed`: whether that of the
              weights behind this log p(x) is.
            * `parameters`: of the guide, not the model's; `ms_per_step`: median over epochs; `seconds`
              of training; `best_epoch`.
        split: the split that was evaluated, of `num_data` data points.
        num_samples: importance samples per data point.
        num_gap_data: data points that the gaps are computed for.
        share_model: whether the guides share one model.
        posteriors: `{guide: diagnostics.posterior_grid}` of the first data points, for the first
            model, objective and seed, if the model has two latent numbers.
        per_datum: for each row `{number: [N] or [num_gap_data]}` of `elbo`, `log_likelihood`,
            `approximation` and `amortization`.
        runs: the run folders that were compared; none where the comparison trained its cells.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from functools import partial
        >>> net = pv.conditionals.MLP((4,))
        >>> vae = partial(pv.models.VAE, (4,), 1, "normal", net)
        >>> guide = partial(pv.guides.Guide, network=net)
        >>> guides = {"mine": guide, "constant": partial(guide, given={"z": []})}
        >>> result = pv.compare(vae, guides, torch.randn(20, 4), seeds=2, epochs=1, num_samples=10,
        ...                     num_gap_data=0, compile=False, progress=False)
        >>> [line["seeds"] for line in result.summary()]
        [2, 2]
        >>> result.differences(guide="constant")[0]["over"]
        'seeds'
        >>> print(result.to_latex())
        % 20 train data points, nats per data point, mean ± sd over seeds; ...
        \\begin{tabular}{lrrrrrr}
        ...
    """

    rows: list[Row]
    split: str
    num_data: int
    num_samples: int
    num_gap_data: int
    share_model: bool
    posteriors: dict[str, PosteriorGrid] = field(default_factory=dict)
    per_datum: list[Bounds] = field(default_factory=list, repr=False)
    runs: list[str] = field(default_factory=list)

    def summary(self) -> list[Row]:
        """The mean and sd over seeds of every model, guide and objective.

        Returns:
            `[{name: ..., "seeds": how many, number: (mean, sd), flag: with any of the seeds}]`; None
            where a number is not defined.
        """
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in self.rows:
            groups.setdefault(tuple(row[n] for n in NAMES[:3]), []).append(row)
        result = []
        for names, rows in groups.items():
            line: Row = {**dict(zip(NAMES, names, strict=False)), "seeds": len(rows)}
            for number in NUMBERS:
                values = [r[number] for r in rows if r[number] is not None]
                line[number] = mean_sd(values) if values else None
            line |= {flag: any(r[flag] for r in rows) for flag in FLAGS}
            result.append(line)
        return result

    def differences(
        self,
        number: str = "elbo",
        *,
        model: str | None = None,
        guide: str | None = None,
        objective: str | None = None,
    ) -> list[Row]:
        """The difference of each row from a reference row, paired by seed and data point.

        Rows of one seed share data, and with `share_model=True` the model: their difference has a
        smaller error than either number.

        Args:
            number: `elbo`, `log_likelihood`, `approximation` or `amortization`.
            model, guide, objective: names of the reference row. Default: the first row.

        Returns:
            `[{"model", "guide", "objective", "number", "seeds", "difference", "standard_error",
            "over"}]`, a dict for each row of `summary()`. The standard error is over seeds, or, for
            a single seed, over data points; `over` says which. None for the reference row.

        Raises:
            UserError: a name or number that does not exist.
        """
        names = {"model": model, "guide": guide, "objective": objective}
        reference = {kind: name for kind, name in names.items() if name is not None}
        return paired_differences(self.rows, self.per_datum, number, reference)

    def data_of(self, number: str) -> str | None:
        """The data that a number is of: `"360 test data points"`; None of one that is of none."""
        number = number.removesuffix("_se")
        if number in OF_GAPS:
            return f"first {self.num_gap_data} of {self.num_data} {self.split} data points"
        if number in OF_SPLIT:
            return f"{self.num_data} {self.split} data points"
        return "validation data" if number == "valid_elbo" else None

    def __str__(self) -> str:
        return to_text(summary_table(self))

    def _repr_html_(self) -> str:
        return to_html(summary_table(self))

    def to_latex(self) -> str:
        """The table as a LaTeX `tabular` for the package booktabs, `mean ± sd`, the best bold."""
        return to_latex(summary_table(self))

    def to_frame(self) -> "pandas.DataFrame":
        """The rows as a pandas DataFrame, one row per cell, with a column `split`.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("to_frame() needs pandas: pip install pandas") from None
        return pandas.DataFrame(self._records())

    def _records(self) -> list[Row]:
        records = []
        for row in self.rows:
            names = {n: row[n] for n in NAMES}
            records.append({**names, "split": self.split, **row})
        return records

    def save(self, out: Path | str) -> None:
        """Write `compare.json`, `compare.csv`, `compare.tex` and `compare.png` to a folder.

        Raises:
            UserError: the folder has a comparison of other runs, or cannot be written.
        """
        check_no_other(out, self.runs)
        out = folder_to_write(out)
        names = ("split", "num_data", "num_samples", "num_gap_data", "share_model", "runs")
        settings = {name: getattr(self, name) for name in names}
        settings["data"] = {n: self.data_of(n) for n in NUMBERS if self.data_of(n)}
        content = {**settings, "rows": self.rows, "differences": self.differences()}
        write_json(out / COMPARISON, content)
        write_atomically(out / "compare.csv", self._write_csv)
        write_atomically(out / "compare.tex", lambda path: path.write_text(self.to_latex()))
        self.plot().savefig(out / "compare.png", dpi=130)

    def _write_csv(self, path: Path) -> None:
        with open(path, "w", newline="") as f:
            writer = csv.DictWriter(f, list(self._records()[0]))
            writer.writeheader()
            writer.writerows(self._records())

    def plot(self) -> "Figure":
        """A figure: bars of both gaps for each guide, or their ELBOs; posteriors of a 2-D latent."""
        from .figure import plot  # matplotlib takes a second to import

        return plot(self)


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; the latter is 0 of one value."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
