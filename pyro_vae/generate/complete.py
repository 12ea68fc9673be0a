"""Completion: draws of the missing part of a partly observed datum, for any pair."""

from typing import NamedTuple

import pyro
import torch

from ..errors import UserError, unknown, whole
from ..evaluate.inputs import observed
from ..evaluate.likelihood import chunks, rows_per_chunk
from ..pair import device_of, eval_mode, is_subsample, seeded
from ..traces import run

METHODS = ("metropolis", "pseudo-gibbs")


class Completion(NamedTuple):
    """What `complete` returns."""

    x: torch.Tensor  #: `[num_samples, N, *x_shape]`, what was observed unchanged
    acceptance: torch.Tensor  #: `[N]` share of the proposals taken; 1 without the correction


def complete(
    model, guide, x, mask, num_samples=16, steps=200, method="metropolis", seed=0, **others
):
    r"""Draws of the missing part of x given the observed part, as a `Completion`.

    Markov chains, `num_samples` for each datum, independent; the last state of each is kept. A step,
    at latents z and an x completed so far:

    1. propose :math:`z' \sim q(z \mid x)` and take it with probability
       :math:`\min(1, w(z') / w(z))`, :math:`w(z) = p(x, z) / q(z \mid x)`;
    2. draw :math:`x_{miss} \sim p(x_{miss} \mid z)`.

    That is Metropolis within Gibbs (Mattei and Frellsen 2018, arXiv 1802.04826), and its stationary
    law is the model's own :math:`p(x_{miss} \mid x_{obs})`, whatever the guide; a bad guide is only
    slower (see `acceptance`), one narrower than the posterior much slower. `"pseudo-gibbs"` (Rezende et al. 2014, arXiv 1401.4082) takes every
    proposal: right only if the guide is the exact posterior.

    A discrete latent that the guide leaves out is summed exactly in w, and drawn from its exact
    conditional in step 2; one that it names is part of z.

    Args:
        x: `[N, *x_shape]`; the missing values may be anything, NaN too.
        mask: bool, True where observed: `x_shape`, or `[N, *x_shape]`.
        steps: of each chain. It starts from x given what the guide makes of zeros in the missing places.
        others: what else the pair is given, by name.

    Raises:
        UserError: a mask of another shape or kind, or a likelihood whose pixels are not
            independent given the latents.
    """
    if method not in METHODS:
        raise unknown("method of completion", method, METHODS)
    whole(1, steps=steps, num_samples=num_samples)
    if mask.dtype != torch.bool or tuple(mask.shape) not in (tuple(x.shape), tuple(x.shape[1:])):
        raise UserError(
            f"mask must be bool of shape {list(x.shape[1:])} or {list(x.shape)}, "
            f"not {mask.dtype} {list(mask.shape)}"
        )
    mask = mask.to(x.device).expand(x.shape)
    x = torch.where(mask, x, torch.zeros_like(x))
    device = device_of(model, guide, default=x.device)
    batch = observed(model, x, others, guide)
    many = {k: v.repeat((num_samples,) + (1,) * (v.dim() - 1)) for k, v in batch.items()}
    many["_mask"] = mask.repeat((num_samples,) + (1,) * (mask.dim() - 1))
    parts, accepted = [], []
    with (
        torch.no_grad(),
        eval_mode(model, guide),
        seeded(seed, device),
        pyro.validation_enabled(False),
    ):
        rows = rows_per_chunk(model, guide, batch, device)
        _check_independent(run(model, guide, {k: v[:1].to(device) for k, v in batch.items()}))
        for part in chunks(many, max(1, min(len(many["x"]), rows)), device):
            done, share = _chains(model, guide, part, part.pop("_mask"), steps, method)
            parts.append(done.to(x.device))
            accepted.append(share.to(x.device))
    shape = (num_samples, len(x))
    return Completion(
        torch.cat(parts).reshape(*shape, *x.shape[1:]), torch.cat(accepted).reshape(shape).mean(0)
    )


def _chains(model, guide, batch, mask, steps, method):
    """`(x [B, ...], share of proposals taken [B])` after `steps` steps of B chains."""
    # zeros stand in the place of what is missing until the first draw
    x = torch.where(mask, batch["x"], _draw_x(run(model, guide, batch, draw_all=True)))
    latents, taken = None, torch.zeros(len(x), device=x.device)
    for _ in range(steps):
        batch = {**batch, "x": x}
        proposal = run(model, guide, batch, draw_all=True)
        latents_new, x_new = _latents(proposal), _draw_x(proposal)
        if latents is None or method == "pseudo-gibbs":
            accept = torch.ones(len(x), dtype=torch.bool, device=x.device)
        else:
            current = run(model, guide, batch, values=latents, draw_all=True)
            gain = proposal.log_weight() - current.log_weight()
            accept = gain > torch.rand(len(x), dtype=gain.dtype, device=x.device).log()
            latents_new = {k: _where(accept, v, latents[k]) for k, v in latents_new.items()}
            x_new = _where(accept, x_new, _draw_x(current))
        latents, taken = latents_new, taken + accept
        x = torch.where(mask, x, x_new)
    return x, taken / steps


def _check_independent(traces):
    """Step 2 draws missing values without a look at the observed ones: given z, they must not matter."""
    fn = traces.model["x"]["fn"]
    if getattr(fn, "base_dist", fn).event_shape:
        raise UserError(
            f"x given the latents is a {type(fn).__name__}, whose values depend on each other: "
            "only independent ones can be completed"
        )


def _latents(traces):
    """`{latent: [B, *shape]}` that the guide drew."""
    return {n: s["value"] for n, s in traces.guide.items() if not is_subsample(s)}


def _draw_x(traces):
    """`[B, *x_shape]` from p(x | latents), the summed ones drawn from their posterior first."""
    fn = traces.model["x"]["fn"]
    return traces.select(fn.sample(), tuple(fn.event_shape), traces.combination())


def _where(accept, new, old):
    return torch.where(accept.reshape((-1,) + (1,) * (new.dim() - 1)), new, old)
