"""The published methods as presets: `pv.methods.gmvae(data).fit()`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._lazy import lazy_attributes
from .table import METHODS, Preset, preset

if TYPE_CHECKING:
    from ..data import Data
    from .building import CLASSES, GUIDES, GuideFactory, ModelFactory, build, make
    from .comparing import compare_guides, guide_names
    from .configured import Method, method
    from .exploring import explore
    from .files import read_config, to_yaml
    from .groups import accepted
    from .options import configure, defaults
    from .run import CONFIG, Run, fit, load

__all__ = [
    "CONFIG",
    "CLASSES",
    "GUIDES",
    "METHODS",
    "GuideFactory",
    "ModelFactory",
    "Method",
    "Preset",
    "Run",
    "accepted",
    "build",
    "compare_guides",
    "configure",
    "defaults",
    "explore",
    "fit",
    "guide_names",
    "load",
    "make",
    "method",
    "preset",
    "read_config",
    "to_yaml",
]
__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "building": ["CLASSES", "GUIDES", "GuideFactory", "ModelFactory", "build", "make"],
        "comparing": ["compare_guides", "guide_names"],
        "configured": ["Method", "method"],
        "exploring": ["explore"],
        "files": ["read_config", "to_yaml"],
        "groups": ["accepted"],
        "options": ["configure", "defaults"],
        "preparing": [],
        "run": ["CONFIG", "Run", "fit", "load"],
    },
)


def _function(name: str, entry: Preset) -> "Callable[..., Method]":
    def make_method(data: "str | Data" = "digits", **overrides: Any) -> "Method":
        from .configured import method

        return method(name, data, **overrides)

    make_method.__name__ = make_method.__qualname__ = name.replace("-", "_")
    make_method.__doc__ = (
        f"The method {name}: {entry.model_name}, guide {entry.guide} ({entry.paper}).\n\n"
        "    See `method` for the arguments."
    )
    return make_method


for _name, _entry in METHODS.items():
    globals()[_name.replace("-", "_")] = _function(_name, _entry)
    __all__.append(_name.replace("-", "_"))
