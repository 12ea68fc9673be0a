"""The options of a method: read off the signatures of what it is made of, resolved and checked.

A configuration is a flat dict, as on the command line: `{"method": "gmvae", "data": "digits",
"model.latent_dim": 24, "network": "MLP", "network.hidden": [500], ..., "epochs": 100}`. In files it
is nested, as jsonargparse has it. Every option is a parameter of a class or function named here;
nothing else declares it.
"""

import difflib
import functools
import inspect
import math
import re
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import jsonargparse
import yaml

from ..conditionals import Family, Network
from ..conditionals import likelihood as likelihood_of
from ..data import DATASETS, load
from ..data.core import Data
from ..data.sets import data_set
from ..errors import UserError, unknown_name_error
from ..guides import Guide, SemiAmortized
from ..models import Prior
from ..objectives import ELBO
from ..train import Initialization, fit
from . import table
from .building import CLASSES, center_pixels, class_named
from .table import METHODS

#: Parameters that are not options: the caller, the data or another option determines them.
LOAD = {"name", "root"}
MODEL = {"x_shape", "c_shape", "network", "prior"}
GUIDE = {"model", "given", "family", "network", "num_data", "input_scaling", "example"}
CENTER = frozenset({"x_shape", "c_is_pixels", "parents"})
START = frozenset({"compile"})
PRIOR = {"size", "given", "loc", "scale", "options"}
RUN = {"device", "out", "resume", "progress"}
FIT = {"model", "guide", "data", "objective", "initialize", "observed", "config", *RUN}
#: Options that may differ between a run and its continuation.
EXTENDABLE = ("epochs", "patience")
MAX_SEED = 2**32


@dataclass(frozen=True)
class Group:
    """Options that one signature, or one of several classes, declares.

    Args:
        name: prefix of its options; "" for none.
        target: the class or function whose signature it is; of a choice, the base class.
        skip: parameters that are not options.
        choice: whether the option `name` picks the class.
        title: of the group in `--help`.
    """

    name: str
    target: object
    skip: frozenset = frozenset()
    choice: bool = False
    title: str = ""


def preset(name: str) -> table.Preset:
    """A method's preset by name; raises with the nearest name."""
    if name not in METHODS:
        raise unknown_name_error("method", name, METHODS)
    return METHODS[name]


def is_conditional(name: str) -> bool:
    """Whether the method's model has covariates c."""
    return "c" in preset(name).model.observes


@functools.cache
def groups(name: str) -> tuple[Group, ...]:
    """The groups of options that a method has, in the order of `--help`."""
    found = preset(name)
    has_guide = found.parents != "prior" and bool(found.parents or found.model.default_guide)
    load_skip = LOAD if is_conditional(name) else LOAD | {"condition", "quadrants"}
    result = [
        Group("", load, frozenset(load_skip), title="data"),
        Group("model", found.model, frozenset(MODEL), title=f"model: {found.model.__name__}"),
        Group("network", Network, choice=True, title="network, of model and guide"),
    ]
    if "prior" in parameters(found.model):
        result.append(Group("prior", Prior, frozenset(PRIOR), choice=True, title="prior"))
    if has_guide:
        title = f"guide: {found.guide}"
        result += [
            Group("guide", Guide, frozenset(GUIDE), title=title),
            Group("family", Family, choice=True, title=title),
            Group("refine", SemiAmortized, frozenset({"model", "guide"}), title=title),
        ]
    result += [
        Group("", center_pixels, CENTER, title="network, of model and guide"),
        Group("objective", ELBO, choice=True, title="objective"),
        Group("initialize", Initialization, START, choice=True, title="initialization"),
        Group("", fit, frozenset(FIT), title="training"),
    ]
    return tuple(result)


