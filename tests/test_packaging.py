"""setup.cfg declares what the package imports, with bounds that pip accepts."""

import ast
import importlib.metadata
import sys
from pathlib import Path

from packaging.version import Version

import pyro_vae as pv
from tools import versions

DISTRIBUTIONS = {
    "PIL": "pillow",
    "pyro": "pyro-ppl",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
#: imported where they are installed, and not required
OPTIONAL = {"anndata", "arviz_stats", "graphviz", "pandas", "plotly", "polars", "tensorboard"}


def imported():
    """Top-level modules that the package imports anywhere, without its own and Python's."""
    for file in Path(pv.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module.split(".")[0]


def test_every_import_is_declared_and_every_declaration_is_used():
    modules = set(imported()) - set(sys.stdlib_module_names) - OPTIONAL - {"pyro_vae"}
    declared = {name.partition("[")[0] for name in versions.requirements()}
    assert {DISTRIBUTIONS.get(module, module) for module in modules} == declared


def test_installed_versions_are_within_the_declared_bounds():
    for name, bound in versions.requirements().items():
        installed = importlib.metadata.version(name.partition("[")[0])
        assert Version(installed) >= Version(bound), name


def test_every_dependency_has_an_upper_bound_of_a_major_version():
    for line in filter(lambda line: not line.startswith("#"), versions.declared()):
        name, _, bound = line.partition("<")
        name = name.partition(">=")[0].strip()
        assert bound.strip().isdigit(), line
        installed = importlib.metadata.version(name.partition("[")[0])
        oldest = versions.requirements()[name]
        assert Version(oldest) <= Version(installed) < Version(bound), line
