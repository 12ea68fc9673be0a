"""The model/guide pair that a configuration describes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import conditionals
from ..conditionals import (
    MLP,
    ConstantCorrelationNormal,
    Conv,
    Flow,
    LowRankNormal,
    MixtureOfNormals,
    MultivariateNormal,
    Normal,
    ResidualMLP,
    likelihood,
)
from ..conditionals.count_start import CountStart
from ..conditionals.encoders import encoder_network
from ..conditionals.missing import ignore_missing
from ..conditionals.networks import is_image, network_between
from ..errors import UserError, unknown_name_error
from ..guides import Guide, PriorGuide, SemiAmortized
from ..models import FlowPrior, MixturePrior, StandardNormalPrior, VampPrior
from ..objectives import ELBO, IWAE, RWS, STL, DReG, Hybrid, Renyi, SemiSupervised
from ..programs.inspection import has_rows
from ..programs.interfaces import conditional_of
from ..train import (
    BaselineInitialization,
    MixtureInitialization,
    PseudoInputInitialization,
    StackInitialization,
)
from .table import METHODS

#: The classes that a choice can name.
CLASSES = {
    "network": (MLP, ResidualMLP, Conv),
    "family": (
        Normal,
        MultivariateNormal,
        ConstantCorrelationNormal,
        LowRankNormal,
        MixtureOfNormals,
        Flow,
    ),
    "prior": (StandardNormalPrior, MixturePrior, VampPrior, FlowPrior),
    "objective": (ELBO, STL, IWAE, DReG, Renyi, RWS, Hybrid, SemiSupervised),
    "initialize": (
        MixtureInitialization,
        PseudoInputInitialization,
        StackInitialization,
        BaselineInitialization,
    ),
    "likelihood": tuple(
        {type(f) for f in conditionals.likelihoods.LIKELIHOODS.values()}
        | {conditionals.Columns, conditionals.LibrarySize}
    ),
}
FLOWS = ("iaf", "maf", "spline", "coupling")
#: Guides by name, for comparisons: parents of every latent (None: the method's), settings.
GUIDES: dict[str, tuple[list[str] | None, dict[str, Any]]] = {
    "default": (None, {}),
    "constants": ([], {}),
    "per-datum": (["index"], {}),
    "semi-amortized": (None, {"refine.steps": 5}),
    "diagonal": (None, {"family": "Normal"}),
    "full": (None, {"family": "MultivariateNormal"}),
    "low-rank": (None, {"family": "LowRankNormal"}),
    "mixture": (None, {"family": "MixtureOfNormals"}),
    **{flow: (None, {"family": "Flow", "family.flow": flow}) for flow in FLOWS},
}


def class_named(group: str, name: str) -> type:
    """The class of a choice by its name; raises with the nearest name."""
    for kind in CLASSES[group]:
        if kind.__name__ == name:
            return kind
    own = GUIDES.get(name, (None, {}))[1] if group == "family" else {}
    if "family" in own:  # the name of a guide in comparisons
        flow = f" with flow={own['family.flow']}" if "family.flow" in own else ""
        raise UserError(
            f"unknown family {name!r}; the guide {name!r} has family={own['family']}{flow}"
        )
    raise unknown_name_error(group, name, [kind.__name__ for kind in CLASSES[group]])


def make(config: Mapping[str, Any], group: str, **more: Any) -> Any:
    """The object that a choice of the configuration describes; None if it names no class.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.methods.make(pv.methods.configure("vae"), "network")
        MLP(hidden=(500,), activation='relu')

    Args:
        config: a complete configuration.
        group: network, family, prior, objective or initialize.
        more: further arguments of the class.
    """
    if config.get(group) is None:
        return None
    own = {k.split(".", 1)[1]: v for k, v in config.items() if k.startswith(f"{group}.")}
    own = {n: part(v) for n, v in own.items()}
    return class_named(group, config[group])(**{**own, **more})


def part(value: Any) -> Any:
    """A value of the configuration as Python has it: classes made, lists as tuples."""
    if isinstance(value, dict) and "class_path" in value:
        kind = getattr(conditionals, value["class_path"].rsplit(".", 1)[-1])
        return kind(**{n: part(v) for n, v in (value.get("init_args") or {}).items()})
    if isinstance(value, str) and value in conditionals.__all__:
        return getattr(conditionals, value)()
    return tuple(value) if isinstance(value, list) else value


def build(
    config: Mapping[str, Any],
    x_shape: Sequence[int],
    num_data: int | None = None,
    c_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
) -> tuple[Any, Any]:
    """The pair `(model, guide)` of a configuration, with weights from torch's random stream.

    Example:
        >>> import torch, pyro_vae as pv
        >>> config = pv.methods.configure("vae", "digits", {"likelihood": "bernoulli"})
        >>> model, guide = pv.methods.build(config, (1, 8, 8))
        >>> type(model).__name__
        'VAE'

    Args:
        config: a complete configuration; see `configure`.
        x_shape, c_shape: event shapes of the data and, for conditional models, the covariates.
        num_data: training data, for guides with a row of parameters per data point.
        num_classes: of the data's labels. Default: 10.
    """
    method = METHODS[config["method"]]
    network = make(config, "network")
    if isinstance(network, Conv) and not is_image(x_shape):
        raise UserError(
            "a convolutional network needs data of shape (C, L), (C, H, W) or (C, D, H, W); "
            f"x is {list(x_shape)}"
        )
    options = {k.split(".", 1)[1]: part(v) for k, v in config.items() if k.startswith("model.")}
    options["likelihood"] = likelihood(options["likelihood"])
    if config.get("missing"):
        options["likelihood"] = ignore_missing(options["likelihood"])
    if "num_classes" in options:
        options["num_classes"] = options["num_classes"] or num_classes or 10
        num_classes = options["num_classes"]
    if c_shape is not None and "c" in method.model.observes:
        options["c_shape"] = tuple(c_shape)
        options["c_is_class"] |= config.get("condition") == "labels"
    prior = _prior(config, x_shape, c_shape, num_classes, network)
    if prior is not None:
        options["prior"] = prior
    model = method.model(tuple(x_shape), network=network, **options)
    return model, build_guide(config, model, x_shape, num_data)


def build_guide(
    config: Mapping[str, Any],
    model: Any,
    x_shape: Sequence[int],
    num_data: int | None = None,
    parents: Any = None,
) -> Any:
    """The guide of a configuration for its `model`.

    Args:
        config: a complete configuration.
        model: the model.
        x_shape: event shape of x.
        num_data: training data, for guides with parameters per data point.
        parents: `{latent: [parents]}`. Default: the method's.
    """
    method = METHODS[config["method"]]
    if parents is None:
        parents = model.default_guide if method.parents is None else method.parents
    if parents == "prior":
        return PriorGuide(model)
    family = {n: make(config, "family") for n in parents if n.startswith("z")}
    if not family and config.get("family") not in (None, "Normal"):
        raise UserError(
            f"{config['method']} has no guide of z whose family could be {config['family']}"
        )
    own = {k.split(".", 1)[1]: v for k, v in config.items() if k.startswith("guide.")}
    c_is_pixels = bool(config.get("quadrants"))
    guide: Any = Guide(
        model,
        given=parents,
        family=family,
        network=make(config, "network"),
        input_scaling=center_pixels(x_shape, parents, c_is_pixels, config["center"]),
        num_data=num_data if has_rows(parents) else None,
        **own,
    )
    if config.get("refine.steps"):
        if not parents:
            raise UserError(f"{config['method']} has no latent for refine.steps to move")
        refine = {k.split(".", 1)[1]: v for k, v in config.items() if k.startswith("refine.")}
        guide = SemiAmortized(model, guide, **refine)
    return guide


def center_pixels(
    x_shape: Sequence[int],
    parents: Mapping[str, Sequence[str]],
    c_is_pixels: bool = False,
    center: bool | None = None,
) -> dict[str, tuple[float, float]] | None:
    """The inputs that the encoder sees centered, as `Guide` takes them: pixels, in x and in c.

    Args:
        x_shape: event shape of x.
        parents: `{latent: [parents]}`.
        c_is_pixels: whether c is pixels too.
        center: whether the encoder sees 2x - 1 instead of x. Default: for images.
    """
    images = len(x_shape) == 3 or c_is_pixels
    if not (images if center is None else center):
        return {}
    pixels = ("x", "c") if c_is_pixels else ("x",)
    return {n: (0.5, 0.5) for n in pixels if any(n in p for p in parents.values())}


def _prior(
    config: Mapping[str, Any],
    x_shape: Sequence[int],
    c_shape: Sequence[int] | None,
    num_classes: int | None,
    network: Any,
) -> Any:
    """The module for a model's `prior=`; None for its default."""
    if config.get("prior") in (None, "StandardNormalPrior"):
        return None
    method = METHODS[config["method"]]
    latent = method.model.prior_latent
    options = {"z": "latent_dim", "z1": "latent_dim", "z2": "z2_dim", "w": "w_dim"}
    sizes = {n: config.get(f"model.{option}") for n, option in options.items()}
    if config["prior"] != "VampPrior":
        return make(config, "prior", size=sizes[latent])
    shapes: dict[str, Any] = {n: (s,) for n, s in sizes.items()}
    shapes |= {"x": tuple(x_shape), "c": c_shape, "y": (num_classes,)}
    guide = method.parents if isinstance(method.parents, dict) else method.model.default_guide
    parents = [p for p in guide.get(latent, ()) if p != "index"] or ["x"]
    own: dict[str, Any] = {}
    if config.get("prior.network") is None:
        between = network_between(network, *(shapes[p] for p in parents))
        family = likelihood(part(config["model.likelihood"]))
        own["network"] = encoder_network(family, {p: shapes[p] for p in parents}, between)
    if config.get("prior.family") is None:
        own["family"] = make(config, "family") if latent in ("z", "z2") else Normal()
    return make(config, "prior", given={p: shapes[p] for p in parents}, size=sizes[latent], **own)


