"""Every public class and function has an example in its docstring, which the doctests run."""

import importlib
import inspect
from pathlib import Path

import pytest

import pyro_vae as pv

#: Public names without an example, and why.
WITHOUT_EXAMPLE = {
    "pyro_vae.programs.Layout": "what `layout_of` returns; it is not made by users",
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
        if not (inspect.isclass(value) or inspect.isroutine(value)) or is_listed:
            continue
        if ">>>" not in (value.__doc__ or ""):  # its own: not one that it inherits
            without.append(name)
    assert not without
