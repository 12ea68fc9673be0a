"""The published methods as presets: `pv.methods.gmvae(data).fit()`."""

from .building import CLASSES, GUIDES, GuideFactory, ModelFactory, build, make
from .comparing import compare_guides, guide_names
from .method import Method, method
from .options import accepted, configure, defaults, read_config, to_yaml
from .run import CONFIG, Run, fit, load
from .table import METHODS, Preset

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
    "fit",
    "guide_names",
    "load",
    "make",
    "method",
    "read_config",
    "to_yaml",
]


def _function(name, preset):
    def make_method(data="digits", **overrides):
        return method(name, data, **overrides)

    make_method.__name__ = make_method.__qualname__ = name.replace("-", "_")
    make_method.__doc__ = (
        f"The method {name}: {preset.model.__name__}, guide {preset.guide} ({preset.paper}).\n\n"
        "    See `method` for the arguments."
    )
    return make_method


for _name, _preset in METHODS.items():
    globals()[_name.replace("-", "_")] = _function(_name, _preset)
    __all__.append(_name.replace("-", "_"))
