"""Links that mean something on GitHub alone."""

import re

BACK = re.compile(r'<a class="viewcode-back"[^>]*>.*?</a>')


def resolve_directory(app, env, node, contnode):
    """A link to a folder of the repository is plain text on the site."""
    if node.get("reftype") != "myst":
        return None
    folder = env.srcdir / env.doc2path(node["refdoc"])
    return contnode if (folder.parent / node["reftarget"]).is_dir() else None


def remove_back_links(app, page, template, context, doctree):
    """Viewcode links back to one name of an object, which need not be the one that is described."""
    if page.startswith("_modules/") and "body" in context:
        context["body"] = BACK.sub("", context["body"])


def setup(app):
    app.connect("missing-reference", resolve_directory)
    app.connect("html-page-context", remove_back_links)
    return {"parallel_read_safe": True}
