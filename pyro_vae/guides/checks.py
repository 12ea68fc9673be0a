"""Checks of a declared guide: each raises an error of one line."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch

from ..conditionals import Conditional, Conv, OneHotCategorical
from ..conditionals.networks import NetworkLike, is_image
from ..errors import UserError, unknown_name_error
from ..programs.contexts import fork_rng
from ..programs.modules import device_of
from ..programs.sites import base_distribution, states_support

Shape = tuple[int, ...]
SUPPORT_DRAWS = 32  # of a family, to see whether they are values of the latent
DISCRETE = ("enumerate", "score_function", "relaxed")


def check_discrete(discrete: str) -> None:
    """`discrete` must be a treatment of discrete latents."""
    if discrete not in DISCRETE:
        raise unknown_name_error("treatment of discrete latents", discrete, DISCRETE)


def check_mapping(name: str, value: object, example: str) -> None:
    """An argument must be a dict."""
    if not isinstance(value, Mapping):
        raise UserError(f"{name} must be a dict such as {example}, not {value!r}")


def check_has_image(
    network: NetworkLike | None, given: Mapping[str, Sequence[str]], shapes: Mapping[str, Shape]
) -> None:
    """A `Conv` must have an image to convolve in at least one factor."""
    parents = {p: shapes[p] for ps in given.values() for p in ps if p != "index"}
    variables = [*parents.values(), *(shapes[latent] for latent in given)]
    if isinstance(network, Conv) and parents and not any(map(is_image, variables)):
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in parents.items())
        raise UserError(
            "Conv needs data of shape (C, L), (C, H, W) or (C, D, H, W), and the guide's parents "
            f"are {listed}: reshape the data or use MLP"
        )


def check_input_scaling(input_scaling: object, shapes: Mapping[str, Shape]) -> None:
    """`{parent: (mean, scale)}` must name data or latents, with a scaling that fits each."""
    if not isinstance(input_scaling, Mapping):
        check_mapping("input_scaling", input_scaling, "{'x': (0.5, 0.5)}")
        return
    for parent, scaling in input_scaling.items():
        if parent not in shapes or parent == "index":
            raise unknown_name_error(
                "parent in input_scaling", parent, sorted(set(shapes) - {"index"})
            )
        _check_scaling(parent, scaling, shapes[parent])


def _check_scaling(parent: str, scaling: object, shape: Shape) -> None:
    """`(mean, scale)` must be finite, the scale positive, both of a shape that fits the parent."""
    if not (isinstance(scaling, (tuple, list)) and len(scaling) == 2):
        raise UserError(f"input_scaling takes (mean, scale) for {parent!r}, not {scaling!r}")
    mean, scale = (torch.as_tensor(v) for v in scaling)
    for name, value in (("mean", mean), ("scale", scale)):
        try:
            fits = torch.broadcast_shapes(value.shape, shape) == shape
        except RuntimeError:
            fits = False
        if not fits:
            raise UserError(
                f"the {name} in input_scaling has shape {list(value.shape)}, "
                f"{parent!r} {list(shape)}"
            )
        if not torch.isfinite(value).all():
            raise UserError(f"the {name} of {parent!r} in input_scaling is not finite")
    if (scale <= 0).any():
        raise UserError(
            f"the scale of {parent!r} in input_scaling must be positive; use 1 for values that "
            "are constant, with a standard deviation of zero"
        )


def check_factor_kind(latent: str, factor: Conditional, is_discrete: bool) -> None:
    """The factor's distribution must be discrete if the latent is, and have its shape."""
    shape, family = factor.shape, factor.family
    if is_discrete and not shape and isinstance(family, OneHotCategorical):
        raise UserError(
            f"{latent!r} is discrete and no one-hot vector, which this guide's classes are: sample it "
            "from OneHotCategorical in the model, or write the guide as a Pyro program"
        )
    fn = _at_zero(factor)
    if tuple(fn.event_shape) != shape:
        raise UserError(
            f"{latent!r} has shape {list(shape)}, its family {family!r} {list(fn.event_shape)}"
        )
    if is_discrete != (fn.has_enumerate_support or bool(fn.support and fn.support.is_discrete)):
        if is_discrete:
            rule = "discrete: its family must be too, as OneHotCategorical() is"
        else:
            rule = "continuous: its family must be too, as Normal() is"
        raise UserError(f"{latent!r} is {rule}, not {family!r}")


def check_support(latent: str, factor: Conditional, prior: Any) -> None:
    """The factor's values must be values of the latent; a normal one of a positive latent is not.

    Args:
        prior: the latent's distribution in the model.
    """
    if not states_support(prior):
        return
    fn = _at_zero(factor)
    with torch.no_grad(), fork_rng(device_of(factor)):
        values = fn.sample((SUPPORT_DRAWS, *[1] * len(prior.batch_shape)))
    if not prior.support.check(values).all():
        name = type(base_distribution(prior, transforms=False)).__name__
        raise UserError(
            f"{latent!r} is {name} in the model, and the family {factor.family!r} has values outside of "
            "its support: write the guide as a Pyro program, or use PerDatumAutoGuide"
        )


def _at_zero(factor: Conditional) -> Any:
    """The distribution of a factor whose parameters are all zero."""
    device = device_of(factor)
    zeros = {name: torch.zeros(s, device=device) for name, s in factor.parameter_shapes.items()}
    with torch.no_grad(), pyro.validation_enabled(False):
        return factor.family(
            factor.shape, **zeros, **factor.unconditional_parameters, **factor.family_modules
        )


def check_factorization(
    given: Mapping[str, Sequence[str]],
    family: Mapping[str, object],
    data: Mapping[str, Shape],
    latents: Mapping[str, tuple[Shape, bool]],
    num_data: int | None,
) -> None:
    """Every latent must be known and have known parents that are sampled before it."""
    seen = set(data)
    for latent, parents in given.items():
        if latent not in latents:
            raise unknown_name_error("latent", latent, latents)
        for parent in parents:
            if parent not in seen:
                if parent in latents and parent in given:
                    raise UserError(
                        f"{latent!r} has the parent {parent!r}, which is sampled after it: "
                        "declare the latents in sampling order"
                    )
                if parent in latents:
                    raise UserError(
                        f"{latent!r} has the parent {parent!r}, which the guide leaves out (data that are "
                        "not called x are known by example=, a batch to run the model on)"
                    )
                raise unknown_name_error("parent", parent, [*data, *latents])
            if parent == "index" and num_data is None:
                raise UserError(
                    "the parent 'index' is a table with a row per data point: pass num_data="
                )
        seen.add(latent)
    for latent, (_, is_discrete) in latents.items():
        if latent not in given and not is_discrete:
            raise UserError(
                f"the guide leaves out {latent!r}, which is continuous: name its parents"
            )
    for latent in family:
        if latent not in given:
            raise unknown_name_error("latent in family", latent, given)
