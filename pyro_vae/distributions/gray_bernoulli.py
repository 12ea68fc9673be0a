"""The Bernoulli score of gray values, which is not a log-probability."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch

from .proper import MaybeScore


class GrayBernoulli(MaybeScore, dist.Bernoulli):
    """Bernoulli whose `log_prob` accepts any value in [0, 1]: the binary cross-entropy.

    For a gray value this is a score, not a log-probability. Therefore `proper` is False, and
    functions that report a log-likelihood refuse it.

    Args:
        probs: `[...]`, probabilities; or
        logits: `[...]`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.distributions.GrayBernoulli(logits=torch.zeros(2)).log_prob(torch.tensor([0.5, 1.0]))
        tensor([-0.6931, -0.6931])
    """

    proper = False

    def __init__(
        self,
        probs: torch.Tensor | None = None,
        logits: torch.Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(probs=probs, logits=logits, validate_args=False)

    def expand(
        self, batch_shape: Sequence[int], _instance: "GrayBernoulli | None" = None
    ) -> "GrayBernoulli":
        """The same distribution with its batch shape expanded."""
        new = self._get_checked_instance(GrayBernoulli, _instance)
        return super().expand(batch_shape, new)
