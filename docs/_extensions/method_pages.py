"""The parts of a method's page that the library knows: pair, story, settings, reference.

Directives: `method-list` (a table of the methods named, with links to their pages), `method-facts`
(the pair, the paper, the call), `method-story` (the generative story, from the model's docstring) and
`method-settings` (the preset, for each kind of data).
"""

import inspect
import re
from importlib import import_module

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

import pyro_vae as pv

METHODS = pv.methods.METHODS
table = import_module("pyro_vae.methods.table")
KINDS = {"digits": "digits", "images": "28 × 28 images", "table": "tables and counts"}
ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")


class MethodList(SphinxDirective):
    """A table of the methods named, whose pages are in this folder."""

    required_arguments = 1
    optional_arguments = 100

    def run(self) -> list[nodes.Node]:
        rows = [["method", "model", "guide: latent ← parents", "source"], ["---"] * 4]
        for name in self.arguments:
            preset = preset_of(self, name)
            model, guide = reference("models", preset.model.__name__), arrows(preset.guide)
            rows.append([f"[`{name}`]({name}.md)", model, guide, with_links(preset.paper)])
        return self.parse_text_to_nodes("\n".join(f"| {' | '.join(row)} |" for row in rows))


class MethodDirective(SphinxDirective):
    """A directive whose one argument is the name of a method and whose result is Markdown."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        return self.parse_text_to_nodes(self.markdown(name, preset_of(self, name)))

    def markdown(self, name: str, preset: pv.methods.Preset) -> str:
        raise NotImplementedError


class MethodFacts(MethodDirective):
    """Model, guide, objective, initialization, paper, and the call."""

    def markdown(self, name, preset):
        settings = pv.methods.defaults(name)
        rows = [
            ("model", reference("models", preset.model.__name__)),
            ("guide: latent ← parents", arrows(preset.guide)),
            ("in Python", f"`pv.method({name!r}, data)`, or `pv.methods.{function(name)}(data)`"),
            ("on the command line", f"`pyro-vae fit {name}`"),
            ("objective", reference("objectives", settings["objective"])),
        ]
        if settings.get("prior"):
            rows.append(("prior", reference("models", settings["prior"])))
        if settings.get("initialize"):
            rows.append(("initialization", reference("train", settings["initialize"])))
        rows.append(("source", with_links(preset.paper)))
        items = [f"* - {left}\n  - {right}" for left, right in rows]
        return "\n".join(["```{list-table}", *items, "```"])


class MethodStory(MethodDirective):
    """The generative story, as in the docstring of the model."""

    def markdown(self, name, preset):
        lines = inspect.getdoc(preset.model).splitlines()
        story = []
        for line in lines:
            if line.startswith("    "):
                story.append(line[4:].replace("`", ""))
            elif story and line.strip():
                break
        if not story:
            raise self.error(f"{preset.model.__name__} has no story in its docstring")
        return "\n".join(["```text", *story, "```"])


class MethodSettings(MethodDirective):
    """What the preset sets, for each kind of data; and the function's place in the reference."""

    def markdown(self, name, preset):
        by_kind = {kind: pv.methods.defaults(name, kind) for kind in KINDS}
        shown = [option for option in by_kind["digits"] if is_notable(option, preset, by_kind)]
        columns: dict[tuple, list[str]] = {}  # {values: kinds of data that have them}
        for kind, settings in by_kind.items():
            columns.setdefault(tuple(cell(settings, o) for o in shown), []).append(KINDS[kind])
        rows = [["option", *(", ".join(kinds) for kinds in columns.values())]]
        rows.append(["---"] * len(rows[0]))
        rows += [[f"`{o}`", *row] for o, *row in zip(shown, *columns, strict=True)]
        lines = [f"| {' | '.join(row)} |" for row in rows]
        return "\n".join(
            [
                *lines,
                "",
                f"`pyro-vae fit {name} --help` lists every option; what is not in the table has its"
                " general default. The settings are the same in Python, on the command line and in"
                " a comparison.",
                "",
                f"```{{eval-rst}}\n.. autofunction:: pyro_vae.methods.{function(name)}\n```",
            ]
        )


def is_notable(option: str, preset: pv.methods.Preset, by_kind: dict[str, dict]) -> bool:
    """Whether the preset, or the kind of data, sets the option to more than its default."""
    layers = [table.DEFAULTS, table.DIGITS, table.TABLE, table.IMAGES]
    layers += [preset.settings, preset.digits, preset.images]
    values = [settings.get(option) for settings in by_kind.values()]
    is_set = any(option in layer for layer in layers)
    return is_set and any(value != table.DEFAULTS.get(option) for value in values)


def cell(settings: dict, option: str) -> str:
    value = settings.get(option)
    if isinstance(value, list | dict):
        return f"`{value}`"
    if option == "epochs" and value is None:  # see `methods.sizes.epochs_for`
        return "at least 200, and 2,000 steps"
    if option == "model.latent_dim" and value is None:  # see `methods.sizes.latent_dim_for`
        return "half of the columns, at least 2, at most that of the preset"
    return "" if value is None else str(value)


def preset_of(directive: SphinxDirective, name: str) -> pv.methods.Preset:
    if name not in METHODS:
        raise directive.error(f"unknown method {name!r}")
    return METHODS[name]


def arrows(guide: str) -> str:
    return guide.replace("<-", "←")


def function(name: str) -> str:
    return name.replace("-", "_")


def reference(package: str, name: str) -> str:
    return f"{{py:obj}}`{name} <pyro_vae.{package}.{name}>`"


def with_links(paper: str) -> str:
    return ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", paper)


def setup(app):
    app.add_directive("method-list", MethodList)
    app.add_directive("method-facts", MethodFacts)
    app.add_directive("method-story", MethodStory)
    app.add_directive("method-settings", MethodSettings)
    return {"parallel_read_safe": True}
