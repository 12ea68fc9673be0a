"""MathJax within the site: formulas are drawn offline too. The files come from a pip package."""

import importlib.util
import shutil
from pathlib import Path

FILES = ("tex-chtml.js", "output/chtml/fonts/woff-v2")


def copy_mathjax(app):
    # of the package django-static-mathjax, which needs nothing of Django
    package = importlib.util.find_spec("mathjax")
    source = Path(package.submodule_search_locations[0]) / "static" / "mathjax" / "es5"
    target = Path(app.outdir) / "_static" / "mathjax"
    for name in FILES:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)


def setup(app):
    app.connect("builder-inited", copy_mathjax)
    return {"parallel_read_safe": True}
