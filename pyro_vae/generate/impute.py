"""Completion: draws of the missing part of a partly observed data point, for any pair."""

from typing import NamedTuple

import pyro
import torch
from pyro.distributions import MaskedDistribution
from torch.distributions import Independent

from ..errors import UserError, check_int_at_least, unknown_name_error
from ..evaluate.inputs import observed
from ..evaluate.likelihood import chunks, rows_per_chunk
from ..programs import trace_pair
from ..programs.contexts import eval_mode, seeded
from ..programs.modules import device_of
from ..programs.sites import holds, is_subsample, observed_site

METHODS = ("metropolis", "pseudo-gibbs")


class Completion(NamedTuple):
    """What `complete` returns."""

    x: torch.Tensor  #: `[num_samples, N, *x_shape]`, what was observed unchanged
    acceptance: torch.Tensor  #: `[N]` accepted proposals over `steps`; 1 without the correction


def impute(
    model,
    guide,
    x,
    mask,
    num_samples=16,
    steps=200,
    method="metropolis",
    seed=0,
    site=None,
    **others,
):
    r"""Draws of the missing part of x given the observed part, as a `Completion`.

    Markov chains, `num_samples` for each data point, independent; the last state of each is kept. A step,
    at latents z and an x completed so far:

    1. propose :math:`z' \sim q(z \mid x)` and take it with probability
       :math:`\min(1, w(z') / w(z))`, :math:`w(z) = p(x, z) / q(z \mid x)`;
    2. draw :math:`x_{miss} \sim p(x_{miss} \mid z)`.

    That is Metropolis within Gibbs (Mattei and Frellsen 2018, arXiv 1802.04826), and its stationary
    distribution is the model's own :math:`p(x_{miss} \mid x_{obs})`, whatever the guide; a bad guide is only
    slower (see `acceptance`), one narrower than the posterior much slower. `"pseudo-gibbs"` (Rezende et al. 2014, arXiv 1401.4082) takes every
    proposal: right only if the guide is the exact posterior.

    A discrete latent that the guide leaves out is summed exactly in w, and drawn from its exact
    conditional in step 2; one that it names is part of z.

    Args:
        x: `[N, *x_shape]`; the missing values may be anything, NaN too.
        mask: bool, True where observed: `x_shape`, or `[N, *x_shape]`.
        steps: of each chain: as many proposals. It starts from a draw of the guide, and x given
            that, with zeros in the missing places; this first state counts as no proposal.
        site: the site that observes x. Default: found by its values.
        others: what else the pair is given, by name.

    Raises:
        UserError: a mask of another shape or kind, a site that observes something else than x, or
            a likelihood whose pixels are not independent given the latents.
    """
    if method not in METHODS:
        raise unknown_name_error("method of completion", method, METHODS)
    check_int_at_least(1, steps=steps, num_samples=num_samples)
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
        for part in chunks(many, max(1, min(len(many["x"]), rows)), device):
            chains = _Chains(model, guide, part.pop("_mask"), site)
            done, share = chains.run(part, steps, corrected=method == "metropolis")
            parts.append(done.to(x.device))
            accepted.append(share.to(x.device))
    shape = (num_samples, len(x))
    return Completion(
        torch.cat(parts).reshape(*shape, *x.shape[1:]), torch.cat(accepted).reshape(shape).mean(0)
    )


class _Chains:
    """B chains, one for each row of a batch."""

    def __init__(self, model, guide, mask, site):
        self.model, self.guide, self.mask, self.site = model, guide, mask, site

    def run(self, batch, steps, corrected):
        """`(x [B, ...], share of proposals accepted [B])` after `steps` steps."""
        first = trace_pair(self.model, self.guide, batch, draw_discrete=True)
        self.site = observed_site(first.model, self.site, batch["x"])
        _check_site(self.site, first.model[self.site], batch["x"])
        # zeros stand in the place of what is missing until the first draw
        x = self._completed(batch["x"], self._draw_x(first))
        latents, accepted = _latents(first), torch.zeros(len(x), device=x.device)
        for _ in range(steps):
            batch = {**batch, "x": x}
            proposal = trace_pair(self.model, self.guide, batch, draw_discrete=True)
            latents_new, x_new = _latents(proposal), self._draw_x(proposal)
            if corrected:
                current = trace_pair(
                    self.model, self.guide, batch, values=latents, draw_discrete=True
                )
                gain = proposal.log_weight() - current.log_weight()
                accept = gain > torch.rand(len(x), dtype=gain.dtype, device=x.device).log()
                latents_new = {k: _where(accept, v, latents[k]) for k, v in latents_new.items()}
                x_new = _where(accept, x_new, self._draw_x(current))
                accepted += accept
            else:
                accepted += 1
            latents, x = latents_new, self._completed(x, x_new)
        return x, accepted / steps

    def _completed(self, x, drawn):
        return torch.where(self.mask, x, drawn.reshape(x.shape).to(x.dtype))

    def _draw_x(self, traces):
        """`[B, ...]` from p(x | latents), the summed ones drawn from their posterior first."""
        shape = tuple(traces.model[self.site]["fn"].event_shape)
        draws = traces.of_distribution(self.site, lambda fn: fn.sample())
        return traces.select(draws, shape, traces.enumerated_assignment())


def _check_site(name, site, x):
    """Step 2 needs x itself, and draws missing values without a look at the observed ones."""
    if not holds(site["value"], x):
        raise UserError(
            f"{name!r} does not observe x itself, but {list(site['value'].shape[1:])} values made "
            "of it: x cannot be completed there"
        )
    fn = site["fn"]
    base = fn
    while isinstance(base, (Independent, MaskedDistribution)):
        base = base.base_dist
    if base.event_shape:
        raise UserError(
            f"{name} given the latents is a {type(fn).__name__}, whose values depend on each other: "
            "only independent ones can be completed"
        )


def _latents(traces):
    """`{latent: [B, *shape]}` that the guide drew."""
    return {
        n: s["value"]
        for n, s in traces.guide.items()
        if not is_subsample(s) and not s["is_observed"]
    }


def _where(accept, new, old):
    return torch.where(accept.reshape((-1,) + (1,) * (new.dim() - 1)), new, old)
