"""Categorical distributions of one-hot vectors, and their relaxation."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints

from .._torch_internals import base_of, categorical_of

_IS_SUPPORT = "_is_support_of_one_hot"  # an attribute of a tensor; its views are views of it


def is_support(y: torch.Tensor) -> bool:
    """Whether `y [K, 1, ..., K]` has every one-hot vector, in order: known by whose view it is.

    No value is read, so that a step can be recorded, and a GPU need not wait.
    """
    base = base_of(y)
    marked = vars(y if base is None else base)
    size = y.shape[-1]
    return y.dim() > 1 and y.shape[0] == size and y.numel() == size**2 and _IS_SUPPORT in marked


def _at_support(logits: torch.Tensor, inner: int) -> torch.Tensor | None:
    """`[K, ...]`: the log-probabilities of every value are the logits `[..., K]` themselves.

    Args:
        logits: `[..., K]`, normalized.
        inner: the number of dimensions to the right of the enumerated one.

    Returns:
        None if the logits differ along the enumerated dimension, or to the left of it.
    """
    left = logits.dim() - 1 - inner
    if left > 0:
        if any(size != 1 for size in logits.shape[:left]):
            return None
        logits = logits[(0,) * left]
    values = logits.movedim(-1, 0).contiguous()[(slice(None), *[None] * max(0, -left))]
    return values[(None,) * max(0, left - 1)]


#: In place of the logit -inf of an impossible value, of which 0 times -inf would be NaN; a sum below the
#: second number has a part of an impossible value.
_IMPOSSIBLE, _HAS_IMPOSSIBLE = -1e30, -1e20


def linear_log_prob(value: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    r"""`[...]`: :math:`\sum_k y_k \log p_k` of `value [..., K]`; an impossible value that y leaves out adds 0.

    Args:
        value: on the simplex.
        logits: `[..., K]`, normalized; -inf for a value that is impossible.

    Example:
        >>> import torch
        >>> from pyro_vae.distributions.one_hot import linear_log_prob
        >>> linear_log_prob(torch.eye(2), torch.tensor([0.0, -torch.inf]))
        tensor([0., -inf])
    """
    logits = logits.clamp_min(max(_IMPOSSIBLE, torch.finfo(logits.dtype).min))
    size = torch.broadcast_shapes(value.shape, logits.shape).numel()
    if size > max(MAX_PRODUCTS, value.numel(), logits.numel()):
        # enumerated [K, 1, K] times [B, K]: without the table [K, B, K] and its gradient
        total = torch.einsum("...k,...k->...", value, logits)
    else:
        total = (value * logits).sum(-1)
    return torch.where(total < _HAS_IMPOSSIBLE, -math.inf, total)


#: Numbers in the table of products above which `log_prob` contracts instead of multiplying and summing.
MAX_PRODUCTS = 2**20


class LinearOneHotCategorical(dist.OneHotCategorical):
    r"""One-hot categorical with :math:`\log p(y) = \sum_k y_k \log p_k`.

    At a one-hot `y` this is the log-probability. Between one-hot vectors it is linear, so that a
    relaxed `y` has a gradient; for an enumerated `y`, no argmax is taken. Sampling reads no value
    on the host (torch's `one_hot` does), so that it can be recorded.

    Args:
        probs: `[..., K]`, probabilities; or
        logits: `[..., K]`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> fn = pv.distributions.LinearOneHotCategorical(probs=torch.tensor([0.25, 0.75]))
        >>> fn.log_prob(torch.eye(2)).exp()
        tensor([0.2500, 0.7500])
    """

    support = constraints.simplex  # type: ignore[assignment]  # torch declares `_OneHot`

    def enumerate_support(self, expand: bool = True) -> torch.Tensor:
        """Every value, `[K, 1, ..., K]`; see `is_support`."""
        values: torch.Tensor = super().enumerate_support(expand)
        base = base_of(values)
        if base is not None:  # in inference mode no tensor knows whose view it is
            setattr(base, _IS_SUPPORT, True)
        return values

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """One-hot draws `[..., K]`."""
        categorical = categorical_of(self)
        assert categorical is not None
        index = categorical.sample(torch.Size(sample_shape)).unsqueeze(-1)
        return (index == torch.arange(self.event_shape[0], device=index.device)).to(self.logits)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """`[...]`: the log-probability of one-hot `value [..., K]`, in nats; linear in `value`."""
        if self._validate_args:
            self._validate_sample(value)
        logits = self.logits
        if is_support(value):
            at_support = _at_support(logits, value.dim() - 2)
            if at_support is not None:
                return at_support
        return linear_log_prob(value, logits)


class GumbelSoftmax(dist.RelaxedOneHotCategorical):
    r"""Relaxed one-hot samples, scored by the categorical log-probability.

    The sample lies on the simplex. `log_prob` is :math:`\sum_k y_k \log q_k`, not the density of
    the relaxation, so that it pairs with a discrete prior. The resulting estimator is biased; it is
    the usual one.

    Args:
        temperature: `[]`; samples are closer to one-hot at lower temperatures.
        probs: `[..., K]`, probabilities; or
        logits: `[..., K]`.

    References:
        Jang et al. 2017, arXiv 1611.01144.

    Example:
        >>> import torch, pyro_vae as pv
        >>> fn = pv.distributions.GumbelSoftmax(torch.tensor(0.5), logits=torch.zeros(3))
        >>> y = fn.rsample()
        >>> bool((y > 0).all()), round(float(y.sum()), 4)
        (True, 1.0)
    """

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        r"""`[...]`: :math:`\sum_k y_k \log q_k` of `value [..., K]`, in nats."""
        return linear_log_prob(value, self.logits)

    @property
    def logits(self) -> torch.Tensor:
        """`[..., K]`, normalized."""
        return super().logits - super().logits.logsumexp(-1, keepdim=True)


class OneHotData(LinearOneHotCategorical):
    """A `LinearOneHotCategorical` of observed data, whose support has one-hot vectors only.

    Args:
        probs: `[..., K]`, probabilities; or
        logits: `[..., K]`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> fn = pv.distributions.OneHotData(logits=torch.zeros(2))
        >>> fn.support.check(torch.tensor([[0.0, 1.0], [0.5, 0.5]]))
        tensor([ True, False])
    """

    support = constraints.one_hot  # type: ignore[assignment]  # it is a part of the simplex
