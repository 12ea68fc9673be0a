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
    from .loading import load
    from .options import configure, defaults
    from .records import CONFIG
    from .run import Run, fit

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
        "loading": ["load"],
        "records": ["CONFIG"],
        "run": ["Run", "fit"],
    },
)


FUNCTION_DOC = """The method {name}: {model}, guide {guide} ({paper}).

    It is what `pyro-vae fit {name}` trains.

    Args:
        data: a data set's name, a file or image folder, `Data`, a frame, a tensor or `(x, y)`.
        overrides: options of the method, by full or by short names; `pyro-vae fit {name} --help` lists
            them.

    Returns:
        A `Method`.

    Raises:
        UserError: an option that the method does not have, that is set twice or has no effect, or a
            value of the wrong type.

    Example:
        >>> import pyro_vae as pv
        >>> method = pv.methods.{function}("digits", epochs=5)
        >>> method
        Method({name} on digits: {guide})
        >>> method.config["epochs"]
        5
"""


def _function(name: str, entry: Preset) -> "Callable[..., Method]":
    def make_method(data: "str | Data" = "digits", **overrides: Any) -> "Method":
        from .configured import method

        return method(name, data, **overrides)

    make_method.__name__ = make_method.__qualname__ = name.replace("-", "_")
    make_method.__doc__ = FUNCTION_DOC.format(
        name=name,
        function=make_method.__name__,
        model=entry.model_name,
        guide=entry.guide,
        paper=entry.paper,
    )
    return make_method


for _name, _entry in METHODS.items():
    globals()[_name.replace("-", "_")] = _function(_name, _entry)
    __all__.append(_name.replace("-", "_"))
