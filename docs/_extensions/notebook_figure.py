"""A picture of a notebook, on another page: taken from its committed outputs.

A comment on a page, which a view of the repository does not show:

    <!-- notebook-figure tutorials/NAME.ipynb NUMBER
    caption
    -->

NUMBER is that of the picture in the notebook, from 1. A directive of the same name takes its place.
"""

import base64
import json
import re

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

COMMENT = re.compile(r"^<!-- (notebook-figure) (.*?)\n(.*?)^-->$", re.MULTILINE | re.DOTALL)


class NotebookFigure(SphinxDirective):
    """The n-th picture (from 1) among the outputs of a notebook, with a caption."""

    required_arguments = 2
    has_content = True

    def run(self) -> list[nodes.Node]:
        path, number = self.env.srcdir / self.arguments[0], int(self.arguments[1])
        self.env.note_dependency(str(path))
        cells = json.loads(path.read_text())["cells"]
        outputs = (o for cell in cells for o in cell.get("outputs", ()))
        pictures = [o["data"]["image/png"] for o in outputs if "image/png" in o.get("data", {})]
        if not 1 <= number <= len(pictures):
            raise self.error(f"{path.name} has {len(pictures)} pictures, not {number}")
        target = self.env.srcdir / "docs" / "build" / "figures" / f"{path.stem}-{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(base64.b64decode(pictures[number - 1]))
        caption = " ".join(self.content)
        image = nodes.image(uri=f"/{target.relative_to(self.env.srcdir)}", alt=caption)
        text, _ = self.parse_inline(caption)
        return [nodes.figure("", image, nodes.caption(caption, "", *text))]


def _as_directives(app, docname: str, source: list[str]) -> None:
    source[0] = COMMENT.sub(r":::{\1} \2\n\3:::", source[0])


def setup(app):
    app.connect("source-read", _as_directives)
    app.add_directive("notebook-figure", NotebookFigure)
    return {"parallel_read_safe": True}
