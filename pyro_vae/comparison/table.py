"""What a comparison found: rows, their means over seeds, CSV, and the figure."""

import csv
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .. import plots
from ..train.checkpoint import write_atomically, write_json

NAMES = ("model", "guide", "objective", "seed")
NUMBERS = (
    "valid_elbo", "elbo", "log_likelihood", "log_likelihood_se", "ess", "pareto_k",
    "gap_log_likelihood", "gap_log_likelihood_se", "approximation", "approximation_se",
    "amortization", "amortization_se", "parameters", "ms_per_step", "seconds", "best_epoch",
)  # fmt: skip
SHOWN = {
    "valid_elbo": "valid ELBO", "elbo": "ELBO", "log_likelihood": "log p(x)", "ess": "ESS",
    "pareto_k": "k-hat", "gap_log_likelihood": "log p(x)", "approximation": "approximation",
    "amortization": "amortization", "parameters": "parameters", "ms_per_step": "ms/step",
}  # fmt: skip
OF_SPLIT = ("elbo", "log_likelihood", "ess", "pareto_k")
OF_GAPS = ("gap_log_likelihood", "approximation", "amortization")


@dataclass
class Comparison:
    """What `compare` returns.

    Attributes:
        rows: a dict per cell: the names `model, guide, objective, seed`, and the numbers, None where
            they are not defined; in nats per data point. On the whole split: `elbo`;
            `log_likelihood`, importance weighted, one value for a model that guides share: the best
            guide's; `ess` (mean, of `num_samples` weights) and `pareto_k` (median; None of fewer than
            100 samples, where all weights are equal, or where a few weights are all there is);
            `heavy_tailed`: whether k-hat is above 0.7. On the first `num_gap_data` of the split:
            `gap_log_likelihood`, the best bound known of the model, `approximation` and
            `amortization`. On the validation data: `valid_elbo`. `NAME_se` is the Monte Carlo
            standard error of NAME. `parameters` of the guide, not the model's; `ms_per_step`, the
            median over epochs; `seconds` of training; `best_epoch`.
        split: whose data are evaluated, `num_data` of them by `num_samples` samples; `num_gap_data` for
            the gaps.
        posteriors: `{guide: diagnostics.posterior_grid}` of the first data, of the first model,
            objective and seed, where the model has two latent numbers.
    """

    rows: list
    split: str
    num_data: int
    num_samples: int
    num_gap_data: int
    share_model: bool
    posteriors: dict = field(default_factory=dict)

    def summary(self):
        """`[{name: ..., number: (mean, sd)}]` over seeds; None where a number is not defined.

        `heavy_tailed` tells whether k-hat is above 0.7 with any of the seeds.
        """
        groups = {}
        for row in self.rows:
            groups.setdefault(tuple(row[n] for n in NAMES[:3]), []).append(row)
        result = []
        for names, rows in groups.items():
            line = {**dict(zip(NAMES, names, strict=False)), "seeds": len(rows)}
            for number in NUMBERS:
                values = [r[number] for r in rows if r[number] is not None]
                line[number] = mean_sd(values) if values else None
            line["heavy_tailed"] = any(r["heavy_tailed"] for r in rows)
            result.append(line)
        return result

    def data_of(self, number):
        """The data that a number is of: `"360 test data points"`; None of one that is of none."""
        if number.removesuffix("_se") in OF_GAPS:
            return f"first {self.num_gap_data} of {self.num_data} {self.split} data points"
        if number.removesuffix("_se") in OF_SPLIT:
            return f"{self.num_data} {self.split} data points"
        return "validation data" if number == "valid_elbo" else None

    def __str__(self):
        lines, summary = [], self.summary()
        names = [n for n in NAMES[:3] if n == "guide" or len({s[n] for s in summary}) > 1]
        numbers = [n for n in SHOWN if any(s[n] is not None for s in summary)]
        shown = [SHOWN[n] + (f" [{self.num_gap_data}]" if n in OF_GAPS else "") for n in numbers]
        cells = [[*names, *shown]]
        for s in summary:
            cells.append([s[n] for n in names] + [_shown(n, s) for n in numbers])
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        for row in cells:
            left = [v.ljust(w) for v, w in zip(row, widths, strict=True)][: len(names)]
            right = [v.rjust(w) for v, w in zip(row, widths, strict=True)][len(names) :]
            lines.append("  ".join(left + right).rstrip())
        seeds = sorted({r["seed"] for r in self.rows})
        if len(seeds) > 1:
            error = "mean ± sd over seeds"
        else:
            error = f"seed {seeds[0]}, ± Monte Carlo standard error"
        title = [
            f"{self.data_of('elbo')}, nats per data point, {error}; log p(x) and ESS of "
            f"{self.num_samples} samples"
        ]
        if self.num_gap_data:
            title.append(f"[{self.num_gap_data}]: {self.data_of('approximation')}")
        if any(s["heavy_tailed"] for s in summary):
            title.append(
                "!: k-hat > 0.7, the guide's weights have too heavy a tail for a log p(x) from them "
                "to be trusted"
            )
        return "\n".join([*title, *lines])

    def save(self, out):
        """`compare.json`, `compare.csv` and `compare.png` in a folder."""
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        names = ("split", "num_data", "num_samples", "num_gap_data", "share_model")
        settings = {name: getattr(self, name) for name in names}
        settings["data"] = {n: self.data_of(n) for n in NUMBERS if self.data_of(n)}
        write_json(out / "compare.json", {**settings, "rows": self.rows})
        write_atomically(out / "compare.csv", self._csv)
        self.figure().savefig(out / "compare.png", dpi=130)

    def _csv(self, path):
        with open(path, "w", newline="") as f:
            writer = csv.DictWriter(f, (*NAMES, *NUMBERS, "heavy_tailed"))
            writer.writeheader()
            writer.writerows(self.rows)

    def figure(self):
        """Bars of both gaps, a panel for each model and objective; posteriors of a 2-D latent."""
        from matplotlib.figure import Figure

        panels = {}
        for row in self.summary():
            if row["approximation"] is not None:  # as it is of grey values in a Bernoulli
                panels.setdefault((row["model"], row["objective"]), []).append(row)
        guides = max((len(p) for p in panels.values()), default=1)
        columns, data = len(self.posteriors), 0
        if columns:
            data = len(next(iter(self.posteriors.values())).posterior)
        top, below = 1.4 + 0.36 * guides, 2.3 * data
        width = max(1.8 + 4.7 * max(1, len(panels)), 2.2 * columns)
        figure = Figure(figsize=(width, top + below), layout="constrained")
        parts = figure.subfigures(2, 1, height_ratios=(top, below)) if columns else [figure]
        self._bars(parts[0], panels)
        if columns:
            self._contours(parts[1], data)
        return figure

    def _bars(self, figure, panels):
        axes = figure.subplots(1, max(1, len(panels)), squeeze=False, sharey=True)[0]
        several = [len({r[n] for r in self.rows}) > 1 for n in ("model", "objective")]
        for ax, (names, rows) in zip(axes, panels.items(), strict=False):
            plots.gaps(ax, rows, ", ".join(n for n, s in zip(names, several, strict=True) if s))
        if panels:
            shown = axes[0].get_legend_handles_labels()
            figure.legend(*shown, loc="outside upper center", ncols=2, frameon=False)

    def _contours(self, figure, data):
        """A column a guide, one row per data point: the guide's density over the true one."""
        axes = figure.subplots(data, len(self.posteriors), squeeze=False)
        for column, (guide, grid) in zip(axes.T, self.posteriors.items(), strict=True):
            for row, ax in enumerate(column):
                plots.posterior(ax, grid, row, title=guide if row == 0 else None)
                ax.set(xlabel="", ylabel="")
                ax.tick_params(labelsize=7)
                if ax is not axes[0, 0]:
                    ax.get_legend().remove()