@functools.cache
def _signature(target) -> dict:
    result = {}
    for owner in target.__mro__ if isinstance(target, type) else (target,):
        function = owner.__dict__.get("__init__") if isinstance(owner, type) else owner
        if function is None:
            continue
        found = list(inspect.signature(function).parameters.values())
        named = (p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        result = {**{p.name: p.default for p in named if p.name != "self"}, **result}
        if not any(p.kind is p.VAR_KEYWORD for p in found):
            break
    return result


def parameters(target, skip=()) -> dict:
    """`{parameter: default}` of a class or function, those that it passes on included."""
    return {n: d for n, d in _signature(target).items() if n not in skip}


def accepted(name: str, chosen: dict | None = None) -> dict:
    """`{option: its default}` that a method has.

    Args:
        chosen: `{group: class name or None}` of the choices; the preset's classes where not said.
    """
    result = {"data": "digits"}
    for group in groups(name):
        prefix = f"{group.name}." if group.name else ""
        if group.choice:
            kind = (chosen or {}).get(group.name)
            result[group.name] = kind
            if kind is not None:
                found = parameters(class_named(group.name, kind), group.skip)
                result |= {prefix + n: d for n, d in found.items()}
        else:
            found = parameters(group.target, group.skip)
            result |= {prefix + n: d for n, d in found.items()}
    return result


def kind_of(data: str | Data) -> str:
    """Which of a method's presets fits the data: `digits`, `images`, `table` or `counts`."""
    if not isinstance(data, Data):
        return data_set(data).kind
    if data.source is not None and data.source["data"] in DATASETS:
        return DATASETS[data.source["data"]].kind
    return "counts" if data.likelihood in ("poisson", "negative-binomial") else "table"


@functools.cache
def defaults(name: str, kind: str = "digits") -> dict:
    """The complete configuration of a method for a kind of data, without `method` and `data`."""
    found = preset(name)
    layers = [table.DEFAULTS, table.DIGITS if kind == "digits" else {}, found.settings]
    layers.append(table.IMAGES if kind == "images" else {})
    layers.append({} if kind == "digits" else getattr(found, kind))
    merged = functools.reduce(dict.__or__, layers)
    known = accepted(name, {g.name: merged.get(g.name) for g in groups(name) if g.choice})
    own = {**found.settings, **layers[-1]}
    for option in own:
        if option not in known:
            raise AssertionError(f"the preset {name} sets {option}, which it does not have")
    result = {**known, **{k: v for k, v in merged.items() if k in known}}
    if "model.num_classes" in result:
        result["model.num_classes"] = None  # the data's
    if "model.likelihood" not in own:
        result["model.likelihood"] = None  # the data's
    if kind not in ("digits", "images"):
        result["num_labels"] = None  # such data say by -1 what has no label
    result["binarize"] = None  # what fits the likelihood
    return result


def choices(name, config, overrides):
    """`{group: class name}`, as the overrides say or else the configuration."""
    result = {}
    for group in groups(name):
        if group.choice:
            value = overrides.get(group.name, config[group.name])
            result[group.name] = _class_of(group.name, value)
    return result


def _class_of(group, value):
    if value in (None, "null"):
        return None
    if isinstance(value, dict):
        value = value.get("class_path")
    elif not isinstance(value, str):
        value = type(value).__name__
    return class_named(group, str(value).rsplit(".", 1)[-1]).__name__


def switched(name: str, config: dict, chosen: dict) -> dict:
    """The configuration with other classes for its choices: what they do not share falls away."""
    result = dict(config)
    for group in groups(name):
        kind = chosen.get(group.name)
        if not group.choice or kind == config[group.name]:
            continue
        old = {k: result.pop(k) for k in list(result) if k.startswith(f"{group.name}.")}
        result[group.name] = kind
        if kind is None:
            continue
        own = parameters(class_named(group.name, kind), group.skip)
        shared = own if group.name == "network" else parameters(group.target)
        before = config[group.name]
        usual = {} if before is None else parameters(class_named(group.name, before))
        for n, default in own.items():
            key = f"{group.name}.{n}"
            kept = key in old and n in shared and old[key] != usual.get(n)
            result[key] = old[key] if kept else default
    return result


def resolve(name: str, option: str, known) -> str:
    """The full name of an option: `num_components` is `model.num_components` where that is clear.

    Raises:
        UserError: the method has no such option (the nearest is named), or several.
    """
    option = option.replace("-", "_")
    if option in known:
        return option
    found = [k for k in known if k.rsplit(".", 1)[-1] == option]
    found = [k for k in found if k.split(".")[0] in ("model", "network")] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{option!r} is not clear: say {' or '.join(found)}")
    group, _, leaf = option.rpartition(".")
    of_group = [k for k in known if k.startswith(f"{group}.")] if group else []
    if of_group:
        raise UserError(
            f"the {group} of {name}{_picked(known, group)} has no {leaf}; it has "
            + ", ".join(k.rsplit(".", 1)[-1] for k in of_group)
        )
    leaves = {k.rsplit(".", 1)[-1]: k for k in reversed(known)}
    near = difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.75)
    near = leaves[near[0]] if near else None
    elsewhere = [
        f"{kind.__name__}" for g in groups(name) if g.choice
        for kind in CLASSES[g.name] if leaf in parameters(kind, g.skip)
        and (not group or group == g.name)
    ]  # fmt: skip
    hint = f"did you mean {near!r}?" if near else f"pyro-vae fit {name} --help lists its options"
    if elsewhere:
        hint = f"it is an option of {', '.join(dict.fromkeys(elsewhere))}"
    raise UserError(f"{name} has no option {option!r}; {hint}")


