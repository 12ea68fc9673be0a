"""Docstrings as Sphinx reads them.

The package's docstrings are plain text with single backticks around code. This makes
reStructuredText of them: code becomes literal or a link to the reference, an indented block after a
paragraph becomes literal, and an arXiv number becomes a link.
"""

import importlib
import inspect
import pkgutil
import re
from functools import cache

import numpy.typing as npt
from sphinx import addnodes
from sphinx.util.typing import stringify_annotation

import pyro_vae

SECTION = re.compile(
    r"(Args|Attributes|Example|Examples|Note|Raises|Reference|References|Returns|Yields):$"
)
#: Inline markup, read from left to right; plain backticks are code, and may span two lines.
MARKUP = re.compile(r"(``.+?``|:[\w:]+:`[^`]+`|`[^`]+`__?|`[^`]+`)", re.S)
ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
NAME = re.compile(r"(?:pv\.)?(\w+(?:\.\w+)*)(?:\(\))?$")
COLON = "\ue000"  # stands for a colon while napoleon reads
EMPHASIS = re.compile(r"((?<!\S)\*\w[^*\n]*\w\*(?!\w))")
STAR = re.compile(r"\*(?!\s)|(?<=\S)\*")
ENUMERATOR = re.compile(r"(: |^\s*)([A-Z])\.$", re.M)  # "num_components: K." is no list


@cache
def public_names() -> dict[str, list[str]]:
    """`{name: [full names]}` of all that the reference describes, by every dotted suffix."""
    names: dict[str, list[str]] = {}
    for module in public_modules():
        for name in module.__all__:
            parts = [*module.__name__.split("."), name]
            for start in range(1, len(parts)):
                names.setdefault(".".join(parts[start:]), []).append(".".join(parts))
    return names


@cache
def public_modules() -> list:
    """The package and those of its modules that declare public names."""
    names = [m.name for m in pkgutil.iter_modules(pyro_vae.__path__) if m.name != "__main__"]
    modules = [pyro_vae, *(importlib.import_module(f"pyro_vae.{name}") for name in names)]
    return [module for module in modules if hasattr(module, "__all__")]


def code(text: str, where: str) -> str:
    """Code as a link if it names something public, preferably of the package of `where`."""
    text = re.sub(r"\s*\n\s*", " ", text)
    match = NAME.match(text)
    candidates = public_names().get(match[1], []) if match else []
    if not candidates or is_module(match[1]):
        return f"``{text}``"
    package = ".".join(where.split(".")[:2]) + "."
    near = [name for name in candidates if name.startswith(package)]
    return f":py:obj:`{text} <{(near or candidates)[0]}>`"


def is_module(name: str) -> bool:
    """Whether a name is a module's, such as `data`: as a word it is an argument."""
    return any(module.__name__.endswith(f".{name}") for module in public_modules())


def prose(text: str) -> str:
    """Text outside of markup: arXiv numbers linked, other signs of markup escaped."""
    parts = EMPHASIS.split(ENUMERATOR.sub(r"\1\2\\.", text))
    for i in range(0, len(parts), 2):
        escaped = STAR.sub(r"\*", parts[i].replace("|", r"\|"))
        parts[i] = ARXIV.sub(r"`arXiv \1 <https://arxiv.org/abs/\1>`__", escaped)
    return "".join(parts)


def convert_paragraph(lines: list[str], where: str) -> list[str]:
    """Consecutive lines of prose as reStructuredText."""
    parts = MARKUP.split("\n".join(lines))
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = prose(part)
        elif re.fullmatch(r"`[^`]+`", part):
            after = parts[i + 1][:1]
            parts[i] = code(part[1:-1], where) + ("\\ " if after.isalnum() else "")
    return "".join(parts).split("\n")


