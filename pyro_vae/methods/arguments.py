"""The arguments of `pyro-vae fit`: short names, files, and the parser of one method's own options."""

import re
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import jsonargparse
import yaml

from ..errors import UserError, unknown_name_error
from . import options
from .building import CLASSES
from .run import CONFIG


@contextmanager
def one_line_warnings():
    """Within, warnings are lines of standard error without the source that they come from."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(
            f"pyro-vae: warning: {' '.join(str(message).split())}", file=sys.stderr
        )
        yield


class Parser(jsonargparse.ArgumentParser):
    """A parser whose errors are `UserError`s of one line, and whose help shows dashes in flags."""

    def error(self, message, ex=None):
        raise UserError(options.one_line(str(message if ex is None else ex)))

    def format_help(self):
        text = super().format_help()
        text = re.sub(r"\s+\(type:\s+Optional\[.*?known\s+subclasses:[^)]*\)", "", text, flags=re.S)
        text = re.sub(r",\s+known\s+subclasses:[^)]*\)", ")", text)
        return re.sub(r"--[\w.]+", lambda flag: flag.group().replace("_", "-"), text)

    def add_signature(self, function, **skipped):
        """The function's parameters as arguments; `--flag` alone means `--flag true`."""
        self.add_function_arguments(function, **skipped)
        for action in self._actions:
            if isinstance(action.default, bool) and action.dest != "help" and action.nargs is None:
                action.nargs, action.const = "?", True


def parse_fit(tokens, run):
    """`(configuration, arguments of run, whether to print the configuration)` of a command line.

    Args:
        tokens: what follows `pyro-vae fit`.
        run: the function of a configuration that trains; its other parameters are options too.

    Raises:
        UserError: no method, an option that the method does not have, a value of the wrong type.
    """
    name, base, tokens = _method(tokens)
    said = said_options(tokens)
    if base is None:
        config = options.configure(name, said.get("data", "digits"))
    else:
        config = options.complete(base)
    classes = {g: yaml.safe_load(v) for g, v in said.items() if g in CLASSES and v}
    chosen = options.choices(name, config, classes)
    config = options.switched(name, config, chosen)
    preset = options.preset(name)
    parser = Parser(
        prog=f"pyro-vae fit {name}",
        usage=f"pyro-vae fit {name} [options]",
        description=f"{preset.model.__name__}, guide {preset.guide} ({preset.paper}). Short names of "
        "options, such as --latent-dim, are accepted where they are clear.",
    )
    parser.add_signature(run, skip={"config"})
    parser.add_argument("--config", help="file with a configuration, as --print_config prints it.")
    parser.add_argument(
        "--print_config", action="store_true", help="print the configuration, exit."
    )
    options.add_options(name, parser, chosen, config)
    nested = options.nest(name, config)
    flat = {k: v for k, v in config.items() if k not in (*chosen, "method")}
    flat = {k: v for k, v in flat.items() if k.split(".")[0] not in chosen}
    parser.set_defaults({**flat, **{group: nested[group] for group in chosen}})
    own = [*options.parameters(run, {"config"}), "config", "print_config"]
    known = {**dict.fromkeys(own), **config}
    tokens = full_names(tokens, lambda option: options.resolve(name, option, known))
    given = parser.parse_args([t for t in tokens if t != "--print_config"])
    arguments = {n: given.pop(n) for n in own}
    del arguments["print_config"], arguments["config"]
    return options.finish(name, given), arguments, "print_config" in said


def _method(tokens):
    """`(method, configuration in the file of --config or of the run to resume, or None, the rest)`."""
    name = tokens[0] if tokens and not tokens[0].startswith("-") else None
    rest = tokens[1:] if name else list(tokens)
    said, base, source = said_options(rest), None, None
    if name is not None:
        options.preset(name)
    if "config" in said:
        source = Path(said["config"])
    elif name is not None and said.get("resume", "false") in ("", "true"):
        config = {"method": name, "data": said.get("data", "digits"), "seed": said.get("seed", 0)}
        source = Path(said.get("out", options.default_folder(config))) / CONFIG
        if not source.exists():
            raise UserError(f"{source} does not exist: is {source.parent} a run folder?")
    if source is not None:
        base = options.read_config(source)
        if name not in (None, base["method"]):
            raise UserError(f"{source} is of the method {base['method']}, not of {name}")
        name = base["method"]
    if name is None:
        raise UserError("fit needs a method: pyro-vae fit gmvae; pyro-vae list names them all")
    return name, base, rest


def said_options(tokens):
    """`{option: its last value}` of command-line tokens; "" where a flag stands alone."""
    result = {}
    for i, token in enumerate(tokens):
        if token.startswith("--"):
            key, sign, value = token.partition("=")
            after = tokens[i + 1] if i + 1 < len(tokens) else "--"
            value = value if sign else "" if after.startswith("--") else after
            result[key[2:].replace("-", "_")] = value
    return result


def full_names(tokens, resolve):
    """The tokens, every option by the full name that `resolve` finds."""
    result = []
    for token in tokens:
        key, sign, value = token.partition("=")
        option = key[2:].replace("-", "_")
        if key.startswith("--") and option and not re.search(r"(^|\.)help$", option):
            token = f"--{resolve(option)}{sign}{value}"
        result.append(token)
    return result


def parse_command(tokens, commands, description, version):
    """`(command, its arguments)` of a command line without a method.

    Args:
        tokens: the command line.
        commands: `{name: function}`.
        description: of the program.
        version: what `--version` prints.
    """
    parser = Parser(prog="pyro-vae", description=description, version=version)
    added = parser.add_subcommands(required=True, dest="command")
    for name, function in commands.items():
        described = function.__doc__.split("\n\n")[0]
        sub = Parser(prog=f"pyro-vae {name}", description=described)
        if "config" in options.parameters(function):
            sub.usage = f"pyro-vae {name} METHOD [options]"
            sub.epilog = f"pyro-vae {name} METHOD --help lists a method's own options."
        several = {"runs"} & set(options.parameters(function))  # any number, none too
        if several:
            sub.add_argument("runs", type=Path, nargs="*", help="run folders, of the same data")
        sub.add_signature(function, as_positional=True, skip={*several, "config"})
        added.add_subcommand(name, sub, help=described)
    if tokens and tokens[0] in commands:
        known = options.parameters(commands[tokens[0]])
        kind = f"option of {tokens[0]}"

        def resolve(option):
            return (
                option if option in known else options.fail(unknown_name_error(kind, option, known))
            )

        tokens = full_names(tokens, resolve)
    given = parser.parse_args(tokens)
    return given.command, given[given.command].as_dict()
