"""`report.html`: one self-contained page with the results of a run."""

import html
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyro
import torch
from matplotlib.figure import Figure

from ..errors import file_to_write
from ..train.checkpoint import write_atomically
from . import findings, summary, svg

STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #222222; --soft: #5c5c5c;
        --line: #e2e2e2; --box: #f5f5f5; --note: #fff3dc; }
@media (prefers-color-scheme: dark) {
  :root { --page: #17191d; --ink: #e4e4e4; --soft: #a8a8a8; --line: #3a3d42; --box: #22252a;
          --note: #3d3119; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
       max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-weight: 600; margin-bottom: 0; line-height: 1.2; }
h2 { margin-top: 2.4rem; font-weight: 600; }
.sub, figcaption, .small { color: var(--soft); } .sub { margin-top: .2rem; }
.finding { font-size: 1.15rem; max-width: 48rem; }
.warning { background: var(--note); padding: .6rem .9rem; border-radius: .3rem; max-width: 48rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; }
td, th { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line);
         vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } td.best { font-weight: 700; }
figure { margin: 1rem 0; overflow-x: auto; } figure svg { max-width: 100%; }
figcaption, .small { font-size: .9rem; max-width: 34rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 29rem), 1fr));
           gap: 1rem 2rem; }
.wide { grid-column: 1 / -1; min-width: 0; } .wide td, .wide th { white-space: nowrap; }
.command { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 40rem) { td, th { padding-right: .5rem; font-size: .92rem; } }
details { margin-top: 2rem; }
pre { font-size: .85rem; overflow-x: auto; background: var(--box); padding: .6rem .8rem;
      border-radius: .3rem; }
"""


class Section(NamedTuple):
    """A figure or a table of the report, or a note; those with the same heading stand together."""

    heading: str
    figure: Figure | None
    caption: str
    table: Sequence[Sequence[str]] | None = None  #: the header, and rows


def write(
    path: Path,
    title: str,
    subtitle: str,
    result: Mapping,
    sections: Iterable[Section],
    details: str,
    command: str | None = None,
    explore: str | None = None,
) -> None:
    """Write the page; an interrupted write leaves no partial file.

    Args:
        path: of the page.
        title, subtitle: what was trained.
        result: as `summary.summarize` returns it.
        sections: the figures.
        details: text that is folded at the end, e.g. the settings.
        command: that reproduces the run.
        explore: the command that makes a page to explore the latent space.
    """
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="sub">{html.escape(subtitle)}</p>',
        f'<p class="finding">{html.escape(findings.headline(result))}</p>',
        *(f'<p class="warning">{html.escape(w)}</p>' for w in findings.warnings(result)),
    ]
    if command is not None:
        body.append('<p class="small">To reproduce this run:</p>')
        body.append(f'<pre class="command">{html.escape(command)}</pre>')
    if explore is not None:
        body.append('<p class="small">To explore the latent space in a browser:</p>')
        body.append(f'<pre class="command">{html.escape(explore)}</pre>')
    body += [*_numbers(result), *_figures(sections)]
    body.append(
        f"<details><summary>Settings and versions</summary><pre>{html.escape(details)}</pre>"
        "</details>"
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}{svg.STYLE}</style></head><body>{svg.FILTER}"
        + "\n".join(body)
        + "</body></html>\n"
    )
    write_atomically(file_to_write(path), lambda p: p.write_text(page, encoding="utf-8"))


def _numbers(result: Mapping) -> list[str]:
    """The section of tables."""
    body = [
        f"<h2>Numbers</h2><p>On {result['data']} data points of the {result['split']} split.</p>"
    ]
    body.append(_table(("", "nats", ""), summary.rows(result), 2))
    if "clustering" in result:
        header = ("clusters against labels", "accuracy", "purity", "NMI", "ARI")
        scores = [
            (n, m["accuracy"], m["purity"], m["nmi"], m["ari"])
            for n, m in result["clustering"].items()
        ]
        body.append(_table(header, scores, 3, better=max))
        body.append(
            '<p class="small">Accuracy is under the best one-to-one match of components to classes. '
            "No label was used in training or for any choice. Bold: the best of each column.</p>"
        )
    for sentence in [*findings.omissions(result), *summary.choice_sentences(result)]:
        body.append(f'<p class="small">{html.escape(sentence)}</p>')
    if "classification" in result:
        classified = result["classification"]
        parts = list(next(iter(classified["errors"].values())))
        header = (f"error with {classified['num_labels']} training labels", *parts)
        errors = [(n, *(e[p] for p in parts)) for n, e in classified["errors"].items()]
        body.append(_table(header, errors, 3, better=min))
        body.append(
            '<p class="small">Fractions of wrong classes. Labeled: the training data whose labels '
            "were used; unlabeled: the training data whose labels were hidden. Bold: the best of "
            "each column.</p>"
        )
    return body


def _figures(sections: Iterable[Section]) -> list[str]:
    body, count = [], 0
    for heading, group in groupby(sections, key=lambda section: section.heading):
        body.append(f'<h2>{html.escape(heading)}</h2><div class="figures">')
        for section in group:
            caption = html.escape(section.caption)
            if section.table is not None:
                header, *rows = section.table
                table = _table(header, rows, 0)
                body.append(f'<div class="wide">{table}<p class="small">{caption}</p></div>')
                continue
            if section.figure is None:
                body.append(f"<p>{caption}</p>")
                continue
            drawn = svg.inline_svg(section.figure, section.caption, f"f{count}")
            body.append(f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>")
            count += 1
        body.append("</div>")
    return body


def _table(
    header: Sequence[str],
    rows: Sequence[Sequence[str | float]],
    digits: int,
    better: Callable[[list[float]], float] | None = None,
) -> str:
    """Rows of a name and numbers, the best number of each column in bold."""
    cells = [[f"{v:.{digits}f}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    bold = set() if better is None else best_cells(rows, digits, better)
    number = [any(isinstance(row[j], float) for row in rows) for j in range(len(header))]
    text = "".join(
        f"<th{' class=n' if number[j] else ''}>{html.escape(h)}</th>" for j, h in enumerate(header)
    )
    for i, row in enumerate(cells):
        text += "</tr><tr>"
        for j, cell in enumerate(row):
            kind = " ".join(k for k, on in (("n", number[j]), ("best", (i, j) in bold)) if on)
            text += f'<td class="{kind}">' if kind else "<td>"
            text += f"{html.escape(cell)}</td>"
    return f'<div class="scroll"><table><tr>{text}</tr></table></div>'


def best_cells(
    rows: Sequence[Sequence[str | float]], digits: int, better: Callable[[list[float]], float]
) -> set[tuple[int, int]]:
    """`{(row, column)}` of the best number of each column, of all that print the same.

    Args:
        rows: names and numbers.
        digits: after the point, as printed.
        better: `max` or `min`.

    Example:
        >>> from pyro_vae.report.html import best_cells
        >>> sorted(best_cells([("a", 0.7, 0.2), ("b", 0.9, 0.2)], 3, max))
        [(0, 2), (1, 1), (1, 2)]
    """
    cells = set()
    for j in range(len(rows[0])):
        column = {
            i: round(v, digits) for i, row in enumerate(rows) if isinstance(v := row[j], float)
        }
        best = better(list(column.values())) if column else None
        cells |= {(i, j) for i, v in column.items() if v == best}
    return cells


def hardware() -> dict[str, str | int | None]:
    """The processor, the GPU and the versions that the numbers were computed with."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {
        "processor": name,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
    }
