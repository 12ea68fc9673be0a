"""Links that mean something on GitHub alone."""

import re
from pathlib import Path

from sphinx import addnodes

BACK = re.compile(r'<a class="viewcode-back"[^>]*>.*?</a>')


def unlink_folders(app, doctree):
    """A link to a folder of the repository is plain text on the site."""
    for node in list(doctree.findall(addnodes.pending_xref)):
        if node.get("reftype") == "myst" and node["reftarget"].endswith("/"):
            page = app.env.doc2path(node["refdoc"], base=True)
            if (Path(page).parent / node["reftarget"]).is_dir():
                node.replace_self(node.children)


def remove_back_links(app, page, template, context, doctree):
    """Viewcode links back to one name of an object, which need not be the one that is described."""
    if page.startswith("_modules/") and "body" in context:
        context["body"] = BACK.sub("", context["body"])


def setup(app):
    app.connect("doctree-read", unlink_folders)
    app.connect("html-page-context", remove_back_links)
    return {"parallel_read_safe": True}
