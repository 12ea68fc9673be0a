"""The page of one pair: its latent plane, the data points in it, and what any place decodes to."""

from pathlib import Path
from typing import Any

import torch

from .. import evaluate
from ..data import Data
from ..data.display import shown_columns
from ..errors import UserError, check_int_at_least
from ..evaluate.inputs import PyroProgram
from ..evaluate.latents import variance_over_data
from ..generate import sample
from ..models import prior_of
from ..programs.calling import name_of
from ..programs.contexts import seeded
from ..programs.modules import device_of
from ..report.context import PairContext
from .decoding import LatentSpace
from .densities import Window, described, plane_density, smoothed_density
from .page import plotly_script, write_page
from .payload import JsonValue, as_bytes, described_columns, pack

DRAWS = 20_000  # of the prior and of the aggregate posterior
DRAWS_OF_A_CLASS = 4000  # of the prior given each class
MOST_IMAGE_BYTES = 1_000_000  # of the data points that are shown
NINETY_PERCENT = 2.145966  # radius that contains 90 % of a standard normal in the plane
CURVE_POINTS = 61

Axes = tuple[int, int]


def explore_pair(
    model: PyroProgram,
    guide: PyroProgram,
    data: Data,
    path: Path | str,
    *,
    split: str = "test",
    title: str | None = None,
    subtitle: str = "",
    num_data: int = 2000,
    supervised: bool = False,
    seed: int = 0,
) -> Path:
    """Write a page on which the latent space of a pair can be explored; it works offline.

    The page shows the two most active units of the latents that x depends on. A click or a drag
    decodes a place; sliders set the other units, which start at 0. A fully connected decoder with a
    likelihood of one kind is evaluated in the browser, exactly. Any other decoder is evaluated here
    on a grid of the plane, and the page interpolates between its places and says so, with the reason.
    The columns of a table are shown by their names and on one scale: in standard deviations from the
    mean of the training split, unless all are counts or all are between 0 and 1.

    Args:
        model: the generative program.
        guide: the guide of the model.
        data: the data that the pair was trained on.
        path: of the page.
        split: train, valid or test: whose data points are shown.
        title, subtitle: of the page. Default: the classes of the pair and the data.
        num_data: how many data points, from the first; of large images fewer, up to a megabyte.
        supervised: whether y is a class of which training saw labels, not a component.
        seed: of all draws.

    Returns:
        The path.

    Raises:
        UserError: Plotly is not installed; x depends on fewer than two continuous latent numbers,
            or has no mean.

    Example:
        >>> import tempfile, torch, pyro_vae as pv
        >>> from pyro_vae.exploration import explore_pair
        >>> model = pv.models.VAE((2,), 2, "normal", pv.conditionals.MLP((4,)))
        >>> guide = pv.guides.Guide(model, network=pv.conditionals.MLP((4,)))
        >>> data, folder = pv.data.from_arrays(torch.randn(40, 2)), tempfile.mkdtemp()
        >>> explore_pair(model, guide, data, folder + "/explore.html").name  # doctest: +SKIP
        'explore.html'
    """
    plotly_script()  # before the work, not after it
    check_int_at_least(1, num_data=num_data)
    context = shown_context(model, guide, data, split, num_data, supervised, seed)
    payload, note = pair_payload(context, LatentSpace(context), seed)
    names = [name_of(program) for program in (model, guide)]
    if title is None:
        title, subtitle = f"{names[0]} on {data.name}", subtitle or f"Guide: {names[1]}."
    path = Path(path)
    write_page(path, title, subtitle, "pair", payload, note)
    return path


