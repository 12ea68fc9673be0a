"""The parser of the command line and of configurations. This module does not import torch."""

import json
import re
import sys
import warnings
from argparse import Action, HelpFormatter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse

from ..errors import UserError, unknown_name_error
from .signatures import parameters

#: Options of several words: columns, and COLUMN=KIND.
LISTS, PAIRS = frozenset({"drop", "covariates"}), frozenset({"kinds"})


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Within, a warning is one line of standard error, without the source line that raised it."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(
            f"pyro-vae: warning: {' '.join(str(message).split())}", file=sys.stderr
        )
        yield


def plain_math(text: str) -> str:
    """Formulas of docstrings without their markup: `:math:`\\eta`` as eta."""

    def plain(formula: re.Match[str]) -> str:
        words = formula.group(1).replace(r"\top", "T").replace(r"\mathrm", "")
        return re.sub(r"[\\{}]", "", words)

    return re.sub(r":math:`([^`]*)`", plain, text)


#: What jsonargparse and docstrings of Python write in another way.
HELP_WORDS = {
    r"<class '([\w.]+)'>": r"\1",
    r"Optional\[dict\[.*?\]\]": "dict",
    r"Optional\[list\[str\]\]": "list | null",
    r"dict\[str, \w+\]": "dict",
    r" \| Callable\[\[float\], float\]": "",
    r",? ?default: null(?=\))": "",
    r" \(\)$": "",
    r"\bTrue\b": "true",
    r"\bFalse\b": "false",
    r"\bNone\b": "null",
}


class Formatter(jsonargparse.DefaultHelpFormatter):
    """Help as the command line has it: true, false and null, and one default per option."""

    def _expand_help(self, action: Action) -> str:
        text = super()._expand_help(action)
        text = re.sub(r"\s+\(type: Optional\[.*?known subclasses:[^)]*\)", "", text)
        text = re.sub(r", known subclasses:[^)]*\)", ")", text)
        for pattern, plain in HELP_WORDS.items():
            text = re.sub(pattern, plain, text)
        if isinstance(action.default, tuple):
            text = text.replace(f"default: {action.default}", f"default: {list(action.default)}")
        if re.search(r"[ (]default: \S", text):  # of a preset, in place of the signature's
            text = re.sub(r" ?\bDefault: .*?\.(?= |$)", "", text)
        return plain_math(text)


class Parser(jsonargparse.ArgumentParser):
    """A parser whose errors are `UserError`s of one line, and whose help shows dashes in flags."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=Formatter, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = one_line(str(message if ex is None else ex))
        missing = re.fullmatch(r"the following arguments are required: (\w+)\.(\w+)", line)
        if missing:
            command, argument = missing.groups()
            line = f"{command} needs a {argument}: pyro-vae {command} {argument.upper()}"
        alone = re.fullmatch(r"[Uu]nrecognized arguments: ([^-\s]\S*)", line)
        if alone and any(action.dest == "data" for action in self._actions):
            line = f"{alone[1]!r} belongs to no option: data are named by --data {alone[1]}"
        raise UserError(line)

    def format_help(self, formatter: HelpFormatter | None = None) -> str:
        text = plain_math(super().format_help(formatter)).replace("`", "")
        return re.sub(r"--[\w.]+", lambda flag: flag.group().replace("_", "-"), text)

    def set_help(self, texts: Mapping[str, str]) -> None:
        """Replace the help of options, `{option: text}`; `SUPPRESS` leaves one out."""
        for action in self._actions:
            action.help = texts.get(action.dest, action.help)

    def show_words(self) -> None:
        """Show options of several words in the help as `join_words` reads them: `--drop COLUMN ...`."""
        for action in self._actions:
            if action.dest in LISTS | PAIRS:
                action.metavar = "COLUMN ..." if action.dest in LISTS else "COLUMN=KIND ..."
                action.option_strings = [f"--{action.dest}"]  # and not jsonargparse's `--drop+`

    def add_signature(self, function: Callable[..., object], **options: Any) -> None:
        """Add the function's parameters as arguments; `--flag` alone means `--flag true`."""
        self.add_function_arguments(function, as_group=False, **options)
        for action in self._actions:
            if isinstance(action.default, bool) and action.dest != "help" and action.nargs is None:
                action.nargs, action.const = "?", True


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text; every column is as wide as its longest entry."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def parse_command(
    tokens: Sequence[str],
    commands: Mapping[str, Callable[..., int]],
    description: str | None,
    version: str,
) -> tuple[str, dict[str, Any]]:
    """The command and its arguments on a command line that names no method.

    Args:
        tokens: the command line.
        commands: `{name: function}`.
        description: of the program.
        version: what `--version` prints.
    """
    parser = Parser(prog="pyro-vae", description=description, version=version)
    subcommands = parser.add_subcommands(required=True, dest="command")
    for name, function in commands.items():
        help_line = (function.__doc__ or "").split("\n\n")[0]
        subparser = Parser(prog=f"pyro-vae {name}", description=help_line)
        if "config" in parameters(function):
            subparser.usage = f"pyro-vae {name} METHOD [options]"
            subparser.epilog = f"pyro-vae {name} METHOD --help lists the options of one method."
        several = {"runs"} & set(parameters(function))  # any number of them, also none
        if several:
            subparser.add_argument(
                "runs", type=Path, nargs="*", help="run folders, of the same data"
            )
        subparser.add_signature(function, as_positional=True, skip={*several, "config"})
        subcommands.add_subcommand(name, subparser, help=help_line)
    if tokens and tokens[0] in commands:
        tokens = full_names(tokens, _option_of(tokens[0], parameters(commands[tokens[0]])))
    arguments = parser.parse_args(tokens)
    return arguments.command, arguments[arguments.command].as_dict()


