"""Paths through the latents: between two data, and along one unit at a time."""

from typing import NamedTuple

import pyro
import torch

from ..errors import UserError, unknown
from ..evaluate import encode, posterior
from ..pair import covariates_of, device_of, eval_mode, seeded
from .samples import checked, latents_of, run_model

PATHS = ("linear", "spherical")


def interpolate(model, guide, a, b, steps=9, latent=None, path="spherical", seed=0, **others):
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
        latent: which one moves; z, or the model's first continuous latent, unless said.
        others: what else the pair is given at both ends, by name (`c=`).
    """
    if path not in PATHS:
        raise unknown("path", path, PATHS)
    if a.shape != b.shape:
        raise UserError(f"the two ends differ in shape: {list(a.shape)} and {list(b.shape)}")
    move = _spherical if path == "spherical" else torch.lerp
    ends = [posterior(model, guide, x, mean=True, seed=seed, **others) for x in (a, b)]
    moved, discrete = _parts(model, ends[0], latent)
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)

    def between(name):
        first, last = (end[name].unsqueeze(1) for end in ends)  # [N, 1, *shape]
        at = t.reshape((1, -1) + (1,) * (first.dim() - 2))
        value = torch.where(at < 0.5, first, last) if name in discrete else move(first, last, at)
        return value.flatten(0, 1)

    values = {name: between(name) for name in (*moved, *discrete)}
    for name in covariates_of(model):
        values[name] = others[name].repeat_interleave(steps, 0)
    x = _decode(model, len(a) * steps, values, seed)
    return x.reshape(len(a), steps, *x.shape[1:]).to(a.device)


class Traversal(NamedTuple):
    """What `traverse` returns."""

    x: torch.Tensor  #: `[D, steps, *x_shape]`, a row a unit
    units: torch.Tensor  #: `[D]` which unit each row moves
    activity: torch.Tensor  #: `[D]` Var_x(E_q[u | x]) over the prior's variance of the unit
    values: torch.Tensor  #: `[D, steps]` the unit's values


def traverse(
    model, guide, x, latent=None, units=None, steps=9, span=2.5, start=0, seed=0, **others
):
    r"""One datum decoded with one latent unit at a time moved, as a `Traversal`.

    The datum is `x[start]`, encoded. A unit goes from `-span` to `span` of its standard deviations
    under the prior, about the prior's mean (both from 1,000 ancestral draws, so any prior will do).
    All else stays, except continuous latents below the moved one, which follow it at their
    conditional means. Units come by activity, :math:`\mathrm{Var}_x(E_q[u \mid x])` over `x`, as a
    share of their variance under the prior: about 0 for a unit that the posterior ignores.

    Args:
        x: `[N, *x_shape]` data that activity is measured on; one datum leaves the units in order.
        units: which units; all, by activity, unless said. An int takes that many of the most active.
    """
    codes = posterior(model, guide, x, mean=True, seed=seed, **others)
    moved, discrete = _parts(model, codes, latent)
    name = moved[-1]
    if codes[name].dim() != 2:
        raise UserError(f"{name!r} is not a vector: its units cannot be moved one at a time")
    size = codes[name].shape[1]
    if not 0 <= start < len(x):
        raise UserError(f"start must be a row of x, 0..{len(x) - 1}, not {start}")
    covariates = {k: others[k] for k in covariates_of(model)}
    rows = torch.arange(1000, device=x.device) % len(x)
    prior = _run(model, 1000, {k: v[rows] for k, v in covariates.items()}, seed)
    prior = prior.nodes[name]["value"].to(x.device)
    centre, sd = prior.mean(0), prior.std(0)
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
    targets = centre[units, None] + sd[units, None] * t  # [D, steps]
    count = len(units) * steps
    held = {k: codes[k][start].expand(count, *codes[k].shape[1:]) for k in (*moved, *discrete)}
    held.update({k: v[start].expand(count, *v.shape[1:]) for k, v in covariates.items()})
    code = held[name].clone()
    code[torch.arange(count), units.repeat_interleave(steps)] = targets.flatten()
    decoded = _decode(model, count, {**held, name: code}, seed)
    decoded = decoded.reshape(len(units), steps, *decoded.shape[1:]).to(x.device)
    return Traversal(decoded, units, activity[units], targets)


def analogies(model, guide, x, **others):
    """`[N, K, *x_shape]`: each datum's style with every class, as the likelihood's means.

    The style is the latent that the model names so (`model.style`); it is put at its posterior mean
    given the datum, what lies between it and x at conditional means.

    Raises:
        UserError: the model has no style.
    """
    style = getattr(model, "style", None)
    if style is None:
        raise UserError(f"{type(model).__name__} names no latent that is style, beside a class")
    (k,) = model.p_y().event_shape
    z = encode(model, guide, x, **others)[style].repeat_interleave(k, 0)
    x_hat = _decode(model, len(z), {style: z, "y": torch.eye(k).to(z).repeat(len(x), 1)}, seed=0)
    return x_hat.reshape(len(x), k, *x_hat.shape[1:]).to(x.device)


def predict(model, c):
    r"""`[N, *x_shape]`: a conditional model's one answer, :math:`E[x | c, z = E[z | c]]`.

    Sohn, Lee and Yan's (2015) deterministic prediction; for binary x they take the likelier value,
    `predict(model, c) > 0.5`.

    Args:
        c: covariates `[N, ...]`.

    Raises:
        UserError: a latent is discrete, and so has no mean to put it at.
    """
    for name, (_, is_discrete) in latents_of(model).items():
        if is_discrete:
            raise UserError(f"{name!r} is discrete: a prediction at its mean is not defined")
    return _decode(model, len(c), {"c": c}, seed=0).to(c.device)


def main_latent(model):
    """The latent that is meant where none is said: z, or the first continuous one that is sampled."""
    continuous = [n for n, (_, is_discrete) in latents_of(model).items() if not is_discrete]
    return "z" if "z" in continuous else next(iter(continuous), None)


def _parts(model, codes, latent):
    """`(continuous latents down to the moved one, discrete latents)`, in the model's order."""
    known = latents_of(model)
    latent = main_latent(model) if latent is None else latent
    discrete = [n for n, (_, is_discrete) in known.items() if is_discrete and n in codes]
    continuous = [n for n in known if n in codes and n not in discrete]
    if latent not in continuous:
        raise unknown("continuous latent", latent, continuous)
    return continuous[: continuous.index(latent) + 1], discrete


def _run(model, size, values, seed, at_mean=False):
    """A seeded trace of the model at the given values."""
    device = device_of(model, default="cpu")
    with torch.no_grad(), eval_mode(model), seeded(seed, device), pyro.validation_enabled(False):
        return run_model(model, size, checked(model, values, size, device), at_mean)


def _decode(model, size, values, seed):
    """`[size, *x_shape]`: the likelihood's mean, whatever is not given at its conditional mean."""
    return _run(model, size, values, seed, at_mean=True).nodes["x"]["fn"].mean


def _spherical(a, b, t):
    """Along the arc from a to b `[..., D]`; a straight line where they point the same way."""
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).unsqueeze(-1).clamp(-1, 1)
    angle = cosine.arccos()
    flat = angle.sin() < 1e-4  # also where they point opposite ways, and no arc is singled out
    sine = torch.where(flat, 1.0, angle.sin())
    arc = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / sine
    return torch.where(flat, torch.lerp(a, b, t), arc)