def with_gaps(found, models):
    """The rows of `[{"row", "per_datum"}]`, with log p(x) and the gaps from the bounds per data point.

    Args:
        models: a key per cell; cells with the same key have one model, so one log p(x): the best of
            their bounds.
    """
    groups = {}
    for key, cell in zip(models, found, strict=True):
        if cell["per_datum"]:
            bounds = {k: torch.tensor(v, dtype=torch.float64) for k, v in cell["per_datum"].items()}
            groups.setdefault(key, []).append(bounds)
    evidence = {key: _evidence(cells) for key, cells in groups.items()}
    rows = []
    for key, cell in zip(models, found, strict=True):
        row = {**dict.fromkeys(NUMBERS), **cell["row"]}
        if cell["per_datum"]:
            bounds = {k: torch.tensor(v, dtype=torch.float64) for k, v in cell["per_datum"].items()}
            row |= _means(bounds, *evidence[key])
        rows.append({k: row[k] for k in (*NAMES, *NUMBERS, "heavy_tailed")})
    return rows


def _evidence(cells):
    """`(of the split, of the gaps' data)`: bounds on one model's log p(x), each with its errors.

    For the gaps' data: AIS's bound, or the importance-weighted one with the best q*, which is that
    of the largest `elbo_optimal`, a number from other draws.
    """
    whole = best_bound(_pairs(cells, "log_likelihood"))
    if "elbo_optimal" not in cells[0]:
        return whole, None
    closest = max(cells, key=lambda cell: float(cell["elbo_optimal"].mean()))
    few = best_bound([*_pairs(cells[:1], "annealed"), *_pairs([closest], "gap_log_likelihood")])
    same_data = len(few[0]) == len(whole[0])
    return (few if same_data else whole), few


