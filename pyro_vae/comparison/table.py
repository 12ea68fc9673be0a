"""What a comparison found: rows, their means over seeds, CSV, and the figure."""

import csv
import statistics
from dataclasses import dataclass, field
from pathlib import Path

import torch
from matplotlib.figure import Figure

from .. import plots
from ..evaluate.gaps import best_bound
from ..train.checkpoint import write_atomically, write_json

NAMES = ("model", "guide", "objective", "seed")
NUMBERS = (
    "valid_elbo", "elbo", "log_likelihood", "approximation", "amortisation", "ess", "pareto_k",
    "parameters", "ms_per_step", "seconds", "best_epoch",
)  # fmt: skip
SHOWN = {
    "valid_elbo": "valid ELBO", "elbo": "ELBO", "log_likelihood": "log p(x)",
    "approximation": "approximation", "amortisation": "amortisation", "ess": "ESS",
    "pareto_k": "k-hat", "parameters": "parameters", "ms_per_step": "ms/step",
}  # fmt: skip


@dataclass
class Comparison:
    """What `compare` returns.

    Attributes:
        rows: a dict a cell: the names `model, guide, objective, seed`, and the numbers, None where
            they are not defined; in nats per datum: `valid_elbo`, `elbo`, `log_likelihood`
            (importance weighted) on whole splits, `approximation` and `amortisation` on the first
            `gap_data` of them; `ess` (mean, of `num_samples` weights) and `pareto_k` (median;
            None of fewer than 100 samples, or where all weights are equal);
            `parameters` of the guide, not the model's; `ms_per_step`, the median over epochs;
            `seconds` of training; `best_epoch`.
        split: whose data are judged, `num_samples` by how many samples, `gap_data` of how many.
        posteriors: `{guide: evaluate.posterior_grid}` of the first data, of the first model,
            objective and seed, where the model has two latent numbers.
    """

    rows: list
    split: str
    num_samples: int
    gap_data: int
    decoder: str
    posteriors: dict = field(default_factory=dict)

    def summary(self):
        """`[{name: ..., number: (mean, sd)}]` over seeds; None where a number is not defined."""
        groups = {}
        for row in self.rows:
            groups.setdefault(tuple(row[n] for n in NAMES[:3]), []).append(row)
        result = []
        for names, rows in groups.items():
            line = {**dict(zip(NAMES, names, strict=False)), "seeds": len(rows)}
            for number in NUMBERS:
                values = [r[number] for r in rows if r[number] is not None]
                line[number] = mean_sd(values) if values else None
            result.append(line)
        return result

    def __str__(self):
        lines, summary = [], self.summary()
        names = [n for n in NAMES[:3] if n == "guide" or len({s[n] for s in summary}) > 1]
        numbers = [n for n in SHOWN if any(s[n] is not None for s in summary)]
        cells = [[*names, *(SHOWN[n] for n in numbers)]]
        for s in summary:
            cells.append([s[n] for n in names] + [_shown(n, s[n]) for n in numbers])
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        for row in cells:
            left = [v.ljust(w) for v, w in zip(row, widths, strict=True)][: len(names)]
            right = [v.rjust(w) for v, w in zip(row, widths, strict=True)][len(names) :]
            lines.append("  ".join(left + right).rstrip())
        seeds = len({r["seed"] for r in self.rows})
        how = "mean ± sd over seeds" if seeds > 1 else f"seed {self.rows[0]['seed']}"
        told = f"{self.split} data, nats per datum, {how}; log p(x) and ESS of {self.num_samples} samples"
        told += f"; gaps of {self.gap_data} data" if self.gap_data else ""
        return "\n".join([told, *lines])

    def save(self, out):
        """`compare.json`, `compare.csv` and `compare.png` in a folder."""
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        told = {k: getattr(self, k) for k in ("split", "num_samples", "gap_data", "decoder")}
        write_json(out / "compare.json", {**told, "rows": self.rows})
        write_atomically(out / "compare.csv", self._csv)
        self.figure().savefig(out / "compare.png", dpi=130)

    def _csv(self, path):
        with open(path, "w", newline="") as f:
            writer = csv.DictWriter(f, (*NAMES, *NUMBERS))
            writer.writeheader()
            writer.writerows(self.rows)

    def figure(self):
        """Bars of both gaps, a panel for each model and objective; posteriors of a 2-D latent."""
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
        """A column a guide, a row a datum: the guide's density over the true one."""
        axes = figure.subplots(data, len(self.posteriors), squeeze=False)
        for column, (guide, grid) in zip(axes.T, self.posteriors.items(), strict=True):
            for datum, ax in enumerate(column):
                plots.posterior(ax, grid, datum, title=guide if datum == 0 else None)
                ax.set(xlabel="", ylabel="")
                ax.tick_params(labelsize=7)
                if ax is not axes[0, 0]:
                    ax.get_legend().remove()


def with_gaps(found, shared):
    """The rows of `[{"row", "per_datum"}]`, the gaps from the bounds of each datum.

    Rows that agree in the names `shared` have one model: log p(x) is the best of their bounds.
    """
    best = {}

    def key(cell):
        return tuple(cell["row"][n] for n in shared)

    for cell in found:
        if cell["per_datum"]:
            bound = torch.tensor(cell["per_datum"]["log_likelihood"])
            best[key(cell)] = best_bound(best.get(key(cell), bound), bound)
    rows = []
    for cell in found:
        row = {**cell["row"], "approximation": None, "amortisation": None}
        if cell["per_datum"]:
            optimal, elbo = (torch.tensor(cell["per_datum"][k]) for k in ("elbo_optimal", "elbo"))
            row["approximation"] = float((best[key(cell)] - optimal).mean())
            row["amortisation"] = float((optimal - elbo).mean())
        rows.append({k: row[k] for k in (*NAMES, *NUMBERS)})
    return rows


def mean_sd(values):
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _shown(name, value):
    if value is None:
        return "-"
    mean, sd = value
    if name == "parameters":
        return f"{mean:,.0f}"
    digits = 0 if name == "ess" else 1 if name == "ms_per_step" else 2
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd else "")
