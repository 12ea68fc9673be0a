"""Formulas as MathML, which browsers draw by themselves: no script, and nothing to download."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)
#: `\\big(`, which docutils' converter knows as `\\bigl(` alone.
BIG = re.compile(r"\\([Bb]igg?)(?![A-Za-z])")


def to_mathml(node: nodes.Node, as_block: bool) -> str:
    """The MathML of a formula; a formula that cannot be converted is a warning."""
    source = BIG.sub(r"\\\1l", node.astext()).replace(r"\dots", r"\ldots")
    try:
        return tex2mathml(source, as_block=as_block)
    except MathError as error:
        logger.warning("formula %r: %s", source, error, location=node, type="mathml")
        return f"<code>{source}</code>"


def visit_math(translator, node):
    translator.body.append(to_mathml(node, as_block=False))
    raise nodes.SkipNode


def visit_displaymath(translator, node):
    translator.body.append(f'<div class="math">{to_mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displaymath, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