def _option_of(command: str, known: Collection[str]) -> Callable[[str], str]:
    def resolve(option: str) -> str:
        if option not in known:
            error = unknown_name_error(f"option of {command}", option, known)
            if "settings" in known:
                error = UserError(f"{error} (options of fit: {SETTINGS_EXAMPLE})")
            raise error
        return option

    return resolve


def option_values(tokens: Sequence[str]) -> dict[str, str]:
    """`{option: its last value}` of command-line tokens; "" for a flag that stands alone."""
    result = {}
    for i, token in enumerate(tokens):
        if token.startswith("--"):
            key, sign, value = token.partition("=")
            after = tokens[i + 1] if i + 1 < len(tokens) else "--"
            value = value if sign else "" if after.startswith("--") else after
            result[key[2:].replace("-", "_")] = value
    return result


def join_words(tokens: Sequence[str]) -> list[str]:
    """The tokens, several words of one option as one: `--drop a b` as `--drop=["a", "b"]`.

    Words of an option that is repeated are joined, too. A value that is written as a list or dict,
    or null, is unchanged.

    Raises:
        UserError: no words, or one that is no COLUMN=KIND, of an option that takes such pairs; a column
            of two kinds.
    """
    result: list[str] = []
    all_words: dict[str, list[str]] = {}
    rest = list(tokens)
    while rest:
        key, sign, value = rest.pop(0).partition("=")
        option = key[2:].replace("-", "_")
        if not key.startswith("--") or option not in LISTS | PAIRS:
            result.append(key + sign + value)
            continue
        words = [value] if sign else []
        while rest and not rest[0].startswith("--"):
            words.append(rest.pop(0))
        if not words:
            example = "id name" if option in LISTS else "zip=category"
            raise UserError(f"{option} needs columns of a table, such as {key} {example}")
        if len(words) == 1 and _is_written_out(words[0]):
            result += [key, *words]
            continue
        all_words.setdefault(option, []).extend(words)
    for option, words in all_words.items():
        joined = words if option in LISTS else _pairs(option, words)
        result.append(f"--{option}={json.dumps(joined, ensure_ascii=False)}")
    return result


def _is_written_out(word: str) -> bool:
    """Whether a word is a whole list or dict, or null."""
    return re.match(r"[\[{]|null$", word) is not None


def split_words(option: str, value: Any) -> list[str]:
    """The words after a flag that `join_words` reads as this value of the option."""
    if isinstance(value, str):
        return [value]
    words: list[str] = []
    if option in LISTS and isinstance(value, list):
        words = list(value)
    if option in PAIRS and isinstance(value, dict):
        words = [f"{key}={each}" for key, each in value.items()]
    is_clear = words and not (len(words) == 1 and _is_written_out(words[0]))
    return words if is_clear and not any(w.startswith("--") for w in words) else [json.dumps(value)]


def _pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    """`{column: kind}` of words COLUMN=KIND."""
    pairs: dict[str, str] = {}
    for word in words:
        key, sign, value = word.rpartition("=")
        if not sign:
            raise UserError(f"{option} takes COLUMN=KIND, such as zip=category, not {word!r}")
        if pairs.setdefault(key, value) != value:
            raise UserError(f"{option} has {key!r} twice, as {pairs[key]} and as {value}")
    return pairs


def full_names(tokens: Sequence[str], resolve: Callable[[str], str]) -> list[str]:
    """The tokens, every option replaced by the full name that `resolve` returns.

    An option may be repeated, by its full name and by a short one: its last value holds.
    """
    result = []
    for token in tokens:
        key, sign, value = token.partition("=")
        option = key[2:].replace("-", "_")
        if key.startswith("--") and option and not re.search(r"(^|\.)help$", option):
            token = f"--{resolve(option)}{sign}{value}"
        result.append(token)
    return result


SETTINGS_EXAMPLE = """--settings '{"latent_dim": 2}'"""
TYPE_NAMES = {
    "int": "an integer",
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
    problem = re.search(r"^( *)- Problem with given class_path .*\n((?:\1 +.*\n?)+)", message, re.M)
    if keys and problem:  # of an option of the object that this option describes
        return f"{keys[0]}.{one_line(problem.group(2))}"
    nested = re.search(r"NestedArg\(key='(.*?)', val=(.*)\)", message)
    value = nested.group(2) if nested else None
    if value is None and (plain := re.search(r"(?:Given|Got) value: (.*)", message)):
        value = plain.group(1)
    if not keys or value is None:
        return " ".join(line.strip() for line in message.splitlines() if line.strip())[:300]
    expected = re.findall(r"Expected an? <class '(?:\w+\.)*(\w+)'>", message)
    if nested:
        expected = [kind for kind in expected if kind != "NoneType"] or ["another type"]
    name = f"{keys[0]}.{nested.group(1)}" if nested else keys[0]
    stated = re.search(r"must be (.*), got ", message)
    if name == "settings":
        return f"settings must be a dict of options of fit, {SETTINGS_EXAMPLE}, got {value}"
    kinds = " or ".join(TYPE_NAMES.get(kind, kind) for kind in dict.fromkeys(expected))
    return f"{name} must be {stated.group(1) if stated else kinds}, got {value}"
