"""What is imported when: the command answers without torch, and large libraries wait for their use."""

import importlib
import os
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import pyro_vae as pv
from pyro_vae import methods

LARGE = ("jsonargparse", "matplotlib", "PIL", "scipy", "sklearn", "torchvision", "yaml", "zuko")


def imported(program, names):
    """Which of the modules are in `sys.modules` after a program."""
    program += f"\nprint('imported:', [n for n in {names!r} if n in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", "import sys\n" + program], capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()[-1]


@pytest.mark.parametrize("argument", ["--version", "--help", "list"])
def test_the_command_answers_without_torch(argument):
    program = f"""
from pyro_vae.cli import main
try:
    main([{argument!r}])
except SystemExit:
    pass
"""
    assert imported(program, ("torch", "pyro", "numpy", "jsonargparse")).endswith(
        "['jsonargparse']"
    )


def test_importing_the_package_imports_no_library_that_only_some_calls_use():
    program = """
import pyro_vae
first = [n for n in ("torch", "pyro") if n in sys.modules]
for name in set(pyro_vae.__all__) - {"plots", "exploration", "estimators"}:  # draw; are scikit-learn's
    for inner in getattr(getattr(pyro_vae, name), "__all__", ()):
        getattr(getattr(pyro_vae, name), inner)
print(first)
"""
    assert imported(program, ("torch", *LARGE)).endswith("['torch']")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("every", [120, pytest.param(1, marks=pytest.mark.slow)])
def test_a_module_can_be_imported_first(every):
    """Lazy packages must not hide a circular import that shows only in another order."""
    root = Path(pv.__file__).parent
    names = [
        ".".join(("pyro_vae", *path.relative_to(root).with_suffix("").parts))
        for path in sorted(root.rglob("*.py"))
        if path.stem not in ("__main__", "__init__")
    ][::every]
    for name in names:
        child = os.fork()  # torch is imported, of this library nothing
        if not child:
            try:
                for module in [n for n in sys.modules if n.split(".")[0] == "pyro_vae"]:
                    del sys.modules[module]
                importlib.import_module(name)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, name


@pytest.mark.parametrize("package", [pv, pv.data, pv.methods])
def test_lazy_packages_export_all_names(package):
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'foo'"):
        _ = package.foo


def test_the_table_names_models_that_exist():
    for preset in methods.METHODS.values():
        assert preset.model is getattr(pv.models, preset.model_name)
        assert preset.model.__name__ == preset.model_name


def test_a_closed_pipe_ends_a_command_silently():
    command = f"{sys.executable} -m pyro_vae list | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("method") and done.stderr == ""
