"""Render `benchmarks/results/*.json` into `benchmarks/RESULTS.md`.

python -m benchmarks.results
"""

import json
from pathlib import Path

HERE = Path(__file__).parent


def number(value, digits=3):
    if isinstance(value, dict):
        return f"{value['mean']:.3f} ± {value['sd']:.3f}"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def table(header, rows, digits=3):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(number(v, digits) for v in row) + " |" for row in rows]


def render(path):
    """One result file as a section."""
    result = json.loads(path.read_text())
    hardware = ", ".join(f"{k} {v}" for k, v in result["hardware"].items() if v is not None)
    lines = [f"## {path.stem}", "", f"`{result['command']}`", "", f"On: {hardware}.", ""]
    if "note" in result:
        lines += [result["note"], ""]
    if path.with_suffix(".png").exists():
        lines += [f"![{path.stem}](results/{path.stem}.png)", ""]
    if "rows" in result:
        header = list(result["rows"][0])
        rows = [[row.get(k, "") for k in header] for row in result["rows"]]
        return lines + table(header, rows, result.get("digits", 3))
    values = result.get("table") or result["validation_elbo"]
    caption = "mean ± sd over seeds"
    if "table" not in result:
        caption = "validation ELBO, nats per data point"
    return lines + table(["", caption], values.items())


def main():
    sections = [render(path) for path in sorted((HERE / "results").glob("*.json"))]
    head = ["# Results", "", "Rendered by `python -m benchmarks.results`; do not edit.", ""]
    text = "\n".join(head + [line for s in sections for line in [*s, ""]])
    (HERE / "RESULTS.md").write_text(text.rstrip() + "\n")


if __name__ == "__main__":
    main()
