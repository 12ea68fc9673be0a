"""`compare` for a method: its guides by name, its objectives by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import comparison
from ..errors import UserError
from .building import GuideFactory, ModelFactory, make
from .configured import method
from .options import configure

LISTED = "diagonal,full"


def compare_guides(
    name: str,
    guides: str = LISTED,
    objectives: str | None = None,
    data: str | Path = "digits",
    epochs: int | None = None,
    settings: dict[str, Any] | None = None,
    share_model: bool = False,
    base_guide: str | None = None,
    root: Path | None = None,
    **more: Any,
) -> Any:
    """Train and compare guides of a method's model, each with the method's settings.

    Args:
        name: the method.
        guides: names out of `GUIDES`, with commas between.
        objectives: names of classes, with commas between. Default: the method's.
        data: a data set's name or an .npz file.
        epochs: passes over the training data. Default: the method's.
        settings: options of the method.
        share_model, base_guide: as in `pv.compare`; the guide by its name. Default: the method's guide.
        root: folder of the torchvision data sets.
        more: other arguments of `pv.compare`.

    Returns:
        A `Comparison`.
    """
    overrides = dict(settings or {})
    if "data" in overrides:
        raise UserError("the data are a separate argument (--data), not among the settings")
    if "seed" in overrides:
        raise UserError("a comparison's seeds are 0, 1, ...: seeds says how many")
    if epochs is not None:
        overrides["epochs"] = epochs
    preset = method(name, data, root=root, **overrides)
    names = _split(objectives) or [preset.config["objective"]]
    parts = preset.config, preset.shapes
    base = None
    if base_guide is not None or share_model:
        base = GuideFactory(*parts, base_guide or "default")
    fit_options = preset.fit_options()
    del fit_options["seed"], fit_options["objective"]
    return comparison.compare(
        {name: ModelFactory(*parts)},
        {guide: GuideFactory(*parts, guide) for guide in _split(guides)},
        preset.data,
        objectives={n: _objective(name, str(data), overrides, n) for n in names},
        share_model=share_model,
        base_guide=base,
        **more,
        **fit_options,
    )


def _objective(name: str, data: str, overrides: Mapping[str, Any], objective: str) -> Any:
    return make(configure(name, data, {**overrides, "objective": objective}), "objective")


def _split(names: str | None) -> list[str]:
    return [n.strip() for n in (names or "").split(",") if n.strip()]
