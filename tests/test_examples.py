"""Every public class and function has an example in its docstring, which the doctests run."""

import importlib
import inspect
from pathlib import Path

import pytest

import pyro_vae as pv

#: Public names without an example, and why.
WITHOUT_EXAMPLE = {
    "pyro_vae.data.from_anndata": "anndata is optional; tests/test_tables.py reads such an object",
    "pyro_vae.data.from_images": "it reads a folder of image files; docs/data_and_likelihoods.md",
    "pyro_vae.methods.read_config": "it reads a file of a run folder; docs/command_line.md",
    "pyro_vae.programs.Layout": "what `layout_of` returns; it is not made by users",
    "pyro_vae.programs.few_rows": "a part of `trace_pair`, for evaluations",
    "pyro_vae.programs.forget_layout": "a part of `trace_pair`, for changed programs",
    "pyro_vae.programs.layout_of": "its example is that of `trace_program`",
}


def public_modules():
    """The package, and its modules and packages that list public names."""
    package = Path(pv.__file__).parent
    names = [
        p.parent.name if p.stem == "__init__" else p.stem for p in package.glob("*/__init__.py")
    ]
    modules = [p.stem for p in package.glob("[a-z]*.py") if p.stem not in ("cli", "errors")]
    return ["pyro_vae", *(f"pyro_vae.{name}" for name in sorted({*names, *modules}))]


@pytest.mark.parametrize("module", public_modules())
def test_every_public_name_has_an_example(module):
    imported = importlib.import_module(module)
    without = []
    for name in getattr(imported, "__all__", ()):
        value = getattr(imported, name)
        is_listed = f"{module}.{name}" in WITHOUT_EXAMPLE
        is_method = module == "pyro_vae.methods" and name.replace("_", "-") in pv.methods.METHODS
        if not (inspect.isclass(value) or inspect.isroutine(value)) or is_method or is_listed:
            continue  # each of the methods is called as `method` is, and its page has a program
        if ">>>" not in (value.__doc__ or ""):  # its own: not one that it inherits
            without.append(name)
    assert not without
