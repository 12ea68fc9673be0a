"""Settings of the documentation site; `make -C docs html` builds it.

The source folder is the root of the repository, so that a relative link means the same on GitHub
and on the site. Nothing is fetched, no notebook is executed, and every warning is an error.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_extensions")]

import docstrings  # noqa: E402

import pyro_vae  # noqa: E402

project = "pyro_vae"
author = "The pyro_vae developers"
copyright = "the pyro_vae developers"
version = release = pyro_vae.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "docstrings",
    "local_mathjax",
    "method_pages",
    "notebook_figure",
    "repository_links",
]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "docs/methods/*.md",
    "docs/reference/**.rst",
    "tutorials/**.md",
    "tutorials/*.ipynb",
    "benchmarks/RESULTS.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
exclude_patterns = ["docs/README.md", "docs/build", "runs", "data", "build", "**/.*", ".*"]
templates_path = [str(ROOT / "docs" / "_templates")]
nitpicky = True
nitpick_ignore_regex = [
    # Types of packages whose inventories would have to be downloaded.
    (
        r"py:.*",
        r"(torch|pyro|numpy|np|nn|dist|matplotlib|sklearn|collections|contextlib|typing|pathlib)\..*",
    ),
    (r"py:.*", r"(pandas|zuko|inspect)\..*|Figure|_DependentProperty"),
]

# Notebooks and Markdown
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4  # anchors like GitHub's

# Formulas: the file that `local_mathjax` copies to _static
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"chtml": {"scale": 0.9}}

# Docstrings
default_role = None
autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False  # a module's names are those of its `__all__`
autosummary_context = {
    # described elsewhere: on the page of a method, and as part of the package itself
    "method_functions": [name.replace("-", "_") for name in pyro_vae.methods.METHODS],
    # constants, which have no docstrings
    "constants": {
        "pyro_vae.data": {"DATASETS": "the data sets by name"},
        "pyro_vae.methods": {
            "METHODS": "the methods by name, each a `Preset`",
            "CLASSES": "the classes that an option can name, by option",
            "GUIDES": "the guides that a comparison can name",
            "CONFIG": "the name of the file of a run folder that has the configuration",
        },
    },
    "top_level": {
        module.__name__: [
            name
            for name in module.__all__
            if getattr(pyro_vae, name, None) is getattr(module, name)
        ]
        for module in docstrings.public_modules()[1:]
    },
}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Appearance
html_theme = "pydata_sphinx_theme"
html_title = "pyro_vae"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_extra_path = ["_extra"]
html_sidebars = {name: [] for name in ("docs/index", "docs/questions", "CONTRIBUTING")}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "pyro_vae"},
    "navbar_end": ["theme-switcher"],
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
