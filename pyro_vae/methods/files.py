"""Configurations as files: nested as jsonargparse has them, in YAML and in JSON."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..train.untrusted import Unsafe, check_content, read_text
from .building import class_named
from .groups import choice_groups, groups
from .table import preset


def nest(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A flat configuration as jsonargparse and a file have it: nested, without `method`."""
    result: dict[str, Any] = {}
    choices = choice_groups(name)
    for key, value in config.items():
        group, _, option = key.rpartition(".")
        if key == "method" or group in choices:
            continue
        if key in choices:
            options = {k.split(".", 1)[1]: v for k, v in config.items() if k.startswith(f"{key}.")}
            result[key] = None if value is None else {"class_path": _class_path(key, value)}
            if value is not None and options:
                result[key]["init_args"] = options
        elif group:
            result.setdefault(group, {})[option] = value
        else:
            result[key] = value
    return result


def _class_path(group: str, name: str) -> str:
    kind = class_named(group, name)
    return f"{kind.__module__}.{kind.__name__}"


def flatten(name: str, nested: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `nest`, class paths shortened to names."""
    result: dict[str, Any] = {}
    choices = choice_groups(name)
    prefixes = {group.name for group in groups(name)} - {""}
    for key, value in nested.items():
        if key in choices and isinstance(value, dict):
            result[key] = value.get("class_path", "").rsplit(".", 1)[-1]
            options = value.get("init_args") or {}
        elif key in prefixes and isinstance(value, dict):
            options = value
        else:
            result[key], options = plain(value), {}
        result |= {f"{key}.{n}": plain(v) for n, v in options.items()}
    return result


def plain(value: Any) -> Any:
    """A value as YAML has it: tuples as lists, a class without options as its name."""
    if isinstance(value, (tuple, list)):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        if "class_path" in value:
            name, options = value["class_path"].rsplit(".", 1)[-1], value.get("init_args") or {}
            return {"class_path": name, "init_args": plain(options)} if options else name
        return {k: plain(v) for k, v in value.items()}
    return value


def as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as JSON can hold it: an infinite number as its name."""

    def finite(value: Any) -> Any:
        infinite = isinstance(value, float) and not math.isfinite(value)
        return str(value) if infinite else value

    return {key: finite(value) for key, value in config.items()}


def to_yaml(config: Mapping[str, Any]) -> str:
    """A configuration as the text of a file: what `--config` reads and `--print_config` prints.

    Example:
        >>> import torch, pyro_vae as pv
        >>> print(pv.methods.to_yaml(pv.methods.configure("vae")))
        method: vae
        data: digits
        ...
    """
    import yaml

    name = config["method"]
    nested = {k: plain(v) for k, v in nest(name, config).items()}
    for group in choice_groups(name):
        if isinstance(nested[group], str):
            nested[group] = {"class_path": nested[group]}
    return yaml.safe_dump({"method": name, **nested}, sort_keys=False, allow_unicode=True)


def read_config(path: Path | str) -> dict[str, Any]:
    """The flat configuration in a file. Names and types are not checked; `complete` checks them.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import pyro_vae as pv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "my.yaml"
        ...     _ = path.write_text(pv.methods.to_yaml(pv.methods.configure("gmvae")))
        ...     pv.methods.read_config(path)["model.num_components"]
        10

    Args:
        path: of a YAML file, such as the config.yaml of a run folder.

    Raises:
        UserError: no such file, no YAML, or no configuration of a method.
    """
    import yaml

    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist")
    try:
        nested = yaml.safe_load(read_text(path))
        check_content(nested, 0)
    except yaml.YAMLError as e:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(e).split())}") from None
    except (Unsafe, RecursionError) as e:  # aliases of aliases, in a small file
        raise UserError(f"{path} is not a configuration: {e}") from None
    if not isinstance(nested, dict) or not isinstance(nested.get("method"), str):
        raise UserError(f"{path} is not a configuration of a method: it has no line 'method: NAME'")
    name = nested.pop("method")
    preset(name)
    return {"method": name, **flatten(name, nested)}
