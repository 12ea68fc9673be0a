"""A table as plain text, LaTeX and HTML."""

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 100  # of the plain text
MARK = "!"  # of numbers that are not to be trusted

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$",
    "Δ": r"$\Delta$", "…": r"\ldots{}", "−": "$-$",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One entry: `mean ± spread`, a mark if it cannot be trusted, and whether it is best."""

    mean: str
    spread: str | None = None
    marked: bool = False
    best: bool = False

    def text(self) -> str:
        """The entry as plain text."""
        spread = "" if self.spread is None else f" ± {self.spread}"
        return f"{self.mean}{spread}{f' {MARK}' if self.marked else ''}"


@dataclass(frozen=True)
class Table:
    """What the formats show.

    Attributes:
        titles: one per column, those of the names first.
        data: for each column, the data that its numbers are of, or "".
        names: for each row, its names.
        entries: for each row, one entry per further column.
        notes: sentences above the table.
    """

    titles: list[str]
    data: list[str]
    names: list[list[str]]
    entries: list[list[Entry]]
    notes: list[str]

    @property
    def num_names(self) -> int:
        """How many columns are names."""
        return len(self.titles) - len(self.entries[0])


def to_text(table: Table) -> str:
    """Plain text; columns that do not fit into `WIDTH` follow in further blocks."""
    longest = max(16, WIDTH // 2 // table.num_names - 2)
    names = [[textwrap.shorten(n, longest, placeholder="…") if len(n) > longest else n for n in row]
             for row in table.names]  # fmt: skip
    header = [table.data, table.titles]
    body = [[*n, *(e.text() for e in row)] for n, row in zip(names, table.entries, strict=True)]
    lines = [line for note in table.notes for line in textwrap.wrap(note, WIDTH)]
    widths = [max(map(len, column)) for column in zip(*header, *body, strict=True)]
    fixed = list(range(table.num_names))
    blocks: list[list[int]] = [[]]
    for column in range(table.num_names, len(widths)):
        used = sum(widths[c] + 2 for c in (*fixed, *blocks[-1], column)) - 2
        if used > WIDTH and blocks[-1]:
            blocks.append([])
        blocks[-1].append(column)
    for number, block in enumerate(blocks):
        lines += [""] * bool(number)
        for row in (*header, *body):
            left = [row[c].ljust(widths[c]) for c in fixed]
            right = [row[c].rjust(widths[c]) for c in block]
            lines.append("  ".join(left + right).rstrip())
    return "\n".join(lines)


def to_latex(table: Table) -> str:
    """A `tabular` for the package booktabs; the best number of a column is bold."""
    names, numbers = table.num_names, len(table.titles) - table.num_names
    notes = [note.replace(f"{MARK}:", r"$\dagger$:") for note in table.notes]
    lines = [f"% {line}" for note in notes for line in textwrap.wrap(note, WIDTH - 2)]
    lines += [rf"\begin{{tabular}}{{{'l' * names}{'r' * numbers}}}", r"\toprule"]
    lines += [_latex_row(map(escape_latex, line)) for line in (table.data, table.titles)]
    lines.append(r"\midrule")
    for row_names, entries in zip(table.names, table.entries, strict=True):
        lines.append(_latex_row([*map(escape_latex, row_names), *map(_latex_entry, entries)]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str] | map) -> str:
    return " & ".join(cells).strip() + r" \\"


def _latex_entry(entry: Entry) -> str:
    mean = entry.mean.replace(",", "{,}")
    mean = rf"\mathbf{{{mean}}}" if entry.best else mean
    spread = "" if entry.spread is None else rf" \pm {entry.spread}"
    dagger = r"^{\dagger}" if entry.marked else ""
    return f"${mean}{spread}{dagger}$"


def escape_latex(text: str) -> str:
    """Text with the characters that LaTeX reads as commands escaped."""
    return "".join(LATEX.get(character, character) for character in text)


def to_html(table: Table) -> str:
    """A table for notebooks; the best number of a column is bold."""
    cell = '<td style="text-align: {align}">{content}</td>'
    lines = ["<table>", "<caption style='text-align: left'>"]
    lines += [f"<div>{html.escape(note)}</div>" for note in table.notes]
    lines += ["</caption>", "<thead>"]
    for row in (table.data, table.titles):
        lines.append("<tr>" + "".join(f"<th>{html.escape(title)}</th>" for title in row) + "</tr>")
    lines += ["</thead>", "<tbody>"]
    for names, entries in zip(table.names, table.entries, strict=True):
        cells = [cell.format(align="left", content=html.escape(name)) for name in names]
        for entry in entries:
            content = html.escape(entry.text())
            content = f"<b>{content}</b>" if entry.best else content
            cells.append(cell.format(align="right", content=content))
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "\n".join([*lines, "</tbody>", "</table>"])
