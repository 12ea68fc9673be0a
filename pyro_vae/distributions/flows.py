"""Normalizing flows of zuko as Pyro distributions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyro.distributions as dist
import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import constraints

if TYPE_CHECKING:
    import zuko


class FlowDistribution(ZukoToPyro):
    """A zuko distribution with what Pyro needs in addition: a support and draws without gradient.

    Args:
        dist: a `zuko.distributions.NormalizingFlow`, as a zuko flow returns it.

    Example:
        >>> import torch, zuko, pyro_vae as pv
        >>> flow = zuko.flows.MAF(features=2, transforms=1, hidden_features=(8,))
        >>> pv.distributions.FlowDistribution(flow()).sample((5,)).shape
        torch.Size([5, 2])
    """

    dist: "zuko.distributions.NormalizingFlow"
    support = constraints.real_vector

    @property
    def event_shape(self) -> torch.Size:
        return self.dist.base.event_shape  # zuko's counts the batch of a transform's parameters too

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """`[...]`: the log-density of `value [..., D]`, in nats."""
        # zuko's transforms want the batch dimensions of their parameters in the value; a draw, which has
        # them, is found by its identity: its log-density is known
        batch = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        if batch != value.shape[:-1]:
            value = value.expand(batch + value.shape[-1:])
        return super().log_prob(value)

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws `[..., D]` without gradient."""
        with torch.no_grad():
            return self.dist.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws `[..., D]` with gradients."""
        return self.dist.rsample(torch.Size(sample_shape))

    def expand(
        self, batch_shape: Sequence[int], _instance: "FlowDistribution | None" = None
    ) -> "FlowDistribution":
        """The same distribution with its batch shape expanded."""
        return FlowDistribution(self.dist.expand(torch.Size(batch_shape)))


def affine_flow(
    flow: torch.distributions.Transform,
    base: torch.distributions.Distribution,
    loc: torch.Tensor,
    scale: torch.Tensor,
) -> FlowDistribution:
    """The distribution of `z = loc + scale * u`, where `flow(u)` has the distribution `base`.

    Args:
        flow: a transform of vectors `[..., D]`.
        base: a distribution of vectors `[..., D]`.
        loc: `[..., D]`.
        scale: `[..., D]`, positive.

    Example:
        >>> import torch, zuko, pyro_vae as pv
        >>> flow = zuko.flows.MAF(features=2, transforms=1, hidden_features=(8,))()
        >>> loc, scale = torch.zeros(2), torch.full((2,), 3.0)
        >>> fn = pv.distributions.affine_flow(flow.transform, flow.base, loc, scale)
        >>> z = fn.sample((4,))
        >>> u = z / scale  # the density of u, less log |dz / du|
        >>> torch.allclose(fn.log_prob(z), flow.log_prob(u) - scale.log().sum(), atol=1e-5)
        True
    """
    standardize = dist.transforms.AffineTransform(-loc / scale, 1 / scale, event_dim=1)
    import zuko  # when a flow is built: most pairs have none

    transform = zuko.transforms.ComposedTransform(standardize, flow)
    return FlowDistribution(zuko.distributions.NormalizingFlow(transform, base))
