"""Importance weights, and what they say of the guide that they correct."""

import math

import torch
from pyro.ops.stats import fit_generalized_pareto

from ..errors import UserError, check_int_at_least
from ..evaluate.inputs import scored
from ..evaluate.likelihood import chunks, log_weights, rows_per_chunk
from ..programs.contexts import eval_mode, seeded
from ..programs.modules import device_of


@torch.no_grad()
def importance_weights(model, guide, x, num_samples=1000, seed=0, **others):
    r"""`[S, N]` log importance weights, those of which `log_likelihood` is the log-mean-exp.

    .. math:: \log w_s = \log \sum_y p(x, z_s, y) / q(z_s \mid x, y), \quad z_s \sim q

    Raises:
        UserError: the model scores grey values with a Bernoulli.
    """
    check_int_at_least(1, num_samples=num_samples)
    batch = scored(model, x, others, guide)
    x, device = batch["x"], device_of(model, guide, default=batch["x"].device)
    columns = []
    with eval_mode(model, guide), seeded(seed, device):
        rows = rows_per_chunk(model, guide, batch, device)
        for part in chunks(batch, max(1, min(len(x), rows)), device):
            parts = log_weights(model, guide, part, num_samples, rows // len(part["x"]))
            columns.append(torch.cat(list(parts)))
    return torch.cat(columns, 1).to(x.device)


def importance_diagnostics(model, guide, x, num_samples=1000, seed=0, **others):
    r"""How well a guide covers each data point's posterior: `{"ess": [N], "pareto_k": [N]}`.

    * `ess`: the effective sample size :math:`(\sum_s w_s)^2 / \sum_s w_s^2` of `num_samples` importance
      weights, between 1 and `num_samples`, which is reached where q is the posterior.
    * `pareto_k`: the shape :math:`\hat k` of a generalized Pareto distribution fitted to the largest
      :math:`\min(S/5, 3\sqrt S)` weights (Vehtari et al. 2015, arXiv 1507.02646; of guides, Yao et
      al. 2018, arXiv 1802.02538). The weights have about :math:`1/k` finite moments: below 0.5
      `log_likelihood` can be trusted as it is, above 0.7 it cannot, nor can the guide. Where all
      weights are equal it is -inf.

    Args:
        num_samples: S, 25 or more.
    """
    check_int_at_least(25, num_samples=num_samples)
    log_w = importance_weights(model, guide, x, num_samples, seed, **others)
    return {"ess": effective_sample_size(log_w), "pareto_k": pareto_k(log_w)}


def effective_sample_size(log_w):
    """`[N]` of log weights `[S, N]`."""
    return (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()


def log_mean_error(log_w):
    """`[N]`: the standard error of the log-mean-exp of log weights `[S, N]`; NaN of one draw.

    To first order, the relative standard error of the mean weight. Where a few weights have most of
    the sum, it is too small: see `pareto_k`.
    """
    num_samples = len(log_w)
    if num_samples == 1:
        return torch.full_like(log_w[0], math.nan)
    relative_variance = num_samples / effective_sample_size(log_w) - 1
    return (relative_variance.clamp(min=0) / (num_samples - 1)).sqrt()


def pareto_k(log_w):
    """`[N]` of log weights `[S, N]`, by Pyro's `fit_generalized_pareto`."""
    tail = math.ceil(min(0.2 * len(log_w), 3 * math.sqrt(len(log_w))))
    largest = log_w.double().topk(tail + 1, 0).values.cpu()
    weights = (largest - largest[0]).exp()
    over = (weights[:-1] - weights[-1]).unbind(-1)
    return torch.tensor([_shape(w) for w in over], dtype=log_w.dtype, device=log_w.device)


def _shape(over):
    """k of excesses `[tail]` in falling order, the largest weight being 1."""
    if math.isnan(over[0]):
        raise UserError("the importance weights are not finite")
    if over[0] < 1e-9:
        return -math.inf  # all weights are equal
    over = over[over > 0]
    return math.inf if len(over) < 5 else fit_generalized_pareto(over)[0]  # a few are all there is
