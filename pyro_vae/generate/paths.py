"""Paths through the latents: between two data, and along one unit at a time."""

from contextlib import contextmanager
from typing import NamedTuple

import pyro
import torch

from ..diagnostics.simulate import home
from ..errors import UserError, unknown_name_error
from ..evaluate import encode, sample_posterior
from ..programs.ancestral import AncestralSampler
from ..programs.calling import accepts_argument
from ..programs.contexts import eval_mode, seeded
from ..programs.inspection import one_hot_labels, sites_of
from ..programs.interfaces import ModelInterface, interface_of
from ..programs.sites import choose_latent
from .samples import checked

PATHS = ("linear", "spherical")


def interpolate(
    model,
    guide,
    a,
    b,
    steps=9,
    latent=None,
    path="spherical",
    seed=0,
    site=None,
    **others,
):
    r"""`[N, steps, *x_shape]`: the likelihood's means on the way from each of `a` to that of `b`.

    Both ends are encoded (posterior means, discrete latents at their most probable values). On the
    way, `latent` and the continuous latents that the model samples before it move; those below are
    at their conditional means given the moved; a discrete latent is that of the nearer end.

    * `"linear"`: :math:`(1 - t)\, a + t\, b`.
    * `"spherical"`: :math:`[\sin((1-t)\omega)\, a + \sin(t\omega)\, b] / \sin\omega`, with the angle
      :math:`\omega` between them (White 2016, arXiv 1609.04468): between draws of a standard
      normal it keeps to the norms that such draws have.

    Args:
        a, b: `[N, *x_shape]` data, as observed.
        latent: which one moves. Default: z, or the model's first continuous latent.
        site: which observed site is decoded. Default: the one that observes x.
        others: what else the pair is given at both ends, by name (`c=`).
    """
    if path not in PATHS:
        raise unknown_name_error("path", path, PATHS)
    if a.shape != b.shape:
        raise UserError(f"the two ends differ in shape: {list(a.shape)} and {list(b.shape)}")
    move = _spherical if path == "spherical" else torch.lerp
    ends = [sample_posterior(model, guide, x, mean=True, seed=seed, **others) for x in (a, b)]
    decoder = _Decoder(model, {"x": a, **others}, others, seed, site)
    moved, discrete = _parts(decoder.latents, ends[0], latent)
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)

    def between(name):
        first, last = (end[name].reshape(len(a), 1, -1) for end in ends)
        at = t.reshape(1, -1, 1)
        value = torch.where(at < 0.5, first, last) if name in discrete else move(first, last, at)
        return value.reshape(len(a) * steps, *ends[0][name].shape[1:])

    values = {name: between(name) for name in (*moved, *discrete)}
    rows = torch.arange(len(a), device=a.device).repeat_interleave(steps)
    x = decoder.decode(values, rows)
    return x.reshape(len(a), steps, *x.shape[1:]).to(a.device)


class Traversal(NamedTuple):
    """What `traverse` returns."""

    x: torch.Tensor  #: `[D, steps, *x_shape]`, a row a unit
    units: torch.Tensor  #: `[D]` which unit each row moves
    activity: torch.Tensor  #: `[D]` Var_x(E_q[u | x]) over the prior's variance of the unit
    values: torch.Tensor  #: `[D, steps]` the unit's values


def traverse(
    model,
    guide,
    x,
    latent=None,
    units=None,
    steps=9,
    span=2.5,
    start=0,
    seed=0,
    site=None,
    **others,
):
    r"""One data point decoded with one latent unit at a time moved, as a `Traversal`.

    The data point is `x[start]`, encoded. A unit goes from `-span` to `span` of its standard deviations
    under the prior, about the prior's mean (both from 1,000 ancestral draws, so any prior will do).
    All else stays, except continuous latents below the moved one, which follow it at their
    conditional means. Units come by activity, :math:`\mathrm{Var}_x(E_q[u \mid x])` over `x`, as a
    share of their variance under the prior: about 0 for a unit that the posterior ignores.

    Args:
        x: `[N, *x_shape]` data that activity is measured on; one data point leaves the units in order.
        latent: which one's units move. Default: z, or the model's first continuous latent.
        units: which units. Default: all, by activity. An int takes that many of the most active.
        site: which observed site is decoded. Default: the one that observes x.
    """
    codes = sample_posterior(model, guide, x, mean=True, seed=seed, **others)
    decoder = _Decoder(model, {"x": x, **others}, others, seed, site)
    moved, discrete = _parts(decoder.latents, codes, latent)
    name = moved[-1]
    if codes[name].dim() != 2:
        raise UserError(f"{name!r} is not a vector: its units cannot be moved one at a time")
    size = codes[name].shape[1]
    if not 0 <= start < len(x):
        raise UserError(f"start must be a row of x, 0..{len(x) - 1}, not {start}")
    rows = torch.arange(1000, device=x.device) % len(x)
    prior = decoder.draw(name, rows).to(x.device)
    center, sd = prior.mean(0), prior.std(0)
    activity = codes[name].var(0, correction=0) / sd**2
    order = activity.argsort(descending=True, stable=True)
    if units is None:
        units = order
    elif isinstance(units, int):
        units = order[:units]
    units = torch.as_tensor(units, device=x.device)
    if units.dim() != 1 or (len(units) and (units.min() < 0 or units.max() >= size)):
        raise UserError(f"units must be numbers in 0..{size - 1} of {name!r}")
    t = torch.linspace(-span, span, steps, dtype=x.dtype, device=x.device)
    targets = center[units, None] + sd[units, None] * t  # [D, steps]
    count = len(units) * steps
    held = {k: codes[k][start].expand(count, *codes[k].shape[1:]) for k in (*moved, *discrete)}
    code = held[name].clone()
    code[torch.arange(count), units.repeat_interleave(steps)] = targets.flatten()
    rows = torch.full((count,), start, device=x.device)
    decoded = decoder.decode({**held, name: code}, rows)
    decoded = decoded.reshape(len(units), steps, *decoded.shape[1:]).to(x.device)
    return Traversal(decoded, units, activity[units], targets)