def convert(lines: list[str], where: str) -> list[str]:
    """The lines of a docstring as reStructuredText."""
    result: list[str] = []
    paragraph: list[str] = []
    block = None  # indentation of what opened the literal block, directive or example we are in
    previous = ""  # the last line that is not empty

    def flush():
        result.extend(convert_paragraph(paragraph, where) if paragraph else [])
        paragraph.clear()

    for line in [*lines, ""]:
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            flush()
            result.append(line)
            if previous.lstrip().startswith((">>>", "...")) or block == -1:
                block = None  # an example ends with an empty line
            continue
        after_gap = bool(result) and not paragraph and not result[-1].strip()
        if block is not None and indent > block:
            result.append(line)
        elif line.lstrip().startswith(">>>"):
            flush()
            result.append(line)
            block = -1
        elif line.lstrip().startswith(".. "):
            flush()
            result.append(line)
            block = indent
        elif after_gap and indent > indent_of(previous) and is_prose(previous):
            result.extend([" " * indent_of(previous) + ".. code-block:: text", "", line])
            block = indent_of(previous)
        else:
            block = None
            paragraph.append(line)
        previous = line if block is None or indent <= block else previous
    return result


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def is_prose(line: str) -> bool:
    """Whether an indented block below the line is code: not below a section or a list item."""
    text = line.strip()
    return bool(text) and not SECTION.match(text) and not text.startswith(("* ", "- ", ".. "))


def process_docstring(app, what, name, obj, options, lines):
    lines[:] = convert(lines, name)
    if what in ("attribute", "data", "property"):  # napoleon takes what is before a colon as a type
        lines[:] = [line.replace(": ", f"{COLON} ") for line in lines]


def restore_colons(app, what, name, obj, options, lines):
    lines[:] = [line.replace(COLON, ":") for line in lines]


def process_signature(app, what, name, obj, options, signature, return_annotation):
    """The signature of `__init__`, where a metaclass hides it."""
    if what == "class" and signature == "(*args, **kwargs)" and "__init__" in vars(obj):
        parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
        plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
        return str(inspect.Signature(plain)), return_annotation
    return None


def shorten_array_types(app, *event):
    """`ArrayLike` in annotations, which numpy spells out as a union of its private types."""
    union = stringify_annotation(npt.ArrayLike, "smart")
    for annotations in app.env.current_document.autodoc_annotations.values():
        for name, annotation in annotations.items():
            annotations[name] = annotation.replace(union, "~numpy.typing.ArrayLike")


def complete_names(app, doctree):
    """Names of the package's top level, as annotations have them, in full."""
    for node in doctree.findall(addnodes.pending_xref):
        if node.get("refdomain") == "py" and node.get("reftarget") in pyro_vae.__all__:
            node["reftarget"] = f"pyro_vae.{node['reftarget']}"


def resolve_internal(app, env, node, contnode):
    """Where a name is not described under its module's path: its public name, or no link."""
    target = node.get("reftarget", "")
    public = public_path(target)
    if public is None:
        return None  # unknown: a warning
    if not public:
        return contnode
    domain = env.get_domain("py")
    return (
        domain.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, contnode)
        or contnode
    )


@cache
def public_path(target: str) -> str | None:
    """The public name of what the package has at a dotted path: "" if it is internal."""
    module_name, _, name = target.rpartition(".")
    if not module_name.startswith("pyro_vae"):
        return None
    try:
        value = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError):
        return None
    for module in public_modules():
        for public in module.__all__:
            if getattr(module, public) is value and public == name:
                return f"{module.__name__}.{public}"
    return ""


def skip_inherited(app, what, name, member, skip, options):
    """Leave out what scikit-learn adds to every estimator, whose docstrings refer to its own site."""
    foreign = re.fullmatch(
        r"set_\w+_request|get_metadata_routing|set_output|(get|set)_params", name
    )
    return True if foreign else None


def setup(app):
    app.connect("autodoc-skip-member", skip_inherited)
    app.connect("autodoc-process-docstring", process_docstring, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", restore_colons, priority=900)  # and after it
    app.connect("autodoc-process-signature", process_signature)
    app.connect("object-description-transform", shorten_array_types, priority=400)
    app.connect("doctree-read", complete_names)
    app.connect("missing-reference", resolve_internal)
    return {"parallel_read_safe": True}
