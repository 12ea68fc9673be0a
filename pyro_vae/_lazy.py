"""Packages whose attributes are imported when they are first used.

The command line can thus print its help, its version and its lists without importing torch.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence


def lazy_attributes(
    package: str, exports: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: the package's `__name__`.
        exports: `{submodule: the names that it exports}`. The submodules are attributes too.
    """
    module_of = {name: module for module, names in exports.items() for name in names}

    def get_attribute(name: str) -> object:
        if name in module_of:
            module = importlib.import_module(f"{package}.{module_of[name]}")
            value = getattr(module, name)
            setattr(sys.modules[package], name, value)  # the next access finds it directly
            return value
        if name in exports:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def list_attributes() -> list[str]:
        names = vars(sys.modules[package])
        own = {name for name in names if name.startswith("__")}
        return sorted({*own, *names.get("__all__", ()), *module_of, *exports})

    return get_attribute, list_attributes
