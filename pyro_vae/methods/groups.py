"""The options of a method, in groups: the signatures of its model, guide, objective and training."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..conditionals import Family, Network
from ..conditionals.likelihoods import LIKELIHOODS
from ..data import DATASETS, load
from ..data.registry import FILE_KINDS
from ..guides import Guide, SemiAmortized
from ..models import Prior
from ..objectives import ELBO
from ..train import Initialization, fit
from .building import CLASSES, center_pixels, class_named
from .seeds import restart_seeds
from .signatures import parameters
from .sizes import epochs_for
from .table import preset

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

# Parameters that are not options: the caller, the data or another option determines them.
LOAD = frozenset({"name", "root"})
OF_COVARIATES = frozenset({"condition", "quadrants", "standardize_c", "covariates"})
MODEL = frozenset({"x_shape", "c_shape", "network", "prior"})
GUIDE = frozenset({"model", "given", "family", "network", "num_data", "input_scaling", "example"})
REFINE = frozenset({"model", "guide"})
CENTER = frozenset({"x_shape", "c_is_pixels", "parents"})
INITIALIZE = frozenset({"compile"})
PRIOR = frozenset({"size", "given", "loc", "scale", "options"})
RUN = frozenset({"device", "out", "resume", "progress", "callbacks"})
RESTARTS = frozenset({"seed"})
EPOCHS = frozenset({"num_train", "batch_size"})
FIT = RUN | {
    "model", "guide", "data", "valid", "objective", "optimizer", "initialize", "observed", "config",
    "epochs",
}  # fmt: skip

DATA_HELP = f"{', '.join(DATASETS)}, or {FILE_KINDS}."
#: Of options that a method fills in: what it does, and not the default of the signature.
METHOD_HELP = {
    "binarize": "whether gray values become draws of 0 and 1: none, static (drawn once) or dynamic "
    "(anew in every training batch). Default: what the likelihood and the data need.",
    "standardize": "center and scale every column of x by the training split. Default: true for a table "
    "with a normal likelihood.",
    "standardize_c": "center and scale every column of the covariates c that holds other numbers than 0 "
    "and 1. Default: true for covariates that come with the data, and are no images.",
    "drop": "columns of a table to leave out: --drop id name.",
    "covariates": "columns of a table, or of an AnnData object's obs, that are the covariates c, and no "
    "part of x: --covariates batch age.",
    "kinds": "what columns of a table are, where their values do not say it: --kinds zip=category "
    "year=real; of real, count, binary, boolean and category. A category of a CSV file is text, as it "
    "is written.",
    "model.likelihood": f"{', '.join(LIKELIHOODS)}, or a family. Default: what fits the data.",
    "model.latent_dim": "size of z. Default, of a table: half of its columns, at least 2, at most the preset's.",
    "model.num_classes": "number of classes, K. Default: that of the labels, or 10.",
    "refine.steps": "gradient steps per data point from the encoder's output, k; 0 for none.",
    "schedule": "of the learning rate over the run: constant, linear or cosine (both fall to 0).",
    "batch_size": "data per step, of all processes together; the last batch may be short.",
    "seed": "seed of the initial weights, of shuffling, binarization and sampling. Another --compile gives "
    "another result: rounding differs, and training amplifies it.",
    "max_time": "stop training after that many seconds, between two steps; --resume continues the run. "
    "Restarts have equal parts of the time. An initialization does not count. Default: no limit.",
    "prior.network": "of the encoder. Default: the guide's.",
    "prior.family": "of the components, or of the encoder. Default: Normal, or the guide's.",
}


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
    target: Callable[..., object]
    skip: frozenset[str] = frozenset()
    choice: bool = False
    title: str = ""

    @property
    def prefix(self) -> str:
        """What the names of its options begin with."""
        return f"{self.name}." if self.name else ""

    def options(self, class_name: str | None = None) -> dict[str, Any]:
        """`{parameter: default}` of its signature; of a choice, of the class that is named."""
        target = class_named(self.name, class_name) if class_name is not None else self.target
        return parameters(target, self.skip)


def is_conditional(name: str) -> bool:
    """Whether the method's model has covariates c."""
    return "c" in preset(name).model.observes