def shown_context(
    model: PyroProgram,
    guide: PyroProgram,
    data: Data,
    split: str = "test",
    num_data: int = 2000,
    supervised: bool = False,
    seed: int = 0,
) -> PairContext:
    """The pair and the first data points of the split."""
    most = max(1, MOST_IMAGE_BYTES // data.train.x[0].numel())
    return PairContext(model, guide, data, split, seed, supervised, min(num_data, most))


def pair_payload(
    context: PairContext, space: LatentSpace, seed: int = 0
) -> tuple[dict[str, JsonValue], str]:
    """The data of the page, and the sentences below it."""
    order = variance_over_data(space.codes).argsort(descending=True, stable=True).tolist()
    first, second = sorted(order[:2])
    axes = (first, second)
    c = context.others.get("c")
    prior_draws = _prior_draws(context, space, axes, None, seed)
    posterior_draws = _posterior_draws(context, space, axes, seed)
    window = Window.around(space.codes[:, list(axes)], posterior_draws, prior_draws)
    priors, is_exact = _priors(context, space, axes, window, prior_draws, seed)
    x = space.shown(context.x, c)
    others: dict[str, Any] = context.others
    reconstructions = evaluate.reconstruct(context.model, context.guide, context.x, **others)
    reconstructions = space.shown(reconstructions, c)
    if context.is_image:
        x, reconstructions = (as_bytes(v, space.white) for v in (x, reconstructions))
    clusters, decoder = context.clusters, space.described(window, axes)
    ellipses = _ellipses(context, space, axes)
    names = context.label_names
    payload: dict[str, JsonValue] = {
        "units": space.names,
        "order": order,
        "axes": list(axes),
        "reach": max(3.0, round(float(space.codes.abs().max()) + 0.5)),
        "codes": pack(space.codes),
        "x": pack(x),
        "reconstructions": pack(reconstructions),
        "shape": _image_shape(context),
        "white": space.white,
        "labels": None if context.y is None else context.y.tolist(),
        "components": None if clusters is None else clusters.tolist(),
        "group": context.group,
        "names": {"labels": names, "components": names if context.has_some_labels else None},
        "columns": None if context.is_image else described_columns(shown_columns(context.data)),
        "condition": None if space.conditions is None else space.conditions.described(),
        "window": window.described(),
        "prior": [described(density) for density in priors],
        "aggregate": described(smoothed_density(posterior_draws, window)),
        "ellipses": ellipses,
        "decoder": decoder,
    }
    return payload, _note(context, space, decoder, is_exact, ellipses is not None)


def _image_shape(context: PairContext) -> list[int] | None:
    """`[channels, height, width]` of what is shown; None if it is no image."""
    if not context.is_image:
        return None
    shape = list(context.as_shown(context.x[:1]).shape[1:])
    return shape if len(shape) == 3 else [1, *shape]


def _note(
    context: PairContext,
    space: LatentSpace,
    decoder: dict[str, JsonValue],
    is_exact: bool,
    has_ellipses: bool,
) -> str:
    """How what the page shows was computed."""
    how = "The prior is exact." if is_exact else "The prior is a smoothed histogram of draws."
    if space.conditions is not None and space.conditions.name == "c" and not is_exact:
        of_c = "given the chosen class" if space.conditions.is_class else "averaged over these data"
        how = f"The prior, {of_c}, is a smoothed histogram of draws."
    if space.arrays is not None:
        decoding = "The decoder's own layers run in this page: places are decoded exactly."
    else:
        what = "pictures" if context.is_image else "means of x"
        decoding = (
            f"Places are interpolated between {what} that were decoded on a grid of "
            f"{decoder['num']} × {decoder['num']} places. The page cannot evaluate this decoder "
            f"itself: {space.why_no_arrays}"
            + ("." if space.codes.shape[1] == 2 else "; the other units are 0.")
        )
    more = len(space.names) > 2
    return (
        f"{len(context.x)} data points of the {context.split} split at their posterior means"
        + (f", in the two most active of {len(space.names)} units. " if more else ". ")
        + f"Contours contain 50 % and 90 % of the mass. {how} The aggregate posterior is a smoothed "
        f"histogram of draws of q given these data points. {decoding}"
        + (" Sliders set the other units, which start at 0." if more and space.arrays else "")
        + (" Each ellipse contains 90 % of a component." if has_ellipses else "")
    )


# ---------------------------------------------------------------------- densities


def _in_plane(draws: dict[str, torch.Tensor], space: LatentSpace, axes: Axes) -> torch.Tensor:
    """Draws `[S, 2]` of two units, from draws `{latent: [S, ...]}`."""
    joined = torch.cat([draws[name].flatten(1).cpu() for name in space.sizes], 1)
    return joined[:, list(axes)]


def _prior_draws(
    context: PairContext, space: LatentSpace, axes: Axes, label: int | None, seed: int
) -> torch.Tensor:
    """Draws of the prior, `[S, 2]`: given a class c, or over the covariates of the data."""
    given: dict[str, Any] = {}
    size = DRAWS if label is None else DRAWS_OF_A_CLASS
    if label is not None:
        given["c"] = torch.full((size,), label)
    elif "c" in context.others:
        c = context.others["c"]
        given["c"] = c.repeat(-(-size // len(c)), *[1] * (c.dim() - 1))[:size]
    example = context.example()
    draws = {  # one seed: the draws of all latents are joint draws
        name: sample(context.model, size, site=name, seed=seed, example=example, **given)
        for name in space.sizes
    }
    return _in_plane(draws, space, axes)


def _posterior_draws(
    context: PairContext, space: LatentSpace, axes: Axes, seed: int
) -> torch.Tensor:
    """Draws of the aggregate posterior, `[S, 2]`."""
    times = -(-DRAWS // len(context.x))
    draws = {
        name: evaluate.aggregate_posterior(
            context.model, context.guide, context.x, name, times, seed, **context.others
        )
        for name in space.sizes
    }
    return _in_plane(draws, space, axes)


def _priors(
    context: PairContext,
    space: LatentSpace,
    axes: Axes,
    window: Window,
    draws: torch.Tensor,
    seed: int,
) -> tuple[list[torch.Tensor], bool]:
    """`(densities, whether they are exact)` of the prior: one, or one for each class c."""
    if space.conditions is not None and space.conditions.name == "c" and space.conditions.is_class:
        classes = range(len(space.conditions.values))
        parts = [_prior_draws(context, space, axes, label, seed) for label in classes]
        return [smoothed_density(part, window) for part in parts], False
    exact = _exact_prior(context, space, axes, window, seed)
    return ([smoothed_density(draws, window)], False) if exact is None else ([exact], True)


@torch.no_grad()
def _exact_prior(
    context: PairContext, space: LatentSpace, axes: Axes, window: Window, seed: int
) -> torch.Tensor | None:
    """The density of the prior, if it has a closed form in the plane."""
    (name, *others) = space.sizes
    if others or not isinstance(context.model, torch.nn.Module):
        return None
    try:
        _, prior = prior_of(context.model, name)
    except UserError:  # the latent has parents
        return None
    with seeded(seed, device_of(context.model)):
        return plane_density(prior(), axes, window)


# ---------------------------------------------------------------------- components


def _ellipses(context: PairContext, space: LatentSpace, axes: Axes) -> list[JsonValue] | None:
    """The curve that contains 90 % of each component of the prior, as a normal; None without any."""
    mixture = context.components(*space.sizes) if len(space.sizes) == 1 else None
    if mixture is None:
        return None
    index = list(axes)
    means = mixture[0].double().cpu()[:, index]
    covariances = mixture[1].double().cpu()[:, index][:, :, index]
    angle = torch.linspace(0, 2 * torch.pi, CURVE_POINTS, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()]) * NINETY_PERCENT
    curves = means.unsqueeze(-1) + torch.linalg.cholesky(covariances) @ circle
    return [
        {"name": k, "center": mean.tolist(), "curve": curve.tolist()}
        for k, (mean, curve) in enumerate(zip(means, curves, strict=True))
    ]
