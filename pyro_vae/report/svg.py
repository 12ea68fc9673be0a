"""A matplotlib figure as SVG inside of an HTML page, in the page's own colors and font."""

import html
import io
import re

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..plots import INK

#: Style of the figures; the page defines the variable --ink, for light and for dark mode.
STYLE = """
figure svg { height: auto; display: block; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { fill: var(--ink); font-family: system-ui, sans-serif !important; }
"""
INKS = ("#000000", "#000", INK)
PIXELS_PER_POINT = 4 / 3


def inline_svg(figure: Figure, caption: str, name: str) -> str:
    """The figure as an `<svg>` element; images in it keep their pixels and scale sharply.

    Args:
        caption: text for those who cannot see the figure.
        name: unique in the page; the prefix of the element's ids.

    Example:
        >>> import pyro_vae as pv
        >>> from pyro_vae.report.svg import inline_svg
        >>> figure, ax = pv.plots.axes(3, 2)
        >>> inline_svg(figure, "nothing yet", "first")[:18]
        '<svg role="img" ar'
    """
    buffer = io.StringIO()
    unknown = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(
            buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.03, dpi=200,
            metadata=unknown,
        )  # fmt: skip
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    opening, body = text.split(">", 1)
    body = re.sub(r"<(metadata|style).*?</\1>", "", body, flags=re.DOTALL)
    for ink in INKS:
        body = re.sub(rf"(fill|stroke): {ink}(?=[;\"])", r"\1: var(--ink)", body)
    body = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r">\s+<(?!tspan)", "><", body)
    box = re.search(r'viewBox="([^"]*)"', opening)
    assert box is not None
    width = float(box.group(1).split()[2]) * PIXELS_PER_POINT
    return (
        f'<svg role="img" aria-label="{html.escape(caption)}" viewBox="{box.group(1)}" '
        f'style="width: {width:.0f}px">{body}'
    )