def _pairs(cells, name):
    """`[(bound, standard error)]` of the cells that have this bound."""
    return [(c[name], c[f"{name}_se"]) for c in cells if name in c]


def best_bound(bounds):
    """Of `[(lower bound [N], standard error [N])]` the best, such that it still is a lower bound.

    The larger of two noisy estimates would not be. For each data point that bound is taken whose
    mean over the *other* data points is largest: draws other than its own choose it. Of a single
    data point the first one is taken.
    """
    values, errors = (torch.stack(parts) for parts in zip(*bounds, strict=True))
    chosen = torch.zeros_like(values[0], dtype=torch.long)
    if values.shape[1] > 1:
        chosen = (values.sum(1, keepdim=True) - values).nan_to_num(nan=-torch.inf).argmax(0)
    return tuple(part.gather(0, chosen.unsqueeze(0))[0] for part in (values, errors))


def _means(bounds, whole, few):
    """The numbers of one cell that are means of its bounds, and their standard errors."""
    parts = {"log_likelihood": whole}
    if few is not None:
        optimal, error = bounds["elbo_optimal"], bounds["elbo_optimal_se"]
        parts["gap_log_likelihood"] = few
        parts["approximation"] = few[0] - optimal, few[1].hypot(error)
        parts["amortization"] = bounds["amortization"], bounds["amortization_se"]
    numbers = {}
    for name, (value, error) in parts.items():
        of_mean = float(error.square().sum().sqrt()) / len(error)
        numbers[name] = float(value.mean())
        numbers[f"{name}_se"] = of_mean if math.isfinite(of_mean) else None
    return numbers


def mean_sd(values):
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _shown(name, line):
    """A number of a line of the summary, as the table has it."""
    heavy = name == "pareto_k" and line["heavy_tailed"]
    if line[name] is None:
        return "- !" if heavy else "-"
    mean, sd = line[name]
    if name == "parameters":
        return f"{mean:,.0f}"
    if line["seeds"] == 1:
        sd = (line.get(f"{name}_se") or (0.0,))[0]
    digits = 0 if name == "ess" else 1 if name == "ms_per_step" else 2
    text = f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd else "")
    return text + (" !" if heavy else "")
