"""`compare` for a method: its guides by name, its objectives by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import comparison
from ..errors import UserError, unknown_name_error
from ..objectives import ELBO
from .building import GUIDES, GuideFactory, ModelFactory, make
from .configured import Method
from .effects import check_effects
from .options import configure_unchecked

DEFAULT_GUIDES = "diagonal,full"


def compare_guides(
    name: str,
    guides: str = DEFAULT_GUIDES,
    objectives: str | None = None,
    data: str | Path = "digits",
    epochs: int | None = None,
    settings: dict[str, Any] | None = None,
    share_model: bool = False,
    base_guide: str | None = None,
    root: Path | None = None,
    labels: str | None = None,
    index: str | None = None,
    **more: Any,
) -> comparison.Comparison:
    """Train and compare guides of a method's model, each with the method's settings.

    Args:
        name: the method.
        guides: names of guides, separated by commas: default, constants, per-datum, semi-amortized,
            diagonal, full, low-rank, mixture, iaf, maf, spline, coupling.
        objectives: names of classes of `pv.objectives`, separated by commas. Default: the method's.
        data: a data set's name, a file or an image folder.
        epochs: passes over the training data. Default: the method's.
        settings: options of the method, by full or short names, as in `pv.method`.
        share_model, base_guide: as in `pv.compare`; the guide by its name. Default: the method's guide.
        root: folder of the torchvision data sets.
        labels, index: the columns with labels and with the names of the rows, of a table.
        more: other arguments of `pv.compare`.

    Returns:
        A `Comparison`.

    Raises:
        UserError: an unknown name (the nearest is named), or a setting that would be ignored.

    Example:
        >>> import pyro_vae as pv
        >>> pv.methods.compare_guides("vae", guides="diagonal,fulll")
        Traceback (most recent call last):
        pyro_vae.errors.UserError: unknown guide 'fulll'; did you mean 'full'?
    """
    names = guide_names(guides)
    if base_guide is not None:
        guide_names(base_guide)
    objective_names = _split(objectives)
    base = base_guide or ("default" if share_model else None)
    trained = [*names, base] if base else names
    replaced = {"labels": labels, "index": index, "epochs": epochs}
    overrides = _overrides(settings, replaced, objective_names, trained)
    config, options = configure_unchecked(name, str(data), overrides)
    check_effects(config, options, [GUIDES[guide][1] for guide in trained])
    preset = Method(config, root=root)
    objective_names = objective_names or [preset.config["objective"]]
    parts = preset.config, preset.shapes
    fit_options = preset.fit_options()
    del fit_options["seed"], fit_options["objective"]
    return comparison.compare(
        {name: ModelFactory(*parts, preset.count_start)},
        {guide: GuideFactory(*parts, guide) for guide in names},
        preset.data,
        objectives={n: _objective(name, str(data), overrides, n) for n in objective_names},
        share_model=share_model,
        base_guide=None if base is None else GuideFactory(*parts, base),
        **more,
        **fit_options,
    )


def guide_names(guides: str) -> list[str]:
    """The names of guides in a text that separates them by commas.

    Raises:
        UserError: a name that is not in `GUIDES`; the nearest is named.

    Example:
        >>> import pyro_vae as pv
        >>> pv.methods.guide_names("default, constants")
        ['default', 'constants']
    """
    names = _split(guides)
    for name in names:
        if name not in GUIDES:
            raise unknown_name_error("guide", name, GUIDES)
    return names


def _overrides(
    settings: dict[str, Any] | None,
    arguments: dict[str, Any],
    objectives: Sequence[str],
    guides: Sequence[str],
) -> dict[str, Any]:
    """The method's options; a setting that an argument or every guide would replace is refused."""
    overrides = {k.replace("-", "_"): v for k, v in (settings or {}).items()}
    if "data" in overrides:
        raise UserError("the data are a separate argument (--data), and no setting")
    if "seed" in overrides:
        raise UserError("the seeds of a comparison are 0, 1, ...: --seeds sets how many")
    if "restarts" in overrides:
        raise UserError("a comparison trains each pair once per seed: --seeds sets how many")
    arguments = {name: value for name, value in arguments.items() if value is not None}
    for name in arguments:
        if name in overrides:
            raise UserError(f"{name} is set twice, by --{name} and among the settings")
    if objectives and "objective" in overrides:
        raise UserError("the objective is set twice, by --objectives and among the settings")
    for option in overrides:
        group = option.split(".")[0]
        if group == "family" and all("family" in GUIDES[guide][1] for guide in guides):
            raise UserError(
                f"{option} would be ignored: the guides {', '.join(guides)} set the family; compare "
                "the guide 'default' too"
            )
    return {**overrides, **arguments}


def _objective(name: str, data: str, overrides: dict[str, Any], objective: str) -> ELBO:
    config, _ = configure_unchecked(name, data, {**overrides, "objective": objective})
    return make(config, "objective")


def _split(names: str | None) -> list[str]:
    """Names that are separated by commas; blanks do not matter."""
    return [n.strip() for n in (names or "").split(",") if n.strip()]