def style_transfer_grid(model, guide, x, site=None, **others):
    """`[N, K, *x_shape]`: each data point's style with every class, as the likelihood's means.

    The style is the latent `model.style_latent`. It is set to its posterior mean given the data
    point; latents between it and x are set to their conditional means.

    Args:
        site: which observed site is decoded; see `interpolate`.

    Raises:
        UserError: the model has no `style_latent`.
    """
    style = interface_of(model, ModelInterface).style_latent
    if style is None:
        raise UserError(f"{type(model).__name__} has no style_latent, which style transfer varies")
    z = encode(model, guide, x, **others)[style]
    decoder = _Decoder(model, {"x": x}, {k: v for k, v in others.items() if k != "y"}, 0, site)
    k = len(decoder.sampler.sites["y"]["fn"].enumerate_support(expand=False))
    rows = torch.arange(len(x), device=x.device).repeat_interleave(k)
    classes = torch.arange(k, device=x.device).repeat(len(x))
    x_hat = decoder.decode({style: z[rows], "y": classes}, rows)
    return x_hat.reshape(len(x), k, *x_hat.shape[1:]).to(x.device)


def predict_mean(model, c=None, site=None, example=None, **covariates):
    r"""`[N, *x_shape]`: a conditional model's one answer, :math:`E[x | c, z = E[z | c]]`.

    Sohn, Lee and Yan's (2015) deterministic prediction; for binary x they take the likelier value,
    `predict(model, c) > 0.5`.

    Args:
        c: covariates `[N, ...]`.
        site: which site is predicted. Default: the one that observes x.
        example: for a program without `size=`, as in `sample`.
        covariates: covariates by other names, `[N, ...]`.

    Raises:
        UserError: a latent is discrete, and so has no mean to put it at.
    """
    covariates |= {} if c is None else {"c": c}
    if not covariates:
        raise UserError("a prediction needs covariates: pass c=, or others by name")
    first = next(iter(covariates.values()))
    decoder = _Decoder(model, example, covariates, 0, site)
    for name, (_, is_discrete) in decoder.latents.items():
        if is_discrete:
            raise UserError(f"{name!r} is discrete: a prediction at its mean is not defined")
    return decoder.decode({}, torch.arange(len(first), device=first.device)).to(first.device)


def main_latent(model, example=None):
    """The latent that is meant by default; None for a model without a continuous one."""
    names = _continuous(sites_of(model, example)[1])
    return choose_latent(names) if names else None


def _continuous(latents):
    return [n for n, (_, is_discrete) in latents.items() if not is_discrete]


def _parts(known, codes, latent):
    """`(continuous latents down to the moved one, discrete latents)`, in the model's order."""
    continuous = [n for n in _continuous(known) if n in codes]
    latent = choose_latent(continuous, latent)
    discrete = [n for n, (_, is_discrete) in known.items() if is_discrete and n in codes]
    return continuous[: continuous.index(latent) + 1], discrete


class _Decoder:
    """A model at given latents, each row with the covariates of one of the data."""

    def __init__(self, model, example, others, seed, site):
        self.model, self.seed = model, seed
        others = {k: v for k, v in others.items() if v is not None and accepts_argument(model, k)}
        self.others = one_hot_labels(model, others)
        self.device = home(model, None, {**(example or {}), **others})
        with self._ready():
            self.sampler = AncestralSampler(model, example, self.others)
            self.latents = self.sampler.latents
            self.site = self.sampler.data_site(site)

    @contextmanager
    def _ready(self):
        with (
            torch.no_grad(),
            eval_mode(self.model),
            seeded(self.seed, self.device),
            pyro.validation_enabled(False),
        ):
            yield

    def draw(self, name, rows):
        """`[len(rows), *shape]` draws of a latent from the model, given the covariates of `rows`."""
        return self._values(name, {}, rows, at_mean=False)

    def decode(self, values, rows):
        """`[len(rows), *x_shape]`: the likelihood's mean, what is not given at its conditional mean."""
        return self._values(self.site, values, rows, at_mean=True)

    def _values(self, name, values, rows, at_mean):
        given = {k: v[rows] for k, v in self.others.items()}
        with self._ready():
            runs = self.sampler.runs(
                len(rows), *checked(self.sampler, {**given, **values}, len(rows)), at_mean=at_mean
            )
            return self.sampler.values(runs, name, len(rows), mean=at_mean)


def _spherical(a, b, t):
    """Along the arc from a to b `[..., D]`; a straight line where they point the same way."""
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).unsqueeze(-1).clamp(-1, 1)
    angle = cosine.arccos()
    flat = angle.sin() < 1e-4  # also where they point opposite ways, and no arc is singled out
    sine = torch.where(flat, 1.0, angle.sin())
    arc = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / sine
    return torch.where(flat, torch.lerp(a, b, t), arc)
