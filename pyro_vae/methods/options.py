"""The configuration of a method: its preset for the data, changed by overrides, and checked.

A configuration is a flat dict, as on the command line: `{"method": "gmvae", "data": "digits",
"model.latent_dim": 24, "network": "MLP", "network.hidden": [500], ..., "epochs": 100}`. Every option
is a parameter of a class or function that `groups` lists; nothing else declares it.
"""

import difflib
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..conditionals import LibrarySize
from ..conditionals import likelihood as check_likelihood
from ..data import DATASETS, Data, data_set
from ..errors import UserError
from ..train.settings import SCHEDULES
from . import table
from .building import CLASSES, class_named
from .effects import check_effects
from .files import flatten, nest
from .groups import accepted, add_options, choice_groups
from .signatures import parameters
from .table import preset

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

MAX_SEED = 2**32
#: Options that say how a file is read.
READ = ("labels", "index", "layer", "image_size", "drop", "kinds", "covariates")
SEEDS = ("split_seed", "binarize_seed")
#: What other libraries call an option, and no spelling of ours is near.
SYNONYMS = {
    "learning_rate": "lr",
    "clusters": "num_components",
    "n_clusters": "num_components",
    "num_clusters": "num_components",
    "k": "num_components",
    "z_dim": "latent_dim",
    "n_hidden": "hidden",
    "layers": "hidden",
    "random_state": "seed",
    "gpu": "device",
    "output": "out",
}
LEAST_SIMILARITY = 0.75  # of a name that is proposed for an unknown one


def kind_of(data: str | Data) -> str:
    """Which of a method's presets fits the data: `digits`, `images` or `table`."""
    if isinstance(data, str):
        return data_set(data).kind
    name = None if data.source is None else data.source["data"]
    return DATASETS[name].kind if name in DATASETS else "table"


@functools.cache
def defaults(name: str, kind: str = "digits") -> dict[str, Any]:
    """The complete configuration of a method for a kind of data, without `method` and `data`.

    Options that the data determine are None: the likelihood, the binarization, the number of classes,
    and of a table the epochs and the size of z.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.methods.defaults("vae")["model.latent_dim"]
        24

    Args:
        name: the method.
        kind: digits, images or table.
    """
    entry = preset(name)
    own = dict(entry.settings)
    layers: list[Mapping[str, Any]] = [table.DEFAULTS]
    if kind != "images":  # theirs go over a method's settings
        layers.append(table.DIGITS if kind == "digits" else table.TABLE)
    layers.append(entry.settings)
    if kind == "digits":
        layers.append(entry.digits)
        own |= entry.digits
    if kind == "images":
        layers += [table.IMAGES, entry.images]
        own |= entry.images
    merged: dict[str, Any] = {option: v for layer in layers for option, v in layer.items()}
    known = accepted(name, {group: merged.get(group) for group in choice_groups(name)})
    for option in own:
        if option not in known:
            raise AssertionError(f"the preset {name} sets {option}, which it does not have")
    result = {**known, **{k: v for k, v in merged.items() if k in known}}
    if "model.num_classes" in result:
        result["model.num_classes"] = None
    if "model.likelihood" not in own:
        result["model.likelihood"] = None
    if kind == "table":
        result["num_labels"] = None  # of such data, -1 says which have no label
        if "model.latent_dim" in result:
            result["model.latent_dim"] = None  # see `latent_dim_for`
    result["binarize"] = None
    return result


def choices(
    name: str, config: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, str | None]:
    """`{group: class name}` of a method's choices: the overrides', else the configuration's."""
    return {
        group: _class_name(group, overrides.get(group, config[group]))
        for group in choice_groups(name)
    }


def _class_name(group: str, value: Any) -> str | None:
    """The name of a class that a choice has, whatever says it: a name, a dict or an object."""
    if value in (None, "null"):
        return None
    if isinstance(value, dict):
        value = value.get("class_path")
    elif not isinstance(value, str):
        value = type(value).__name__
    return class_named(group, str(value).rsplit(".", 1)[-1]).__name__


