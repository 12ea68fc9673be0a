"""Imputation: draws of the missing part of a data point given its observed part, for any pair."""

import math
from typing import Any, NamedTuple

import pyro
import torch
from torch.distributions import Independent

from ..data.arrays import as_floats, as_tensor, masked_as_nan
from ..distributions import Columns
from ..errors import UserError, check_int_at_least, unknown_name_error
from ..evaluate.chunked import evaluate_in_chunks
from ..evaluate.inputs import Array, Batch, PyroProgram, pair_inputs
from ..evaluate.support import check_support
from ..programs import trace_pair
from ..programs.inspection import ignores_missing
from ..programs.modules import dtype_of
from ..programs.sites import base_distribution, holds, is_subsample, observed_site
from ..programs.traces import Traces

METHODS = ("metropolis", "pseudo-gibbs")


class Completion(NamedTuple):
    """Completed data, by `impute`."""

    x: torch.Tensor  #: `[num_samples, N, *x_shape]`, observed values unchanged
    acceptance: torch.Tensor  #: `[N]`, fraction of accepted proposals; 1 for pseudo-Gibbs


def impute(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    mask: Array | None = None,
    num_samples: int = 16,
    steps: int = 200,
    method: str = "metropolis",
    seed: int | None = 0,
    site: str | None = None,
    **others: Array | None,
) -> Completion:
    r"""Draws of the missing part of x given the observed part.

    There are `num_samples` independent Markov chains per data point; the last state of each is
    returned. A step from latents z and a completed x:

    1. Propose :math:`z' \sim q(z \mid x)` and accept it with probability
       :math:`\min(1, w(z') / w(z))`, where :math:`w(z) = p(x, z) / q(z \mid x)`.
    2. Draw :math:`x_{miss} \sim p(x_{miss} \mid z)`.

    If the likelihood of the model ignores missing values (`pv.conditionals.IgnoreMissing`), the
    guide and w in every other step 1 are those of the observed values alone: a guide that rarely
    saw such missing values in training proposes better from the completed x, another one from these.

    This is Metropolis within Gibbs. Its stationary distribution is the model's
    :math:`p(x_{miss} \mid x_{obs})` for any guide. A poor guide only makes it slow (see
    `acceptance`); one that is narrower than the posterior, very slow. `"pseudo-gibbs"` accepts
    every proposal. It is right only if the guide is the exact posterior.

    A discrete latent that the guide leaves out is summed exactly in w, and drawn from its exact
    conditional in step 2. One that the guide has is part of z.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, *x_shape]`, in the units in which the pair was trained. Missing values may be
            anything, also NaN.
        mask: bool, True for observed values: `x_shape` or `[N, *x_shape]`. NaN is missing in any
            case. Default: all others are observed.
        num_samples: chains per data point.
        steps: proposals per chain. A chain starts from a draw of the guide; of a model whose
            likelihood needs all of x, at x with zeros for the missing values. This draw is not
            counted as a proposal.
        method: `"metropolis"` or `"pseudo-gibbs"`.
        seed: of the chains. None uses torch's random stream.
        site: the site that observes x. Default: found by its values.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `Completion`: `x [num_samples, N, *x_shape]` and `acceptance [N]`, on the device of x.

    Raises:
        UserError: a mask of another shape or dtype; observed values outside the support; a site that
            does not observe x itself; a likelihood whose values are not independent given the latents.

    References:
        Mattei and Frellsen 2018, arXiv 1802.04826; pseudo-Gibbs: Rezende et al. 2014, arXiv 1401.4082.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> mask = torch.tensor([True, True, True, False, False, False])
        >>> done = pv.generate.impute(
        ...     model, pv.guides.Guide(model), torch.ones(4, 6), mask, num_samples=3, steps=2)
        >>> done.x.shape
        torch.Size([3, 4, 6])
    """
    if method not in METHODS:
        raise unknown_name_error("method of completion", method, METHODS)
    check_int_at_least(1, steps=steps, num_samples=num_samples)
    values = as_floats(masked_as_nan(x), "x", dtype_of(model, guide))
    observed = ~values.isnan() if mask is None else as_tensor(mask, "mask")
    shape = values.shape
    if observed.dtype != torch.bool or observed.shape not in (shape, shape[1:]):
        raise UserError(
            f"mask must be bool of shape {list(shape[1:])} or {list(shape)}, "
            f"not {observed.dtype} {list(observed.shape)}"
        )
    observed = observed.to(values.device).expand(shape) & ~values.isnan()
    values = torch.where(observed, values, math.nan if ignores_missing(model) else 0.0)
    batch = pair_inputs(model, values, others, guide)
    rows = {
        name: value.repeat((num_samples,) + (1,) * (value.dim() - 1))
        for name, value in {**batch, "_mask": observed}.items()
    }

    def complete(chunk: Batch, _: int) -> Batch:
        chains = _Chains(model, guide, chunk.pop("_mask"), site)
        completed, acceptance = chains.run(chunk, steps, corrected=method == "metropolis")
        return {"x": completed, "acceptance": acceptance}

    with pyro.validation_enabled(False):
        result = evaluate_in_chunks(complete, model, guide, batch, seed=seed, rows=rows)
    acceptance = result["acceptance"].reshape(num_samples, -1).mean(0)
    return Completion(result["x"].reshape(num_samples, *shape), acceptance)