@dataclass(frozen=True)
class ModelFactory:
    """A method's model, made anew by each call; for `compare`, whose processes it can go to.

    Example:
        >>> import pyro_vae as pv
        >>> config = pv.methods.configure("vae", "digits", {"likelihood": "binomial"})
        >>> factory = pv.methods.ModelFactory(config, ((1, 8, 8),))
        >>> type(factory()).__name__
        'VAE'
    """

    config: dict[str, Any]
    shapes: tuple[Any, ...]
    start: CountStart | None = None

    def __call__(self) -> Any:
        model, _ = build(self.config, *self.shapes)
        if self.start is not None:
            self.start.apply(conditional_of(model, "x"))
        return model


@dataclass(frozen=True)
class GuideFactory:
    """A guide for a method's model, by one of the names in `GUIDES`.

    Example:
        >>> import pyro_vae as pv
        >>> config = pv.methods.configure("vae", "digits", {"likelihood": "binomial"})
        >>> shapes = ((1, 8, 8),)
        >>> model = pv.methods.ModelFactory(config, shapes)()
        >>> pv.methods.GuideFactory(config, shapes, "constants")(model, num_data=100).given
        {'z': ()}
    """

    config: dict[str, Any]
    shapes: tuple[Any, ...]
    guide: str

    def __post_init__(self) -> None:
        if self.guide not in GUIDES:
            raise unknown_name_error("guide", self.guide, GUIDES)

    def __call__(self, model: Any, num_data: int) -> Any:
        parents, changes = GUIDES[self.guide]
        of_latents, name = None, self.config["method"]
        known = METHODS[name].parents
        if known == "prior" and self.guide != "default":
            raise UserError(f"{name}'s guide is the prior: it cannot be {self.guide}")
        if parents is not None:
            of_latents = {n: parents for n in (model.default_guide if known is None else known)}
        config = self.config
        if config.get("refine.steps"):  # the number that the configuration sets
            changes = {k: v for k, v in changes.items() if k != "refine.steps"}
        if "family" in changes:  # another family has its own defaults
            config = {k: v for k, v in config.items() if not k.startswith("family")}
        return build_guide({**config, **changes}, model, self.shapes[0], num_data, of_latents)