@functools.cache
def groups(name: str) -> tuple[Group, ...]:
    """The groups of options that a method has, in the order of `--help`."""
    entry = preset(name)
    model = entry.model
    has_guide = entry.parents != "prior" and bool(entry.parents or model.default_guide)
    load_skip = LOAD if is_conditional(name) else LOAD | OF_COVARIATES
    result = [
        Group("", load, load_skip, title="data"),
        Group("model", model, MODEL, title=f"model: {entry.model_name}"),
        Group("network", Network, choice=True, title="network, of model and guide"),
    ]
    if "prior" in parameters(model):
        result.append(Group("prior", Prior, PRIOR, choice=True, title="prior"))
    if has_guide:
        title = f"guide: {entry.guide}"
        result += [
            Group("guide", Guide, GUIDE, title=title),
            Group("family", Family, choice=True, title=title),
            Group("refine", SemiAmortized, REFINE, title=title),
        ]
    result += [
        Group("", center_pixels, CENTER, title="network, of model and guide"),
        Group("objective", ELBO, choice=True, title="objective"),
        Group("initialize", Initialization, INITIALIZE, choice=True, title="initialization"),
        Group("", epochs_for, EPOCHS, title="training"),
        Group("", fit, FIT, title="training"),
        Group("", restart_seeds, RESTARTS, title="training"),
    ]
    return tuple(result)


@functools.cache
def choice_groups(name: str) -> dict[str, Group]:
    """`{name: group}` of the groups whose class is an option."""
    return {group.name: group for group in groups(name) if group.choice}


def accepted(name: str, classes: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """`{option: its default}` that a method has.

    Example:
        >>> import torch, pyro_vae as pv
        >>> "objective.num_particles" in pv.methods.accepted("vae", {"objective": "IWAE"})
        True

    Args:
        name: the method.
        classes: `{group: class name or None}` of the choices. Default: no class.
    """
    result: dict[str, Any] = {"data": "digits"}
    for group in groups(name):
        class_name = (classes or {}).get(group.name)
        if group.choice:
            result[group.name] = class_name
        if not group.choice or class_name is not None:
            options = group.options(class_name if group.choice else None)
            result |= {group.prefix + n: default for n, default in options.items()}
    return result


def add_options(
    name: str,
    parser: "ArgumentParser",
    classes: Mapping[str, str | None],
    config: Mapping[str, Any] | None = None,
) -> "ArgumentParser":
    """Add the method's options to a jsonargparse parser, in groups; returns the parser.

    Args:
        name: the method.
        parser: the parser.
        classes: `{group: class name or None}` of the choices.
        config: the configuration whose values `--help` shows.
    """
    sections: dict[str, Any] = {}
    for group in groups(name):
        if group.title not in sections:
            sections[group.title] = parser.add_argument_group(group.title)
        section, skip = sections[group.title], set(group.skip)
        options = {"skip": skip, "fail_untyped": False, "as_group": False}
        if group.target is load:
            section.add_argument("--data", type=str | None, default="digits", help=DATA_HELP)
        if group.choice:
            section.add_subclass_arguments(
                group.target, group.name, skip=skip, as_group=False, required=False,
                metavar="CLASS", help=_choice_help(group, classes[group.name], config),
            )  # fmt: skip
        elif group.name:
            section.add_class_arguments(group.target, group.name, instantiate=False, **options)
        else:
            section.add_function_arguments(group.target, **options)
    return parser


def _choice_help(group: Group, class_name: str | None, config: Mapping[str, Any] | None) -> str:
    """The help of a choice: the classes, the default one, and the values of its options."""
    names = ", ".join(kind.__name__ for kind in CLASSES[group.name])
    text = (
        f"one of {names}; --{group.name}.help CLASS describes one. Default: {class_name or 'none'}"
    )
    if class_name is None or config is None:
        return text
    values = (
        f"--{group.prefix}{n} {json.dumps(config[group.prefix + n])}"
        for n in group.options(class_name)
    )
    return " ".join([text, *values]).replace('"', "")