def fail(error):
    """Raise an error, as an expression."""
    raise error


def default_folder(config: dict) -> Path:
    """Where `pyro-vae fit` writes a run."""
    return Path("runs") / f"{config['method']}-{Path(config['data']).stem}-{config['seed']}"


def _picked(known, group):
    return f", {known[group]}," if isinstance(known, dict) and known.get(group) else ""


def expand(overrides: dict) -> dict:
    """Objects and `{"class_path", "init_args"}` among overrides as class names and options."""
    result = {}
    for key, value in overrides.items():
        if key in CLASSES and is_dataclass(value) and not isinstance(value, type):
            result[key] = type(value).__name__
            result |= {f"{key}.{f.name}": getattr(value, f.name) for f in fields(value)}
        elif key in CLASSES and isinstance(value, dict):
            result[key] = value.get("class_path")
            result |= {f"{key}.{n}": v for n, v in (value.get("init_args") or {}).items()}
        elif key in CLASSES and not (value is None or isinstance(value, str)):
            kind = type(value).__name__
            raise UserError(f"{key} takes a name and its options, e.g. {key}={kind!r}, not {kind}")
        else:
            result[key] = value
    return result


def configure(name: str, data: str | Data = "digits", overrides: dict | None = None) -> dict:
    """The configuration of a method: its preset for the data, and the overrides, checked.

    Args:
        data: a name, an .npz file, or `Data`.
        overrides: `{option: value}`, by full or by short names.

    Raises:
        UserError: an option that the method does not have, or a value of the wrong type.
    """
    base = defaults(name, kind_of(data))
    overrides = expand(overrides or {})
    chosen = choices(name, base, overrides)
    base = switched(name, base, chosen)
    if "data" in overrides:
        raise UserError("the data are an argument of their own, not among the other options")
    said = {resolve(name, k, base): v for k, v in overrides.items()}
    if isinstance(data, Data):
        source = data.source or {"data": None}
        base |= {k: v for k, v in source.items() if k == "data" or v is not None}
    else:
        base["data"] = data
    said = {k: v for k, v in said.items() if k not in chosen}
    return checked(name, base | said)


def checked(name: str, config: dict) -> dict:
    """A complete configuration, every value of the type that its signature declares.

    Raises:
        UserError: a value of another type.
    """
    try:
        found = _parser(name, _frozen_choices(name, config)).parse_object(nest(name, config))
    except jsonargparse.ArgumentError as e:
        raise UserError(one_line(str(e))) from None
    return finish(name, found)


