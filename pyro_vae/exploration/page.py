"""One HTML page that holds its data, its scripts and Plotly, and loads nothing."""

import html
import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from ..errors import UserError, file_to_write
from ..train.checkpoint import write_atomically
from .payload import JsonValue


def plotly_script() -> str:
    """The source of plotly.min.js, from the Python package.

    Raises:
        UserError: Plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UserError('the page needs Plotly: pip install "pyro-vae[explore]"') from None
    script: str = get_plotlyjs()
    return script


def write_page(
    path: Path, title: str, subtitle: str, kind: str, payload: Mapping[str, JsonValue], note: str
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: of the page.
        title, subtitle: what is shown.
        kind: pair or comparison: names the body, `KIND.html`, and its script, `KIND.js`.
        payload: the data of the page.
        note: a paragraph below.

    Raises:
        UserError: Plotly is not installed.
    """
    plotly = plotly_script()
    data = json.dumps(payload, separators=(",", ":")).replace("</", "<\\/")
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<style>{_resource("page.css")}</style></head><body>
<h1>{html.escape(title)}</h1><p class="sub">{html.escape(subtitle)}</p>
{_resource(f"{kind}.html")}
<p class="note">{html.escape(note)}</p>
<script>{plotly}</script>
<script type="application/json" id="payload">{data}</script>
<script>{_resource("common.js")}</script>
<script>{_resource(f"{kind}.js")}</script>
</body></html>
"""
    write_atomically(file_to_write(path), lambda p: p.write_text(page, encoding="utf-8"))


def _resource(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")
