"""`report.html`: one self-contained page that shows a person what a run found."""

import base64
import html
import io
import platform
from pathlib import Path

import pyro
import torch

from ..train.checkpoint import write_atomically
from . import summary

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-weight: 600; margin-bottom: 0; } h2 { margin-top: 2.2rem; font-weight: 600; }
.sub { color: #666; margin-top: .2rem; }
table { border-collapse: collapse; margin: .8rem 0; } td, th { padding: .25rem .9rem .25rem 0;
        text-align: left; border-bottom: 1px solid #e5e5e5; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
tr.best td { font-weight: 600; }
figure { margin: 1rem 0; } figure img { max-width: 100%; } figcaption { color: #555; font-size: .92rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem 2rem; }
details { margin-top: 2rem; } pre { font-size: .85rem; overflow-x: auto; background: #f6f6f6;
          padding: .8rem; }
"""


def _figure(figure, caption):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _table(header, rows, digits, best=None):
    cells = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    body = ""
    for i, row in enumerate(rows):
        tds = "".join(
            f'<td class="n">{v:.{digits}f}</td>'
            if isinstance(v, float)
            else f"<td>{html.escape(str(v))}</td>"
            for v in row
        )
        body += f'<tr class="{"best" if i == best else ""}">{tds}</tr>'
    return f"<table><tr>{cells}</tr>{body}</table>"


def hardware():
    """Where a number was measured: processor, GPU, versions."""
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


def best_row(losses):
    """The row to print in bold: the one of the smallest loss, this model's or a baseline's."""
    return min(range(len(losses)), key=losses.__getitem__)


def write(path, title, subtitle, result, figures, details):
    """Write the page, whole or not at all.

    Args:
        result: what `summary.summarize` returned.
        figures: `[(heading, figure, caption)]`.
        details: text shown folded at the end, e.g. the settings.
    """
    body = [f"<h2>Numbers</h2><p>On {result['data']} data of the {result['split']} split.</p>"]
    body.append(_table(("", "value", ""), summary.rows(result), 2))
    if "clustering" in result:
        header = ("clusters against labels", "accuracy", "purity", "NMI", "ARI")
        found = result["clustering"]
        scores = [(n, m["accuracy"], m["purity"], m["nmi"], m["ari"]) for n, m in found.items()]
        body.append(_table(header, scores, 3, best=best_row([-s[1] for s in scores])))
        body.append(
            "<p>Accuracy is under the best one-to-one match of components to classes. "
            "No label was used in training or in choosing anything.</p>"
        )
    if "classification" in result:
        found = result["classification"]
        parts = list(next(iter(found["errors"].values())))
        header = (f"error with {found['num_labels']} training labels", *parts)
        rows = [(n, *(e[p] for p in parts)) for n, e in found["errors"].items()]
        body.append(_table(header, rows, 3, best=best_row([r[-1] for r in rows])))
        body.append(
            "<p>Shares of wrong classes. Labelled: the training data whose labels were used; "
            "unlabelled: those whose labels were hidden, which the model saw without.</p>"
        )
    heading = None
    for head, figure, caption in figures:
        if head != heading:
            body.append(
                ("</div>" if heading else "") + f'<h2>{html.escape(head)}</h2><div class="two">'
            )
            heading = head
        body.append(_figure(figure, caption))
    body.append("</div>" if heading else "")
    body.append(
        f"<details><summary>Settings and versions</summary><pre>{html.escape(details)}</pre></details>"
    )
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f'<h1>{html.escape(title)}</h1><p class="sub">{html.escape(subtitle)}</p>'
        + "\n".join(body)
        + "</body></html>\n"
    )
    write_atomically(path, lambda p: p.write_text(page))
