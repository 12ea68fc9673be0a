"""Which numbers the table of a comparison shows, and how."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .evaluation import Row
from .evidence import FLAGS, NAMES
from .formats import MARK, Entry, Table

if TYPE_CHECKING:
    from .table import Comparison

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


def _short_data_of(comparison: "Comparison", number: str) -> str:
    if number in OF_GAPS:
        return f"{comparison.split}[:{comparison.num_gap_data}]"
    return "valid" if number == "valid_elbo" else comparison.split if number in OF_SPLIT else ""


def summary_table(comparison: "Comparison") -> Table:
    """A row for each model, guide and objective: mean ± sd over seeds."""
    summary, differences = comparison.summary(), comparison.differences()
    names = [n for n in NAMES[:3] if n == "guide" or len({s[n] for s in summary}) > 1]
    for line, difference in zip(summary, differences, strict=True):
        mean = difference["difference"]
        line["difference"] = mean if mean is None else (mean, 0.0)
        line["difference_se"] = (difference["standard_error"], 0.0)
    numbers = [n for n in TITLES if any(s[n] is not None for s in summary)]
    best = {n: _best(n, [s[n] for s in summary]) for n in numbers}
    return Table(
        titles=[*names, *(TITLES[n] for n in numbers)],
        data=[*("" for _ in names), *(_short_data_of(comparison, n) for n in numbers)],
        names=[[line[n] for n in names] for line in summary],
        entries=[[_entry(n, line, best[n]) for n in numbers] for line in summary],
        notes=_notes(comparison, summary, differences),
    )


def _notes(comparison: "Comparison", summary: list[Row], differences: list[Row]) -> list[str]:
    """Sentences that say what the table's numbers are."""
    seeds = sorted({r["seed"] for r in comparison.rows})
    several = len(seeds) > 1
    error = "mean ± sd over seeds" if several else f"seed {seeds[0]}, ± Monte Carlo standard error"
    notes = [
        f"{comparison.data_of('elbo')}, nats per data point, {error}; log p(x) and ESS of "
        f"{comparison.num_samples} samples."
    ]
    if comparison.num_gap_data:
        short = _short_data_of(comparison, "approximation")
        notes.append(f"{short}: {comparison.data_of('approximation')}.")
    if comparison.share_model and any(s["log_likelihood"] is not None for s in summary):
        notes.append("The guides share one model: its log p(x) is the best bound of all rows.")
    over = {d["over"] for d in differences} - {None}
    if over:
        notes.append(
            "Δ ELBO: difference from the first row, mean ± standard error over "
            f"{' or '.join(sorted(over))}" + (", paired by seed." if "seeds" in over else ".")
        )
    if any(s[flag] for s in summary for flag in FLAGS):
        notes.append(
            f"{MARK}: k-hat > 0.7: heavy-tailed importance weights. A log p(x) from them, and an "
            "approximation gap from this log p(x), may be too small."
        )
    return notes


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
    # Seeds with one model share the noise of its log p(x): their spread does not show it.
    error = (line.get(f"{number}_se") or (None, 0.0))[0]
    spread = max(spread, error or 0.0)
    digits = DIGITS.get(number, 2)
    text = f"{mean:+.{digits}f}" if number == "difference" else f"{mean:,.{digits}f}"
    shown = None if number == "parameters" or not spread else f"{spread:,.{digits}f}"
    return Entry(text, shown, marked, mean == best)