def switch_classes(
    name: str, config: Mapping[str, Any], classes: Mapping[str, str | None]
) -> dict[str, Any]:
    """The configuration with other classes for its choices.

    A new class keeps those options of the old one that both share (options that the base class
    declares; of a network, all of one name) and that were not at the old class's default.
    """
    result = dict(config)
    for group in choice_groups(name).values():
        old, new = config[group.name], classes.get(group.name)
        if new == old:
            continue
        before = {k: result.pop(k) for k in list(result) if k.startswith(group.prefix)}
        result[group.name] = new
        if new is None:
            continue
        options = group.options(new)
        shared = options if group.name == "network" else parameters(group.target)
        old_defaults = {} if old is None else parameters(class_named(group.name, old))
        for option, default in options.items():
            key = group.prefix + option
            keep = key in before and option in shared and before[key] != old_defaults.get(option)
            result[key] = before[key] if keep else default
    return result


def as_keyword(option: str) -> str:
    """How Python code passes an option, by its short or its full name.

    Example:
        >>> from pyro_vae.methods.options import as_keyword
        >>> print(as_keyword("latent_dim"), as_keyword("refine.lr"))
        'latent_dim' **{'refine.lr': ...}
    """
    return repr(option) if option.isidentifier() else f"**{{{option!r}: ...}}"


def as_flag(option: str) -> str:
    """How the command line passes an option: `--latent-dim`."""
    return "--" + option.replace("_", "-")


def _meant_by(option: str, names: Sequence[str]) -> list[str]:
    """The full names that a full or short name may stand for; one if it is clear."""
    if option in names:
        return [option]
    same = [k for k in names if k.rsplit(".", 1)[-1] == option]
    return [k for k in same if k.split(".")[0] in ("model", "network")] or same


def resolve(
    name: str, option: str, known: Iterable[str], spell: Callable[[str], str] = as_keyword
) -> str:
    """The full name of an option: `num_components` is `model.num_components` where that is clear.

    Args:
        name: the method.
        option: the full or short name; dashes stand for underscores.
        known: the full names of the method's options; a configuration too.
        spell: how an error writes an option that it proposes.

    Raises:
        UserError: the method has no such option (the nearest is named), or several.
    """
    option = option.replace("-", "_")
    names = list(known)
    meant = _meant_by(option, names)
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise UserError(f"{option!r} is not clear: say {' or '.join(map(spell, meant))}")
    group, _, short = option.rpartition(".")
    of_group = [k for k in names if k.startswith(f"{group}.")] if group else []
    if of_group:
        class_name = known.get(group) if isinstance(known, Mapping) else None
        raise UserError(
            f"the {group} of {name}{f', {class_name},' if class_name else ''} has no {short}; it has "
            + ", ".join(k.rsplit(".", 1)[-1] for k in of_group)
        )
    raise UserError(f"{name} has no option {option!r}; {_hint(name, group, short, names, spell)}")


def _hint(name: str, group: str, short: str, known: list[str], spell: Callable[[str], str]) -> str:
    """What may have been meant by an unknown option: one of another class, or a near name."""
    elsewhere = [
        kind.__name__
        for choice in choice_groups(name).values()
        for kind in CLASSES[choice.name]
        if short in parameters(kind, choice.skip) and group in ("", choice.name)
    ]
    near = _nearest(short, {k.rsplit(".", 1)[-1] for k in known})
    proposal = ""
    if near is not None:
        meant = _meant_by(near, known)
        proposal = f"did you mean {' or '.join(map(spell, [near] if len(meant) == 1 else meant))}?"
    if elsewhere:
        owners = f"it is an option of {', '.join(dict.fromkeys(elsewhere))}"
        return f"{owners}; {proposal}" if proposal else owners
    if proposal:
        return proposal
    return f"pyro-vae fit {name} --help lists its options"


def _nearest(short: str, names: Collection[str]) -> str | None:
    """The option that an unknown one probably means; None if there is none near it."""
    if SYNONYMS.get(short) in names:
        return SYNONYMS[short]
    near = max(sorted(names), key=lambda option: _similarity(short, option), default="")
    return near if _similarity(short, near) >= LEAST_SIMILARITY else None


