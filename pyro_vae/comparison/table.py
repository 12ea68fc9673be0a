"""The result of a comparison: its rows, their means over seeds, and the formats that show them."""

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..diagnostics.grid import PosteriorGrid
from ..errors import UserError
from ..train.checkpoint import write_atomically, write_json
from .differences import paired_differences
from .evaluation import Row
from .evidence import FLAGS, NAMES, NUMBERS, Bounds
from .formats import Entry, Table, to_html, to_latex, to_text

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

TITLES = {
    "elbo": "ELBO", "difference": "Δ ELBO", "log_likelihood": "log p(x)",
    "approximation": "approx. gap", "amortization": "amort. gap", "pareto_k": "k-hat", "ess": "ESS",
    "valid_elbo": "ELBO", "parameters": "parameters", "ms_per_step": "ms/step",
}  # fmt: skip
DIGITS = {"ess": 0, "parameters": 0, "ms_per_step": 1}  # after the point. Default: 2
BEST = {
    "elbo": max,
    "valid_elbo": max,
    "log_likelihood": max,
    "approximation": min,
    "amortization": min,
}
MARKED_BY = {
    "pareto_k": "heavy_tailed", "log_likelihood": "log_likelihood_heavy_tailed",
    "approximation": "gap_log_likelihood_heavy_tailed",
}  # fmt: skip
OF_SPLIT = ("elbo", "difference", "log_likelihood", "ess", "pareto_k")
OF_GAPS = ("gap_log_likelihood", "approximation", "amortization")


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
    """

    rows: list[Row]
    split: str
    num_data: int
    num_samples: int
    num_gap_data: int
    share_model: bool
    posteriors: dict[str, PosteriorGrid] = field(default_factory=dict)
    per_datum: list[Bounds] = field(default_factory=list, repr=False)

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

    def _short_data_of(self, number: str) -> str:
        if number in OF_GAPS:
            return f"{self.split}[:{self.num_gap_data}]"
        return "valid" if number == "valid_elbo" else self.split if number in OF_SPLIT else ""

    def _table(self) -> Table:
        summary, differences = self.summary(), self.differences()
        names = [n for n in NAMES[:3] if n == "guide" or len({s[n] for s in summary}) > 1]
        for line, difference in zip(summary, differences, strict=True):
            mean = difference["difference"]
            line["difference"] = mean if mean is None else (mean, 0.0)
            line["difference_se"] = (difference["standard_error"], 0.0)
        numbers = [n for n in TITLES if any(s[n] is not None for s in summary)]
        best = {n: _best(n, [s[n] for s in summary]) for n in numbers}
        return Table(
            titles=[*names, *(TITLES[n] for n in numbers)],
            data=[*("" for _ in names), *(self._short_data_of(n) for n in numbers)],
            names=[[line[n] for n in names] for line in summary],
            entries=[[_entry(n, line, best[n]) for n in numbers] for line in summary],
            notes=self._notes(summary, differences),
        )

    def _notes(self, summary: list[Row], differences: list[Row]) -> list[str]:
        """Sentences that say what the table's numbers are."""
        seeds = sorted({r["seed"] for r in self.rows})
        several = len(seeds) > 1
        error = (
            "mean ± sd over seeds" if several else f"seed {seeds[0]}, ± Monte Carlo standard error"
        )
        notes = [
            f"{self.data_of('elbo')}, nats per data point, {error}; log p(x) and ESS of "
            f"{self.num_samples} samples."
        ]
        if self.num_gap_data:
            short = self._short_data_of("approximation")
            notes.append(f"{short}: {self.data_of('approximation')}.")
        if self.share_model and any(s["log_likelihood"] is not None for s in summary):
            notes.append("The guides share one model: its log p(x) is the best bound of all rows.")
        over = {d["over"] for d in differences} - {None}
        if over:
            notes.append(
                "Δ ELBO: difference from the first row, mean ± standard error over "
                f"{' or '.join(sorted(over))}" + (", paired by seed." if "seeds" in over else ".")
            )
        if any(s[flag] for s in summary for flag in FLAGS):
            notes.append(
                "!: k-hat > 0.7, the importance weights have too heavy a tail for a log p(x) from "
                "them to be trusted."
            )
        return notes

    def __str__(self) -> str:
        return to_text(self._table())

    def _repr_html_(self) -> str:
        return to_html(self._table())

    def to_latex(self) -> str:
        """The table as a LaTeX `tabular` for the package booktabs, `mean ± sd`, the best bold."""
        return to_latex(self._table())

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
        """Write `compare.json`, `compare.csv`, `compare.tex` and `compare.png` to a folder."""
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        names = ("split", "num_data", "num_samples", "num_gap_data", "share_model")
        settings = {name: getattr(self, name) for name in names}
        settings["data"] = {n: self.data_of(n) for n in NUMBERS if self.data_of(n)}
        content = {**settings, "rows": self.rows, "differences": self.differences()}
        write_json(out / "compare.json", content)
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


def _best(number: str, values: Sequence[tuple[float, float] | None]) -> float | None:
    """The best mean of a column; None where no row is better than another."""
    means = [value[0] for value in values if value is not None]
    if number not in BEST or len(set(means)) < 2:
        return None
    return BEST[number](means)


def _entry(number: str, line: Row, best: float | None) -> Entry:
    """A number of a line of the summary, as the table shows it."""
    marked = number in MARKED_BY and line[MARKED_BY[number]]
    if line[number] is None:
        return Entry("-", marked=marked)
    mean, spread = line[number]
    if spread == 0:  # one seed, or one model for all: the number's Monte Carlo standard error
        spread = (line.get(f"{number}_se") or (None, 0.0))[0]
    digits = DIGITS.get(number, 2)
    text = f"{mean:+.{digits}f}" if number == "difference" else f"{mean:,.{digits}f}"
    shown = None if number == "parameters" or not spread else f"{spread:,.{digits}f}"
    return Entry(text, shown, marked, mean == best)
