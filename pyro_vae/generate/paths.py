"""Decoded paths through the latents: between data points, along units, over classes.

Data and pictures are in the units in which the pair was trained: of standardized data,
`Data.unstandardize` takes them back. `Run.sample` answers in the original units.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pyro
import torch
from torch.distributions import Transform

from ..data.arrays import as_floats, as_tensor
from ..diagnostics.supports import common_support, differs_between_rows, transform_onto
from ..errors import UserError, check_int_at_least, unknown_name_error
from ..evaluate import encode, sample_posterior
from ..evaluate.chunked import evaluation_mode
from ..evaluate.inputs import Array, Batch, PyroProgram
from ..programs.ancestral import AncestralSampler
from ..programs.calling import accepts_argument
from ..programs.inspection import Example, as_example, one_hot_labels, sites_of
from ..programs.interfaces import ModelInterface, interface_of
from ..programs.modules import dtype_of, pair_device
from ..programs.sites import choose_latent
from .samples import program_inputs

PATHS = ("linear", "spherical")
PRIOR_DRAWS = 1000  # for the mean and the standard deviation of a unit under the prior

Latents = Mapping[str, tuple[tuple[int, ...], bool]]  # {latent: (event shape, is discrete)}


def interpolate(
    model: PyroProgram,
    guide: PyroProgram,
    a: Array,
    b: Array,
    steps: int = 9,
    latent: str | None = None,
    path: str = "spherical",
    seed: int | None = 0,
    site: str | None = None,
    inputs_b: Mapping[str, Array] | None = None,
    **others: Array | None,
) -> torch.Tensor:
    r"""Means of the likelihood on paths between the encodings of two sets of data points.

    Both ends are encoded: posterior means, and the most probable values of discrete latents. A path
    of a latent with a constrained support is one on the reals, from which it is mapped. Along
    the path, `latent` and the continuous latents that the model samples before it move. The latents
    after it are at their conditional means. A discrete latent has the value of the nearer end.

    * `"linear"`: :math:`(1 - t)\, a + t\, b`.
    * `"spherical"`: :math:`[\sin((1-t)\omega)\, a + \sin(t\omega)\, b] / \sin\omega`, with the
      angle :math:`\omega` between a and b. Between draws of a standard normal it keeps the norms that
      such draws have.

    Args:
        model: the generative program.
        guide: the guide of the model.
        a: `[N, *x_shape]`, the first ends, as observed, in the units in which the pair was trained.
        b: `[N, *x_shape]`, the last ends.
        steps: points per path, the ends included.
        latent: the latent that moves. Default: z, or the model's first continuous latent.
        path: `"linear"` or `"spherical"`.
        seed: of the random numbers that a program may draw at the means. None uses torch's stream.
        site: the observed site that is decoded. Default: the one that observes x.
        inputs_b: further inputs of b that differ from those of a, by name: the `index` of training
            data, for a guide with a row for each. Default: none.
        others: further inputs at both ends by name (`c=`, `index=`), each with N rows. The path is
            decoded with those of a.

    Returns:
        `[N, steps, *x_shape]`.

    Raises:
        UserError: an unknown path, latent or site; ends of different shapes.

    References:
        White 2016, Sampling generative networks, arXiv 1609.04468.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> a, b = torch.zeros(4, 6), torch.ones(4, 6)
        >>> pv.generate.interpolate(model, pv.guides.Guide(model), a, b, steps=5).shape
        torch.Size([4, 5, 6])
    """
    if path not in PATHS:
        raise unknown_name_error("path", path, PATHS)
    check_int_at_least(1, steps=steps)
    dtype = dtype_of(model, guide)
    first, last = as_floats(a, "a", dtype), as_floats(b, "b", dtype)
    if first.shape != last.shape:
        raise UserError(f"the two ends differ in shape: {list(first.shape)} and {list(last.shape)}")
    move = _spherical if path == "spherical" else torch.lerp
    at_ends = ((first, others), (last, {**others, **(inputs_b or {})}))
    ends = [
        sample_posterior(model, guide, x, mean=True, seed=seed, **inputs) for x, inputs in at_ends
    ]
    decoder = _Decoder(model, {"x": first, **others}, others, seed, site)
    moved, discrete = _moved_and_discrete(decoder.latents, ends[0], latent)
    t = torch.linspace(0, 1, steps, dtype=first.dtype, device=first.device).reshape(1, -1, 1)

    def between(name: str) -> torch.Tensor:
        start, end = (codes[name] for codes in ends)
        onto = None if name in discrete else decoder.map_onto_support(name)
        if onto is not None:
            start, end = onto.inv(start), onto.inv(end)
        shape = len(first) * steps, *start.shape[1:]
        start, end = (code.reshape(len(first), 1, -1) for code in (start, end))
        if onto is None:
            return torch.where(t < 0.5, start, end).reshape(shape)
        return onto(move(start, end, t).reshape(shape))

    values = {name: between(name) for name in (*moved, *discrete)}
    rows = torch.arange(len(first), device=first.device).repeat_interleave(steps)
    x = decoder.decode(values, rows)
    return x.reshape(len(first), steps, *x.shape[1:]).to(first.device)


class Traversal(NamedTuple):
    """One data point decoded along D units, by `traverse`."""

    x: torch.Tensor  #: `[D, steps, *x_shape]`, one row per unit
    units: torch.Tensor  #: `[D]`, the unit that each row moves
    activity: torch.Tensor  #: `[D]`, Var_x(E_q[u | x]) over the variance of u under the prior
    values: torch.Tensor  #: `[D, steps]`, the values of the units


def traverse(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    latent: str | None = None,
    units: int | torch.Tensor | list[int] | None = None,
    steps: int = 9,
    span: float = 2.5,
    start: int = 0,
    seed: int | None = 0,
    site: str | None = None,
    **others: Array | None,
) -> Traversal:
    r"""Means of the likelihood while one latent unit at a time is moved.

    The data point `x[start]` is encoded. A unit moves from `-span` to `span` standard deviations
    around its mean; both are those of the prior, from 1,000 ancestral draws. The other latents
    stay, but the continuous latents that the model samples after the moved one follow at their
    conditional means.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, *x_shape]`, data from which the activity of the units is computed, as observed, in
            the units in which the pair was trained. A single data point leaves the units in order.
        latent: the latent whose units move. Default: z, or the model's first continuous latent.
        units: which units. An int: that many of the most active. Default: all, the most active
            first.
        steps: points per unit.
        span: standard deviations to either side.
        start: the row of x that is decoded.
        seed: of the ancestral draws. None uses torch's random stream.
        site: the observed site that is decoded. Default: the one that observes x.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `Traversal`: `x [D, steps, *x_shape]`, `units [D]`, `activity [D]`, `values [D, steps]`. The
        activity of a unit is :math:`\mathrm{Var}_x(E_q[u \mid x])` over its variance under the
        prior; it is about 0 for a unit that the posterior ignores.

    Raises:
        UserError: an unknown latent or site; units or `start` out of range.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> pv.generate.traverse(model, pv.guides.Guide(model), torch.eye(6), steps=5).x.shape
        torch.Size([2, 5, 6])
    """
    check_int_at_least(1, steps=steps)
    data = as_floats(x, "x", dtype_of(model, guide))
    if not 0 <= start < len(data):
        raise UserError(f"start must be a row of x, 0..{len(data) - 1}, not {start}")
    codes = sample_posterior(model, guide, data, mean=True, seed=seed, **others)
    decoder = _Decoder(model, {"x": data, **others}, others, seed, site)
    moved, discrete = _moved_and_discrete(decoder.latents, codes, latent)
    name = moved[-1]
    if codes[name].dim() != 2:
        raise UserError(f"{name!r} is not a vector: its units cannot be moved one at a time")
    prior = decoder.draw(name, torch.arange(PRIOR_DRAWS, device=data.device) % len(data)).to(
        data.device
    )
    onto = decoder.map_onto_support(name)
    if onto.inverse_shape(prior.shape) != prior.shape:
        raise UserError(
            f"the numbers of {name!r} depend on each other: its units cannot be moved one at a time"
        )
    sd, on_reals = prior.std(0), onto.inv(prior)
    means = encode(model, guide, data, **others)[name]  # over all values of discrete parents
    activity = means.var(0, correction=0) / sd**2
    moved_units = _select_units(name, units, activity)
    t = torch.linspace(-span, span, steps, dtype=data.dtype, device=data.device)
    center, scale = (moment[moved_units, None] for moment in (on_reals.mean(0), on_reals.std(0)))
    targets = center + scale * t  # [D, steps]
    count = len(moved_units) * steps
    fixed = {k: codes[k][start].expand(count, *codes[k].shape[1:]) for k in (*moved, *discrete)}
    code = onto.inv(fixed[name]).clone()
    at = torch.arange(count), moved_units.repeat_interleave(steps)
    code[at] = targets.flatten()
    code = onto(code)
    values = code[at].reshape(targets.shape)
    rows = torch.full((count,), start, device=data.device)
    decoded = decoder.decode({**fixed, name: code}, rows)
    decoded = decoded.reshape(len(moved_units), steps, *decoded.shape[1:]).to(data.device)
    return Traversal(decoded, moved_units, activity[moved_units], values)


def _select_units(
    name: str, units: int | torch.Tensor | list[int] | None, activity: torch.Tensor
) -> torch.Tensor:
    """The numbers `[D]` of the units to move."""
    order = activity.argsort(descending=True, stable=True)
    if units is None:
        return order
    if isinstance(units, int):
        check_int_at_least(1, units=units)
        return order[:units]
    size, numbers = len(activity), as_tensor(units, "units").to(activity.device)
    if numbers.dim() != 1 or (len(numbers) and (numbers.min() < 0 or numbers.max() >= size)):
        raise UserError(f"units must be numbers in 0..{size - 1} of {name!r}")
    return numbers


def style_transfer_grid(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    site: str | None = None,
    **others: Array | None,
) -> torch.Tensor:
    """The style of every data point with every class, as means of the likelihood.

    The style is the latent that the model names (`model.style_latent`), at its posterior mean. The latents
    between it and x are at their conditional means.

    Args:
        model: the generative program, with a class y and a style.
        guide: the guide of the model.
        x: `[N, *x_shape]`, as observed, in the units in which the pair was trained.
        site: the observed site that is decoded. Default: the one that observes x.
        others: further inputs by name, each with N rows. A label `y=` is used to encode the style.

    Returns:
        `[N, K, *x_shape]`.

    Raises:
        UserError: the model has no `style_latent`.

    References:
        Kingma et al. 2014, Semi-supervised learning with deep generative models, arXiv 1406.5298.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.M2((6,), num_classes=3, latent_dim=2)
        >>> pv.generate.style_transfer_grid(model, pv.guides.Guide(model), torch.eye(6)).shape
        torch.Size([6, 3, 6])
    """
    style = interface_of(model, ModelInterface).style_latent
    if style is None:
        raise UserError(f"{type(model).__name__} has no style_latent, which style transfer varies")
    data = as_floats(x, "x", dtype_of(model, guide))
    z = encode(model, guide, data, **others)[style]
    covariates = {k: v for k, v in others.items() if k != "y"}
    decoder = _Decoder(model, {"x": data, **covariates}, covariates, 0, site)
    num_classes = len(decoder.sampler.sites["y"]["fn"].enumerate_support(expand=False))
    rows = torch.arange(len(data), device=data.device).repeat_interleave(num_classes)
    classes = torch.arange(num_classes, device=data.device).repeat(len(data))
    decoded = decoder.decode({style: z[rows], "y": classes}, rows)
    return decoded.reshape(len(data), num_classes, *decoded.shape[1:]).to(data.device)


def predict_mean(
    model: PyroProgram,
    c: torch.Tensor | None = None,
    site: str | None = None,
    example: Example | None = None,
    **covariates: torch.Tensor,
) -> torch.Tensor:
    r"""The deterministic prediction of a conditional model, :math:`E[x | c, z = E[z | c]]`.

    For binary x the paper takes the more probable value, `predict_mean(model, c) > 0.5`. A
    distribution without a finite mean is replaced by its median, as in `evaluate.encode`.

    Args:
        model: the generative program.
        c: covariates, `[N, ...]`.
        site: the site that is predicted. Default: the one that observes x.
        example: for a program without `size=`, as in `sample`.
        covariates: covariates by other names, `[N, ...]`.

    Returns:
        `[N, *x_shape]`, in the units in which the model was trained.

    Raises:
        UserError: no covariates; a discrete latent, which has no mean.

    References:
        Sohn, Lee, Yan 2015, Learning structured output representation using deep conditional
        generative models, NeurIPS.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.CVAE((6,), c_shape=(3,), latent_dim=2)
        >>> pv.generate.predict_mean(model, torch.eye(3)).shape
        torch.Size([3, 6])
    """
    covariates |= {} if c is None else {"c": c}
    if not covariates:
        raise UserError("a prediction needs covariates: pass c=, or others by name")
    name, value = next(iter(covariates.items()))
    first = as_tensor(value, name)
    decoder = _Decoder(model, example, covariates, 0, site)
    for name, (_, is_discrete) in decoder.latents.items():
        if is_discrete:
            raise UserError(f"{name!r} is discrete: a prediction at its mean is not defined")
    return decoder.decode({}, torch.arange(len(first), device=first.device)).to(first.device)


def main_latent(model: PyroProgram, example: Example | None = None) -> str | None:
    """The default latent of a model; None for a model without a continuous one."""
    names = _continuous(sites_of(model, example)[1])
    return choose_latent(names) if names else None


def _continuous(latents: Latents) -> list[str]:
    return [n for n, (_, is_discrete) in latents.items() if not is_discrete]


def _moved_and_discrete(
    latents: Latents, codes: Batch, latent: str | None
) -> tuple[list[str], list[str]]:
    """`(continuous latents down to the moved one, discrete latents)`, in the model's order."""
    continuous = [n for n in _continuous(latents) if n in codes]
    latent = choose_latent(continuous, latent)
    discrete = [n for n, (_, is_discrete) in latents.items() if is_discrete and n in codes]
    return continuous[: continuous.index(latent) + 1], discrete


class _Decoder:
    """A model at given latents; every row has the covariates of one of the data points.

    Args:
        model: the generative program.
        example: a batch, for a program without `size=`.
        others: covariates by name; those that the model does not take are ignored.
        seed: of the draws. None uses torch's random stream.
        site: the observed site that is decoded. Default: the one that observes x.
    """

    def __init__(
        self,
        model: PyroProgram,
        example: Example | None,
        others: Mapping[str, Array | None],
        seed: int | None,
        site: str | None,
    ) -> None:
        self.model, self.seed = model, seed
        covariates = {
            name: as_tensor(value, name)
            for name, value in others.items()
            if value is not None and accepts_argument(model, name)
        }
        batch = as_example(model, example)
        self.covariates = one_hot_labels(model, covariates)
        self.device = pair_device(model, batch={**(batch or {}), **covariates})
        with (
            evaluation_mode(model, seed=seed, device=self.device),
            pyro.validation_enabled(False),
        ):
            self.sampler = AncestralSampler(model, batch, self.covariates)
            self.latents = self.sampler.latents
            self.site = self.sampler.data_site(site)

    def map_onto_support(self, name: str) -> Transform:
        """The map from the reals onto the support of a latent.

        Raises:
            UserError: there is none, or not one for all data points.
        """
        support = common_support(name, [self.sampler.sites[name]["fn"]])
        if differs_between_rows(support):
            raise UserError(f"the support of {name!r} differs between data points: it has no path")
        return transform_onto(name, support)

    def draw(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Draws `[len(rows), *shape]` of a latent given the covariates of `rows`."""
        return self._values(name, {}, rows, at_mean=False)

    def decode(self, values: Batch, rows: torch.Tensor) -> torch.Tensor:
        """Means of the likelihood `[len(rows), *x_shape]`; other latents at conditional means."""
        return self._values(self.site, values, rows, at_mean=True)

    def _values(self, name: str, values: Batch, rows: torch.Tensor, at_mean: bool) -> torch.Tensor:
        inputs = {k: v[rows] for k, v in self.covariates.items()}
        with (
            evaluation_mode(self.model, seed=self.seed, device=self.device),
            pyro.validation_enabled(False),
        ):
            arguments, latents = program_inputs(self.sampler, {**inputs, **values}, len(rows))
            runs = self.sampler.runs(len(rows), arguments, latents, at_mean=at_mean)
            return self.sampler.values(runs, name, len(rows), mean=at_mean)


def _spherical(a: torch.Tensor, b: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The arc from a to b `[..., D]`; a straight line if they are parallel or opposite."""
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).unsqueeze(-1).clamp(-1, 1)
    angle = cosine.arccos()
    straight = angle.sin() < 1e-4
    sine = torch.where(straight, 1.0, angle.sin())
    arc = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / sine
    return torch.where(straight, torch.lerp(a, b, t), arc)
