"""A matplotlib figure as SVG inside of an HTML page, in the page's own colors and font."""

import html
import io
import re

from matplotlib import rc_context
from matplotlib.figure import Figure

from ..plots.style import BLUE, CATEGORIES, INK, as_written

LIGHTER = 0.35  # how far points and lines go toward white in dark mode


def lighter(color: str) -> str:
    """A color as points and lines have it in dark mode.

    Example:
        >>> from pyro_vae.report.svg import lighter
        >>> lighter("#000000"), lighter("#ffffff")
        ('#595959', '#ffffff')
    """
    values = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(v + LIGHTER * (255 - v)):02x}" for v in values)


def _dark_rules() -> str:
    """Points, and lines in the color of a group, lighter; labels on disks keep their colors.

    Points are also opaque and somewhat larger.
    """
    rules = []
    for color in (BLUE, *CATEGORIES):
        rules.append(
            f'figure svg [id*="PathCollection"] [style*="fill: {color}"] '
            f"{{ fill: {lighter(color)} !important; fill-opacity: 0.95 !important; "
            f"stroke: {lighter(color)}; stroke-width: 0.8; }}"
        )
        rules.append(
            f'figure svg path[style*="stroke: {color}"] {{ stroke: {lighter(color)} !important; }}'
        )
    return "\n".join(rules)


#: Style of the figures; the page defines the variable --ink, for light and for dark mode.
STYLE = f"""
figure svg {{ height: auto; display: block; }}
figure svg * {{ stroke-linejoin: round; stroke-linecap: butt; }}
figure svg text {{ fill: var(--ink); font-family: system-ui, sans-serif !important; }}
@media (prefers-color-scheme: dark) {{
{_dark_rules()}
image.points {{ filter: url(#lighter); }}
}}
"""
#: What makes pictures of many points lighter, and less transparent, in dark mode; in the page once.
FILTER = (
    '<svg width="0" height="0" style="position: absolute" aria-hidden="true"><filter id="lighter" '
    'color-interpolation-filters="sRGB"><feColorMatrix values="'
    + " ".join(
        " ".join(f"{1 - LIGHTER:g}" if i == j else "0" for j in range(4)) + f" {LIGHTER:g}"
        for i in range(3)
    )
    + ' 0 0 0 1.5 0"/></filter></svg>'
)
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
        as_written(figure).savefig(
            buffer, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.03, dpi=200,
            metadata=unknown,
        )  # fmt: skip
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    opening, body = text.split(">", 1)
    body = re.sub(r"<(metadata|style).*?</\1>", "", body, flags=re.DOTALL)
    for ink in INKS:
        body = re.sub(rf"(fill|stroke): {ink}(?=[;\"])", r"\1: var(--ink)", body)
    if not any(ax.images for ax in figure.axes):  # else a picture is one of data
        body = body.replace("<image ", '<image class="points" ')
    body = re.sub(r'\b(id="|url\(#|href="#)', rf"\g<1>{name}-", body)
    body = re.sub(r">\s+<(?!tspan)", "><", body)
    box = re.search(r'viewBox="([^"]*)"', opening)
    assert box is not None
    width = float(box.group(1).split()[2]) * PIXELS_PER_POINT
    return (
        f'<svg role="img" aria-label="{html.escape(caption)}" viewBox="{box.group(1)}" '
        f'style="width: {width:.0f}px">{body}'
    )