def finish(name: str, namespace) -> dict:
    """The flat configuration of what a parser returns; checks that no type can express."""
    config = {"method": name, **flatten(name, namespace.as_dict())}
    if config["data"] is not None and config["data"] not in DATASETS:
        data_set(config["data"])
        config["data"] = str(Path(config["data"]).resolve())
    seed = config["seed"]
    if not 0 <= seed < MAX_SEED:
        raise UserError(f"seed must be an integer from 0 to {MAX_SEED - 1}, got {seed}")
    if config["model.likelihood"] is not None:
        value = config["model.likelihood"]
        if isinstance(value, str) and not any(k.__name__ == value for k in CLASSES["likelihood"]):
            likelihood_of(value)
    return config


def _frozen_choices(name, config):
    return tuple((g.name, config[g.name]) for g in groups(name) if g.choice)


@functools.lru_cache(maxsize=64)
def _parser(name, chosen):
    return add_options(name, jsonargparse.ArgumentParser(exit_on_error=False), dict(chosen))


def add_options(name: str, parser, chosen: dict, config: dict | None = None):
    """The method's options as arguments of a jsonargparse parser, in groups; returns it.

    Args:
        chosen: `{group: class name or None}`.
        config: the configuration whose values `--help` shows.
    """
    titled = {}
    for group in groups(name):
        if group.title not in titled:
            titled[group.title] = parser.add_argument_group(group.title)
        section, skip = titled[group.title], set(group.skip)
        options = {"skip": skip, "fail_untyped": False, "as_group": False}
        if group.target is load:
            section.add_argument("--data", type=str | None, default="digits", help=DATA_HELP)
        if group.choice:
            described = _described(group, chosen[group.name], config)
            section.add_subclass_arguments(
                group.target, group.name, skip=skip, as_group=False, required=False,
                metavar="CLASS", help=described,
            )  # fmt: skip
        elif group.name:
            section.add_class_arguments(group.target, group.name, instantiate=False, **options)
        else:
            section.add_function_arguments(group.target, **options)
    return parser


def _described(group, kind, config):
    """The help of a choice: the classes, the one that is the default, and its options."""
    names = ", ".join(k.__name__ for k in CLASSES[group.name])
    text = f"one of {names}; --{group.name}.help CLASS describes one. Default: {kind or 'none'}"
    if kind is None or config is None:
        return text
    own = parameters(class_named(group.name, kind), group.skip)
    shown = ", ".join(f"--{group.name}.{n} {config[f'{group.name}.{n}']}" for n in own)
    return f"{text}, {shown}" if own else text


DATA_HELP = f"{', '.join(DATASETS)}, or an .npz file with arrays x, and y or c."


def nest(name: str, config: dict) -> dict:
    """A flat configuration as jsonargparse, and a file, has it."""
    result, choices = {}, {g.name for g in groups(name) if g.choice}
    for key, value in config.items():
        group, _, leaf = key.rpartition(".")
        if key == "method":
            continue
        if key in choices:
            found = {k.split(".", 1)[1]: v for k, v in config.items() if k.startswith(f"{key}.")}
            result[key] = None if value is None else {"class_path": _path(key, value)}
            if value is not None and found:
                result[key]["init_args"] = found
        elif group in choices:
            continue
        elif group:
            result.setdefault(group, {})[leaf] = value
        else:
            result[key] = value
    return result


def _path(group, name):
    kind = class_named(group, name)
    return f"{kind.__module__}.{kind.__name__}"


def flatten(name: str, nested: dict) -> dict:
    """The inverse of `nest`, class paths shortened to names."""
    result, choices = {}, {g.name for g in groups(name) if g.choice}
    named = {g.name for g in groups(name)} - {""}
    for key, value in nested.items():
        if key in choices and isinstance(value, dict):
            result[key] = value.get("class_path", "").rsplit(".", 1)[-1]
            inner = value.get("init_args") or {}
        elif key in named and isinstance(value, dict):
            inner = value
        else:
            result[key], inner = plain(value), {}
        result |= {f"{key}.{n}": plain(v) for n, v in inner.items()}
    return result


