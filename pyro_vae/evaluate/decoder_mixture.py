"""The density of a decoder that is given finitely many codes: a finite mixture."""

import math
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..conditionals import Conditional
from ..data.arrays import as_floats
from ..data.minibatches import row_slices
from ..distributions import BinomialProportion
from ..errors import UserError
from ..programs.contexts import eval_mode
from ..programs.interfaces import conditional_of
from ..programs.modules import dtype_of
from ..programs.sites import base_distribution
from .chunked import MEMORY_BUDGET
from .inputs import Array, scored_inputs


@torch.no_grad()
def decoder_mixture(
    model: nn.Module, x: Array, z: Array, log_weights: Array | None = None
) -> Tensor:
    r"""Log-density of the mixture that a decoder makes of the codes `z`, one component per code.

    .. math:: \log \sum_{k=1}^K w_k\, p(x_n \mid z_k)

    With codes drawn from the prior and equal weights it is a Monte Carlo estimate of log p(x). With
    a fine grid of one or two latent numbers and weights proportional to p(z) it is log p(x) by
    quadrature. With the codes of the training data it is the density under their distribution.

    Args:
        model: a model with a conditional `p_x` whose only parent is z, e.g. `pv.models.VAE`.
        x: `[N, *x_shape]`, as observed.
        z: `[K, D]` codes.
        log_weights: `[K]`; they are not normalized. Default: -log K each.

    Returns:
        `[N]` nats per data point, on x's device.

    Raises:
        UserError: the model's decoder has other parents than z; weights of another length than z;
            values outside the likelihood's support.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((3,), latent_dim=2)
        >>> x = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
        >>> pv.evaluate.decoder_mixture(model, x, torch.randn(10, 2)).shape
        torch.Size([2])
    """
    decoder = conditional_of(model, "x")
    if not isinstance(decoder, Conditional) or tuple(decoder.given) != ("z",):
        kind = type(model).__name__
        raise UserError(f"decoder_mixture needs a model with p_x(z=z) alone, which {kind} has not")
    z = as_floats(z, "z", dtype_of(model))
    if log_weights is not None:
        log_weights = as_floats(log_weights, "log_weights")
    else:
        log_weights = z.new_full((len(z),), -math.log(max(1, len(z))))
    if len(z) == 0 or log_weights.shape != (len(z),):
        raise UserError(
            f"log_weights must have one number per code: {len(z)} codes, "
            f"weights of shape {list(log_weights.shape)}"
        )
    device = next(decoder.parameters()).device
    data = scored_inputs(model, x, {}, None)["x"].to(device)
    total = data.new_full((len(data),), -math.inf, dtype=torch.float64)
    with eval_mode(model):
        for rows in row_slices(
            len(z), max(1, MEMORY_BUDGET // (64 * max(len(data), math.prod(data.shape[1:]))))
        ):
            log_joint = _pairwise(decoder, data, z[rows].to(device)).double()
            log_joint += log_weights[rows].to(log_joint)
            total = torch.logaddexp(total, log_joint.logsumexp(1))
    return total.to(data.dtype)


def _pairwise(decoder: nn.Module, x: Tensor, z: Tensor) -> Tensor:
    """`[N, K]`, log p(x_n | z_k) of every pair."""
    fn = decoder(z=z)
    # where values are missing, what is linear in x has no value for them
    base = None if x.isnan().any() else base_distribution(fn)
    family: Any  # of the likelihood, by its logits
    if isinstance(base, BinomialProportion):
        trials, family = base.trials, partial(BinomialProportion, base.trials)
    elif isinstance(base, torch.distributions.Bernoulli) and type(base) is dist.Bernoulli:
        trials, family = 1, dist.Bernoulli
    else:
        rows = max(1, MEMORY_BUDGET // (64 * len(z) * math.prod(x.shape[1:])))
        return torch.cat([fn.log_prob(part.unsqueeze(1)) for part in x.split(rows)])
    # these log-probabilities are linear in x: log p(x | z) = log p(0 | z) + trials x logit + h(x),
    # where h(x) is what remains at a logit of zero; all pairs are one matrix product. The first two are
    # far larger than their sum: in float32, thousands of pixels would lose tenths of a nat
    x, logits = x.double(), base.logits.double()
    zeros = torch.zeros_like(x)
    even = family(logits=zeros)
    remainder = (even.log_prob(x) - even.log_prob(zeros)).flatten(1).sum(1, keepdim=True)
    linear = (trials * x).round().flatten(1) @ logits.flatten(1).T
    return family(logits=logits).log_prob(zeros[:1]).flatten(1).sum(1) + linear + remainder
