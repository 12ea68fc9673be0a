"""The arguments of `pyro-vae fit`: short names, files, and the parser of one method's options."""

from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..train.folder import RunFolder
from .building import CLASSES, class_named
from .effects import check_effects, check_root, check_workers, without_effect
from .files import nest, read_config
from .groups import METHOD_HELP, add_options
from .options import (
    as_flag,
    choices,
    complete,
    configure,
    default_folder,
    finish,
    resolve,
    switch_classes,
)
from .parser import Parser, full_names, join_words, option_values
from .records import CONFIG
from .signatures import parameters
from .table import preset


def parse_fit(
    tokens: Sequence[str], run: Callable[..., int]
) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """The configuration, the other arguments of `run`, and whether to print the configuration.

    Args:
        tokens: what follows `pyro-vae fit`.
        run: the function of a configuration that trains; its other parameters are options too.

    Raises:
        UserError: no method, an option that the method does not have, a value of the wrong type.
    """
    name, base, tokens = _method(join_words(tokens))
    values = option_values(tokens)
    before = configure(name, values.get("data", "digits")) if base is None else complete(base)
    for group in CLASSES:  # --objective.help IWAE shows the options of a class
        if asked := values.get(f"{group}.help"):
            class_named(group, asked.rpartition(".")[2])
    overrides = {g: yaml.safe_load(v) for g, v in values.items() if g in CLASSES and v}
    classes = choices(name, before, overrides)
    config = switch_classes(name, before, classes)
    parser = _fit_parser(name, run, classes, config)
    own = [*parameters(run, {"config"}), "config", "print_config"]
    known = {**dict.fromkeys(own), **config}
    tokens = full_names(tokens, lambda option: resolve(name, option, known, as_flag))
    parsed = parser.parse_args([t for t in tokens if t != "--print_config"])
    arguments = {n: parsed.pop(n) for n in own}
    del arguments["print_config"], arguments["config"]
    result = finish(name, parsed.as_dict())
    if result["data"] is None:
        raise UserError("this configuration is of a run on arrays: --data sets a file to train on")
    if "config" in values:  # what a file says is checked too
        before = configure(name, result["data"])
    check_effects(result, [k for k, v in result.items() if k not in before or v != before[k]])
    check_root(arguments.get("root"), result["data"])
    check_workers(arguments.get("workers"), result)
    return result, arguments, "print_config" in values


def _fit_parser(
    name: str,
    run: Callable[..., int],
    classes: dict[str, str | None],
    config: dict[str, Any],
) -> Parser:
    """The parser of a method's options and of the other parameters of `run`."""
    entry = preset(name)
    parser = Parser(
        prog=f"pyro-vae fit {name}",
        usage=f"pyro-vae fit {name} [options]",
        description=f"{entry.model_name}, guide {entry.guide} ({entry.paper}). Short names of "
        "options, such as --latent-dim, are accepted where they are clear.",
    )
    parser.add_signature(run, skip={"config"})
    parser.add_argument("--config", help="file with a configuration, as --print_config prints it.")
    parser.add_argument(
        "--print_config", action="store_true", help="print the configuration, exit."
    )
    add_options(name, parser, classes, config)
    nested = nest(name, config)
    flat = {k: v for k, v in config.items() if k.split(".")[0] not in (*classes, "method")}
    parser.set_defaults({**flat, **{group: nested[group] for group in classes}})
    parser.show_words()
    parser.set_help({**METHOD_HELP, **dict.fromkeys(without_effect(name), SUPPRESS)})
    return parser


def _method(tokens: Sequence[str]) -> tuple[str, dict[str, Any] | None, list[str]]:
    """The method, the configuration that a file gives, and the tokens after the method.

    The file is that of `--config`, or that of the run to resume, which has a method if none is given.
    Without one, also where there is no run to resume yet, the configuration is None.

    Raises:
        UserError: no method; a file of another method; to resume a run that is not of a method.
    """
    name = tokens[0] if tokens and not tokens[0].startswith("-") else None
    rest = list(tokens[1:] if name else tokens)
    values, base, source = option_values(rest), None, None
    resume = values.get("resume", "false") in ("", "true")
    if name is not None:
        preset(name)
    if "config" in values:
        source = Path(values["config"])
    elif resume and (name is not None or "out" in values):
        config = {
            "method": name,
            "data": values.get("data", "digits"),
            "seed": values.get("seed", 0),
        }
        folder = Path(values["out"] if "out" in values else default_folder(config))
        source = folder / CONFIG if (folder / CONFIG).exists() else None
        if source is None:
            RunFolder(folder).check_free("it is not of a method: continue it in Python")
        if source is None and name is None:
            raise UserError(
                f"{folder} has no run to resume: name a method to start one, pyro-vae fit METHOD "
                f"--out {folder}"
            )
    if source is not None:
        base = read_config(source)
        if name not in (None, base["method"]):
            raise UserError(f"{source} is of the method {base['method']}, not of {name}")
        name = base["method"]
    if name is None:
        raise UserError("fit needs a method: pyro-vae fit gmvae; pyro-vae list names them all")
    return name, base, rest