def plain(value):
    """A value as YAML has it: tuples as lists, a class without options as its name."""
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        if "class_path" in value:
            name, inner = value["class_path"].rsplit(".", 1)[-1], value.get("init_args") or {}
            return {"class_path": name, "init_args": plain(inner)} if inner else name
        return {k: plain(v) for k, v in value.items()}
    return value


def as_json(config: dict) -> dict:
    """A configuration as JSON can hold it: an infinite number as its name."""

    def plain_number(value):
        infinite = isinstance(value, float) and not math.isfinite(value)
        return str(value) if infinite else value

    return {key: plain_number(value) for key, value in config.items()}


def to_yaml(config: dict) -> str:
    """A configuration as the text of a file: what `--config` reads and `--print_config` prints."""
    name = config["method"]
    nested = {k: plain(v) for k, v in nest(name, config).items()}
    for group in groups(name):
        if group.choice and isinstance(nested[group.name], str):
            nested[group.name] = {"class_path": nested[group.name]}
    return yaml.safe_dump({"method": name, **nested}, sort_keys=False, allow_unicode=True)


def read_config(path: Path | str) -> dict:
    """The flat configuration in a file, as it is there; names and types unchecked.

    Raises:
        UserError: no such file, no YAML, or no configuration of a method.
    """
    try:
        nested = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as e:
        raise UserError(f"{path} cannot be read: {type(e).__name__}") from None
    except yaml.YAMLError as e:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(e).split())}") from None
    if not isinstance(nested, dict) or not isinstance(nested.get("method"), str):
        raise UserError(f"{path} is not a configuration of a method: it has no line 'method: NAME'")
    name = nested.pop("method")
    preset(name)
    return {"method": name, **flatten(name, nested)}


def complete(config: dict) -> dict:
    """The configuration in a file, over its method's preset for the data that it names; checked."""
    name = config["method"]
    rest = {k: v for k, v in config.items() if k not in ("method", "data")}
    data = config.get("data", "digits")
    if data is None:  # of arrays: every option is in the file
        kind = {**defaults(name, "table"), "data": None}
        chosen = choices(name, kind, rest)
        base = switched(name, kind, chosen)
        return checked(name, base | {resolve(name, k, base): v for k, v in rest.items()} | chosen)
    if not isinstance(data, str):
        raise UserError(f"data takes the name of a data set or an .npz file, not {data!r}")
    return configure(name, data, rest)


KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "tuple": "a list, e.g. [64, 32]",
    "dict": "a dict, e.g. {z: 1}",
    "NoneType": "null",
}


def one_line(message: str) -> str:
    """jsonargparse's explanation of a wrong value as one line: the option, what it takes, the value."""
    wrong = re.search(r"Option '([^']*)' is not accepted", message)
    keys = re.findall(r'[Kk]ey "([^"]+)"', message)
    if wrong:
        return f"{keys[0] if keys else 'the configuration'} has no option {wrong.group(1)!r}"
    nested = re.search(r"NestedArg\(key='(.*?)', val=(.*)\)", message)
    value = re.search(r"(?:Given|Got) value: (.*)", message)
    expected = re.findall(r"Expected an? <class '(?:\w+\.)*(\w+)'>", message)
    if not keys or not (nested or value):
        return " ".join(line.strip() for line in message.splitlines() if line.strip())[:300]
    if nested:
        expected = [kind for kind in expected if kind != "NoneType"] or ["another type"]
    name = f"{keys[0]}.{nested.group(1)}" if nested else keys[0]
    match = re.search(r"takes (.*), not ", message)
    kinds = (
        match.group(1) if match else " or ".join(KINDS.get(k, k) for k in dict.fromkeys(expected))
    )
    return f"{name} takes {kinds}, not {nested.group(2) if nested else value.group(1)}"