def _similarity(unknown: str, option: str) -> float:
    """How alike two names are, from 0 to 1: as a whole, by a word of the option, or by a shared word."""

    def ratio(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a, b).ratio()

    words = [word for word in option.split("_") if len(word) > 4]
    by_word = max((ratio(unknown, word) for word in words), default=0.0)
    shared = 0.8 * bool({*words} & {*unknown.split("_")})
    return max(ratio(unknown, option), 0.99 * by_word, shared + 0.1 * ratio(unknown, option))


def expand(overrides: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """`(option, value)` of overrides; objects and `{"class_path", "init_args"}` as names and options."""
    result: list[tuple[str, Any]] = []
    for key, value in overrides.items():
        if key in CLASSES and is_dataclass(value) and not isinstance(value, type):
            result.append((key, type(value).__name__))
            result += [(f"{key}.{f.name}", getattr(value, f.name)) for f in fields(value)]
        elif key == "objective" and type(value) in CLASSES[key]:
            result.append((key, type(value).__name__))
            result += [(f"{key}.{n}", v) for n, v in _settings_of(value).items()]
        elif key in CLASSES and isinstance(value, dict):
            result.append((key, value.get("class_path")))
            result += [(f"{key}.{n}", v) for n, v in (value.get("init_args") or {}).items()]
        elif key in CLASSES and not (value is None or isinstance(value, str)):
            raise UserError(_by_name(key, value))
        else:
            result.append((key, value.item() if isinstance(value, np.generic) else value))
    return result


def _settings_of(objective: Any) -> dict[str, Any]:
    """The settings of an objective that differ from its defaults."""
    defaults = parameters(type(objective))
    settings = {name: getattr(objective, name) for name in defaults}
    # an objective makes {} of the default free_bits=None
    return {n: v for n, v in settings.items() if v != defaults[n] and (v != {} or defaults[n])}


def _by_name(key: str, value: Any) -> str:
    """What a method takes in place of an object, in a line."""
    kinds = ", ".join(kind.__name__ for kind in CLASSES[key])
    given = value.__name__ if isinstance(value, type) else f"a {type(value).__name__}"
    return (
        f"{key} takes a class by name, with its options as keywords, e.g. objective='IWAE', "
        f"num_particles=5; {key} is one of {kinds}, not {given}. A pair of your own objects goes to "
        "pv.fit(model, guide, data)"
    )


def resolve_all(
    name: str, overrides: Iterable[tuple[str, Any]], known: Iterable[str]
) -> dict[str, Any]:
    """`{full name: value}` of `(option, value)`; raises if an option is set twice, by two names."""
    result: dict[str, Any] = {}
    stated: dict[str, str] = {}
    for option, value in overrides:
        full = resolve(name, option, known)
        if full in result:
            both = full if option == stated[full] else f"{stated[full]} and {option}"
            raise UserError(f"{full} is set twice{'' if both == full else f', as {both}'}")
        result[full], stated[full] = value, option
    return result


def configure(
    name: str, data: str | Data = "digits", overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The configuration of a method: its preset for the data, changed by overrides, and checked.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.methods.configure("gmvae", "digits", {"num_components": 20})["model.num_components"]
        20

    Args:
        name: the method.
        data: a data set's name, a file or image folder, or `Data`.
        overrides: `{option: value}`, by full or by short names.

    Raises:
        UserError: an option that the method does not have, one that is set twice or has no effect,
            or a value of the wrong type.
    """
    config, options = configure_unchecked(name, data, overrides or {})
    check_effects(config, options)
    return config


def configure_unchecked(
    name: str, data: str | Data, overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], set[str]]:
    """The configuration, and the full names of its overrides; an option may have no effect.

    Args:
        name, data, overrides: as in `configure`.
    """
    pairs = expand(overrides)
    if "data" in overrides:
        raise UserError("the data are a separate argument, not among the other options")
    config = defaults(name, kind_of(data))
    classes = choices(name, config, dict(pairs))
    config = switch_classes(name, config, classes)
    values = resolve_all(name, pairs, config)
    options = set(values)
    if isinstance(data, Data):
        check_read_already(data, values)
        options -= set(SEEDS)
        config |= _source_of(data, config)
    else:
        config["data"] = data
    values = {k: v for k, v in values.items() if k not in classes}
    return checked(name, config | values), options


def _source_of(data: Data, known: Iterable[str]) -> dict[str, Any]:
    """The options that data in memory have: their source's, and their seeds."""
    source = data.source or {"data": None}
    stated = {k: v for k, v in source.items() if k in known}  # VAEs have no covariates to load
    stated = {k: v for k, v in stated.items() if k == "data" or v is not None}
    return stated | {option: getattr(data, option) for option in SEEDS}


def check_read_already(data: Data, values: Mapping[str, Any]) -> None:
    """Raise if an option says how data are to be read that are in memory, and were read otherwise.

    Args:
        data: the data.
        values: `{option: value}`, as the caller set them.
    """
    source = data.source or {}
    have: dict[str, Any] = {option: source.get(option) for option in READ}
    have |= {option: getattr(data, option) for option in (*SEEDS, "missing")}
    if isinstance(data.likelihood, LibrarySize):
        have["library_size"] = True
    if data.scaling is not None:
        have["standardize"] = True
    if data.c_scaling is not None:
        have["standardize_c"] = True
    if data.withheld_labels is not None and data.train.y is not None:
        have["num_labels"] = data.num_labels
        have["label_seed"] = source.get("label_seed")
    for option, own in have.items():
        value = values.get(option)
        if value is not None and value != own:
            stated = "" if own is None else f", which have {option}={own}"
            raise UserError(
                f"{option}={value} has no effect on data in memory{stated}: set it where they are "
                "loaded or made"
            )


def checked(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A complete configuration, every value of the type that its signature declares.

    Raises:
        UserError: a value of another type.
    """
    from jsonargparse import ArgumentError

    from .parser import one_line

    parser = _parser(name, tuple((group, config[group]) for group in choice_groups(name)))
    try:
        namespace = parser.parse_object(nest(name, config))
    except ArgumentError as e:
        raise UserError(one_line(str(e))) from None
    return finish(name, namespace.as_dict())


@functools.lru_cache(maxsize=64)
def _parser(name: str, classes: tuple[tuple[str, str | None], ...]) -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    return add_options(name, ArgumentParser(exit_on_error=False), dict(classes))


def finish(name: str, parsed: Mapping[str, Any]) -> dict[str, Any]:
    """The flat configuration of what a parser returned, after the checks that no type expresses."""
    config = {"method": name, **flatten(name, parsed)}
    if config["data"] is not None and config["data"] not in DATASETS:
        data_set(config["data"])
        config["data"] = str(Path(config["data"]).resolve())
    seed = config["seed"]
    if not 0 <= seed < MAX_SEED:
        raise UserError(f"seed must be an integer from 0 to {MAX_SEED - 1}, got {seed}")
    if callable(config["schedule"]):
        raise UserError(
            f"the schedule of a method is one of {', '.join(SCHEDULES)}; pass a function to pv.fit: "
            "pv.fit(*method.build(), method.data, **{**method.fit_options(), 'schedule': function})"
        )
    warmup, start = "objective.warmup", "objective.warmup_start"
    own = preset(name).settings.get(start)
    if own is not None and config.get(start) == own and not config.get(warmup):
        config[start] = 0.0  # the method's own warm-up is off
    value = config["model.likelihood"]
    if isinstance(value, str) and not any(k.__name__ == value for k in CLASSES["likelihood"]):
        check_likelihood(value)
    return config


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration in a file, over its method's preset for the data that it names; checked."""
    name = config["method"]
    rest = {k: v for k, v in config.items() if k not in ("method", "data")}
    data = config.get("data", "digits")
    if data is None:  # of arrays: every option is in the file
        base = {**defaults(name, "table"), "data": None}
        classes = choices(name, base, rest)
        base = switch_classes(name, base, classes)
        return checked(name, base | resolve_all(name, rest.items(), base) | classes)
    if not isinstance(data, str):
        raise UserError(f"data takes the name of a data set, a file or a folder, not {data!r}")
    return configure_unchecked(name, data, rest)[0]


def default_folder(config: Mapping[str, Any]) -> Path:
    """Where `pyro-vae fit` writes a run."""
    return Path("runs") / f"{config['method']}-{Path(config['data']).stem}-{config['seed']}"
