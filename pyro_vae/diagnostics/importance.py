"""Importance weights, and how well they can correct the guide."""

import math

import numpy as np
import torch
from pyro.ops.stats import fit_generalized_pareto

from ..errors import UserError, check_int_at_least
from ..evaluate.chunked import evaluate_in_chunks
from ..evaluate.inputs import Array, Batch, PyroProgram, scored_inputs
from ..evaluate.likelihood import LogWeights

RELIABLE_K = 0.7  # k-hat above which a bound by importance weights cannot be trusted
ROUNDINGS = 16  # of log weights, within which they count as equal
TAIL_SAMPLES = 100  # a fit of the tail of the importance weights needs so many


def importance_weights(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    num_samples: int = 1000,
    seed: int | None = 0,
    **others: Array | None,
) -> torch.Tensor:
    r"""Log importance weights, whose log-mean-exp is `log_likelihood`.

    .. math:: \log w_s = \log \sum_y p(x, z_s, y) / q(z_s \mid x, y), \quad z_s \sim q

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, as observed, in the units in which the pair was trained.
        num_samples: S.
        seed: of the samples. None uses torch's random stream.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `[S, N]`, nats, on the device of x.

    Raises:
        UserError: as `log_likelihood`.

    References:
        Burda, Grosse, Salakhutdinov 2016, arXiv 1509.00519.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> guide = pv.guides.Guide(model)
        >>> pv.diagnostics.importance_weights(model, guide, torch.ones(4, 6), num_samples=10).shape
        torch.Size([10, 4])
    """
    check_int_at_least(1, num_samples=num_samples)
    batch = scored_inputs(model, x, others, guide)

    log_weights = LogWeights(model, guide, batch, num_samples)

    def weights(chunk: Batch, capacity: int) -> Batch:
        return {"log_w": torch.cat(list(log_weights.parts(chunk, capacity)))}

    return evaluate_in_chunks(
        weights, model, guide, batch,
        seed=seed, num_particles=log_weights.particles_at_once, dim=1,
    )["log_w"]  # fmt: skip


def importance_diagnostics(
    model: PyroProgram,
    guide: PyroProgram,
    x: Array,
    num_samples: int = 1000,
    seed: int | None = 0,
    **others: Array | None,
) -> dict[str, torch.Tensor]:
    r"""How well a guide covers the posterior of each data point.

    * `ess` is the effective sample size :math:`(\sum_s w_s)^2 / \sum_s w_s^2` of the importance
      weights. It lies between 1 and S, and is S if q is the posterior.
    * `pareto_k` is the shape :math:`\hat k` of a generalized Pareto distribution fitted to the
      largest :math:`\min(S/5, 3\sqrt S)` weights. The weights have about :math:`1/k` finite
      moments. Below 0.5 `log_likelihood` is reliable. Above 0.7 neither it nor the guide is. If
      all weights are equal it is -inf.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, as observed, in the units in which the pair was trained.
        num_samples: S, 25 or more.
        seed: of the samples. None uses torch's random stream.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `{"ess": [N], "pareto_k": [N]}`.

    Raises:
        UserError: as `log_likelihood`; weights that are not finite.

    References:
        Vehtari et al. 2015, Pareto smoothed importance sampling, arXiv 1507.02646; for guides, Yao
        et al. 2018, Yes, but did it work?, arXiv 1802.02538.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> guide = pv.guides.Guide(model)
        >>> sorted(pv.diagnostics.importance_diagnostics(model, guide, torch.ones(4, 6), 50))
        ['ess', 'pareto_k']
    """
    check_int_at_least(25, num_samples=num_samples)
    log_w = importance_weights(model, guide, x, num_samples, seed, **others)
    return {"ess": effective_sample_size(log_w), "pareto_k": pareto_k(log_w)}


def median_k(k: torch.Tensor) -> float:
    """The median k-hat of data points `[N]`; of an even number, the mean of the two in the middle."""
    return float(np.median(k.cpu().numpy()))


def effective_sample_size(log_w: torch.Tensor) -> torch.Tensor:
    """The effective sample size `[N]` of log weights `[S, N]`."""
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()


def log_mean_error(log_w: torch.Tensor) -> torch.Tensor:
    """The standard error `[N]` of the log-mean-exp of log weights `[S, N]`; NaN if S is 1.

    To first order it is the relative standard error of the mean weight. If a few weights have most
    of the sum, it is too small: see `pareto_k`.
    """
    num_samples = len(log_w)
    if num_samples == 1:
        return torch.full_like(log_w[0], math.nan)
    relative_variance = num_samples / effective_sample_size(log_w) - 1
    return (relative_variance.clamp(min=0) / (num_samples - 1)).sqrt()


def pareto_k(log_w: torch.Tensor) -> torch.Tensor:
    """The Pareto shape `[N]` of log weights `[S, N]`, by Pyro's `fit_generalized_pareto`."""
    tail = math.ceil(min(0.2 * len(log_w), 3 * math.sqrt(len(log_w))))
    largest = log_w.double().topk(tail + 1, 0).values.cpu()
    # log weights are differences of sums of this size or more, each with its rounding
    rounding = ROUNDINGS * torch.finfo(log_w.dtype).eps * largest[0].abs().clamp(min=1)
    weights = (largest - largest[0]).exp()
    excesses = (weights[:-1] - weights[-1]).unbind(-1)
    shapes = [_shape(e, least) for e, least in zip(excesses, rounding.tolist(), strict=True)]
    return torch.tensor(shapes, dtype=log_w.dtype, device=log_w.device)


def _shape(excesses: torch.Tensor, rounding: float) -> float:
    """k of excesses `[tail]` over the threshold, in falling order; the largest weight is 1."""
    if math.isnan(excesses[0]):
        raise UserError("the importance weights are not finite")
    if excesses[0] < rounding:
        return -math.inf  # all weights are equal
    excesses = excesses[excesses > 0]
    if len(excesses) < 5:  # a few weights have all of the sum
        return math.inf
    try:
        return fit_generalized_pareto(excesses)[0]
    except ZeroDivisionError:
        # by k, for a scale that nobody needs: the tail falls as an exponential, and k is 0, with
        # the prior that Pyro gives it
        return 5 / (len(excesses) + 10)
