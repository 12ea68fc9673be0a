"""Learned scales: warnings of those at their bounds, and how far the likelihood's are from the residuals."""

import math
import warnings

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution

from ..conditionals import Conditional
from ..conditionals.families import LOG_SCALE_BOUND, bounded_log_scale
from ..conditionals.likelihoods import STANDARDIZE
from ..data.arrays import column_moments
from ..guides import Guide
from ..programs import trace_pair
from ..programs.contexts import eval_mode, fork_rng
from ..programs.interfaces import conditional_of
from ..programs.modules import device_of
from ..programs.sites import base_distribution
from .inputs import Batch, PyroProgram

MARGIN = 2.0  # times the bound: below this the bound affects the scale


def warn_at_scale_bounds(model: PyroProgram, guide: PyroProgram, batch: Batch) -> None:
    """Warn, in one line each, of learned scales of normal or Student's t that are at a bound.

    Of a likelihood both bounds count, of a latent the lower one.

    Args:
        model: the generative program.
        guide: the guide of the model.
        batch: `{"x": [N, ...], ...}`, the inputs of the pair.
    """
    p_x = conditional_of(model, "x")
    factors = guide.conditionals if isinstance(guide, Guide) else {}
    if not any(map(_learns_scale, (p_x, *factors.values()))):
        return  # a fixed scale, or one of a user-defined program, has no bound here
    with (
        torch.no_grad(),
        eval_mode(model, guide),
        fork_rng(device_of(model, guide)),
        pyro.validation_enabled(False),
    ):
        traces = trace_pair(model, guide, batch)
    if _learns_scale(p_x):
        _warn_of_likelihood(traces.model["x"]["fn"], batch["x"])
    for latent, q in factors.items():
        if _learns_scale(q) and latent in traces.guide:
            _warn_of_latent("posterior", latent, traces.guide[latent]["fn"])
        prior = conditional_of(model, latent)
        if _learns_scale(prior) and latent in traces.model:
            _warn_of_latent("prior", latent, traces.model[latent]["fn"])


def scale_excess(model: PyroProgram, guide: PyroProgram, batch: Batch) -> dict[str, float]:
    r"""By how much the learned scales of p(x | z) are larger than the residuals.

    The ELBO's derivative by the log scale of D values is :math:`\sum_d (r_d^2 / \sigma^2 - 1)`, r the
    residuals, so that a scale which is learned is the root of their mean square.

    Args:
        model: the generative program.
        guide: the guide of the model.
        batch: `{"x": [N, ...], ...}` of the training data, the inputs of the pair.

    Returns:
        `{parameter: scale / residuals}`, about 1 after enough training; of a vector of scales the
        largest. {} if p(x | z) learns none.
    """
    raw = learned_scales(model)
    if not raw:
        return {}
    with (
        torch.enable_grad(),
        eval_mode(model, guide),
        fork_rng(device_of(model, guide)),
        pyro.validation_enabled(False),
    ):
        elbo = trace_pair(model, guide, batch).elbo().mean()
        by_raw = torch.autograd.grad(elbo, list(raw.values()), allow_unused=True)
        slopes = [torch.autograd.grad(bounded_log_scale(p).sum(), p)[0] for p in raw.values()]
    num_values = float((~batch["x"].isnan()).sum()) / len(batch["x"])
    result = {}
    for name, gradient, slope in zip(raw, by_raw, slopes, strict=True):
        if gradient is not None:
            # one scale of all values, or of one value each
            count = num_values if name == "log_scale" and gradient.numel() == 1 else 1.0
            square = 1 + gradient / slope / count
            result[name] = float(square.clamp_min(1e-6).rsqrt().max())
    return result


def learned_scales(model: PyroProgram) -> dict[str, torch.Tensor]:
    """The parameters of the scales of p(x | z) that depend on nothing and are trained, by name."""
    p_x = conditional_of(model, "x")
    if not isinstance(p_x, Conditional):
        return {}
    parameters = p_x.unconditional_parameters.items()
    return {n: p for n, p in parameters if n.startswith("log_scale") and p.requires_grad}


def _learns_scale(conditional: object) -> bool:
    """Whether a conditional has normal scales with the bound of this library."""
    return isinstance(conditional, Conditional) and "log_scale" in {
        *conditional.parameter_shapes,
        *conditional.unconditional_parameters,
    }


def _scaled_base(fn: TorchDistribution) -> dist.Normal | dist.StudentT | None:
    base = base_distribution(fn, transforms=False)
    return base if isinstance(base, dist.Normal | dist.StudentT) else None


def _warn_of_likelihood(fn: TorchDistribution, x: torch.Tensor) -> None:
    """Warn where the bound limits log p(x): the fitted scale, or the sd over the batch, is near it.

    Values that are constant do not count.
    """
    base = _scaled_base(fn)
    if base is None:
        return
    floor, shape = math.exp(-LOG_SCALE_BOUND), tuple(fn.event_shape)
    scale = base.scale.expand(torch.broadcast_shapes(base.scale.shape, shape))
    scale = scale.reshape((-1,) + shape).log().mean(0).exp()
    x = x.reshape((-1,) + shape)
    sd = column_moments(x)[1].to(scale)
    kind = "normal" if isinstance(base, dist.Normal) else "Student's t"
    too_low = (sd > 0) & (torch.minimum(scale, sd) < MARGIN * floor)
    too_high = sd > 1 / floor  # whatever the scale is by now: it has a long way to go
    for limited, bound in (
        (too_low, f"less than {floor:.1e}"),
        (too_high, f"above {1 / floor:.1e}"),
    ):
        if limited.any():
            warnings.warn(
                f"the scale of a {kind} likelihood cannot be {bound}, which limits "
                f"log p(x) at {int(limited.sum())} of {limited.numel()} values of x (their median "
                f"standard deviation: {sd[limited].median().item():.1e}): train on {STANDARDIZE}",
                stacklevel=4,
            )


def _warn_of_latent(kind: str, latent: str, fn: TorchDistribution) -> None:
    """Warn if the scale of a unit of a latent is near the bound for most data points.

    Args:
        kind: posterior or prior.
        latent: its name.
        fn: its distribution, `[..., B]` and, in front, one dimension per enumerated parent.
    """
    base = _scaled_base(fn)
    if base is None:
        return
    floor, event_dim = math.exp(-LOG_SCALE_BOUND), len(fn.event_shape)
    scale = base.scale.expand(torch.broadcast_shapes(base.scale.shape, fn.event_shape))
    if scale.dim() > event_dim:  # over the data points
        scale = scale.log().mean(-event_dim - 1).exp()
    values = scale.reshape(-1, math.prod(fn.event_shape))  # [components, units]
    limited = values < MARGIN * floor
    if not limited.any():
        return
    rows = limited.any(1).nonzero().flatten().tolist()
    components = f" of components {', '.join(map(str, rows))}" if len(values) > 1 else ""
    units = ", ".join(map(str, limited.any(0).nonzero().flatten().tolist()))
    warnings.warn(
        f"the {kind} scale of {latent!r}{components} is at its lower bound {floor:.1e} in units "
        f"{units}: its values are nearly constant; a larger scale= of the likelihood, a smaller "
        "latent_dim=, or standardized data help",
        stacklevel=4,
    )