class _Chains:
    """One Markov chain for each of the B rows of a batch."""

    def __init__(
        self, model: PyroProgram, guide: PyroProgram, mask: torch.Tensor, site: str | None
    ) -> None:
        self.model, self.guide, self.mask, self.site = model, guide, mask, site
        self.needs_all = not ignores_missing(model)  # of x; else missing values may stay NaN

    def run(self, batch: Batch, steps: int, corrected: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """`(x [B, ...], fraction of accepted proposals [B])` after `steps` steps."""
        first = trace_pair(self.model, self.guide, batch, draw_discrete=True)
        site = observed_site(first.model, self.site, batch["x"])
        _check_site(site, first.model[site], batch["x"], self.mask)
        # missing values are zero until the first draw
        x = self._completed(batch["x"], self._draw_x(site, first))
        check_support(first.model[site], site, x.reshape(first.model[site]["value"].shape))
        latents, num_accepted = _latents(first), torch.zeros(len(x), device=x.device)
        for step in range(steps):
            completes = self.needs_all or (corrected and step % 2 == 1)
            inputs = {**batch, "x": x} if completes else batch
            proposal = trace_pair(self.model, self.guide, inputs, draw_discrete=True)
            new_latents, new_x = _latents(proposal), self._draw_x(site, proposal)
            if corrected:
                current = trace_pair(
                    self.model, self.guide, inputs, values=latents, draw_discrete=True
                )
                gain = proposal.log_weight() - current.log_weight()
                accept = gain > torch.rand(len(x), dtype=gain.dtype, device=x.device).log()
                new_latents = {k: _where(accept, v, latents[k]) for k, v in new_latents.items()}
                new_x = _where(accept, new_x, self._draw_x(site, current))
                num_accepted += accept
            else:
                num_accepted += 1
            latents, x = new_latents, self._completed(x, new_x)
        return x, num_accepted / steps

    def _completed(self, x: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        return torch.where(self.mask, x, drawn.reshape(x.shape).to(x.dtype))

    def _draw_x(self, site: str, traces: Traces) -> torch.Tensor:
        """`[B, ...]` from p(x | latents), after enumerated ones are drawn from their posterior."""
        shape = tuple(traces.model[site]["fn"].event_shape)
        draws = traces.of_distribution(site, lambda fn: fn.sample())
        return traces.select(draws, shape, traces.enumerated_assignment())


def _check_site(name: str, site: dict[str, Any], x: torch.Tensor, mask: torch.Tensor) -> None:
    """Check that a site observes x itself, with values that are independent given the latents.

    The columns of one category depend on each other; they must be observed or missing together.
    """
    if not holds(site["value"], x):
        raise UserError(
            f"{name!r} does not observe x itself, but {list(site['value'].shape[1:])} values made "
            "of it: x cannot be completed there"
        )
    fn = site["fn"]
    base = base_distribution(fn, transforms=False)
    if isinstance(base, Columns):
        for block, part in zip(base.blocks, mask.split(base.sizes, -1), strict=True):
            if not isinstance(block, Independent) and (part.any(-1) != part.all(-1)).any():
                raise UserError(
                    f"the mask observes a part of the {part.shape[-1]} columns of a category: they are "
                    "observed or missing together"
                )
    elif base.event_shape:
        raise UserError(
            f"{name} given the latents is a {type(fn).__name__}, whose values depend on each other: "
            "only independent ones can be completed"
        )


def _latents(traces: Traces) -> Batch:
    """`{latent: [B, *shape]}` that the guide drew."""
    return {
        n: s["value"]
        for n, s in traces.guide.items()
        if not is_subsample(s) and not s["is_observed"]
    }


def _where(accept: torch.Tensor, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    return torch.where(accept.reshape((-1,) + (1,) * (new.dim() - 1)), new, old)
