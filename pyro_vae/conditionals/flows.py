"""Normalizing flows by zuko: the pieces that flow priors and flow posteriors share."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import constraints

from ..errors import UserError, check_int_at_least, check_ints_at_least, unknown_name_error
from .families import Family, bounded_log_scale

#: Flows by name: neural spline (arXiv 1906.04032), the same in coupling layers (draws cost two
#: passes a layer, not D), masked autoregressive (arXiv 1705.07057).
FLOWS = {
    "spline": lambda *args, **options: _zuko().flows.NSF(*args, **options),
    "coupling": lambda *args, **options: _zuko().flows.NSF(*args, passes=2, **options),
    "maf": lambda *args, **options: _zuko().flows.MAF(*args, **options),
}


def _zuko():
    """The module zuko, imported when a flow is built: most pairs have none."""
    import zuko

    return zuko


class FlowDistribution(ZukoToPyro):
    """A flow of zuko's with what Pyro's tools ask for in addition: its support, plain draws."""

    support = constraints.real_vector

    @property
    def event_shape(self):
        return self.dist.base.event_shape  # zuko's counts the batch of a transform's parameters too

    def sample(self, sample_shape=()):
        with torch.no_grad():
            return self.dist.sample(torch.Size(sample_shape))

    def expand(self, batch_shape, _instance=None):
        return FlowDistribution(self.dist.expand(batch_shape))


def affine_flow(flow, base, loc, scale):
    """The distribution of `loc + scale * u`, where the transform `flow` takes u to the distribution `base`."""
    standardize = dist.transforms.AffineTransform(-loc / scale, 1 / scale, event_dim=1)
    zuko = _zuko()
    transform = zuko.transforms.ComposedTransform(standardize, flow)
    return FlowDistribution(zuko.distributions.NormalizingFlow(transform, base))


@dataclass(frozen=True)
class Flow(Family):
    r"""A conditional normalizing flow (Rezende and Mohamed 2015, arXiv 1505.05770), by zuko.

    .. math:: z = \mu + \sigma \odot f_h^{-1}(\epsilon),\quad \epsilon \sim \mathrm{Normal}(0, I)

    The network gives :math:`\mu, \sigma [D]` and a context h, on which every layer of f depends.
    It has no mean in closed form; where one is read, that of 32 draws stands in.

    `"iaf"` (inverse autoregressive, arXiv 1606.04934) is `"maf"` run backwards: a draw and its own
    density take one pass a layer, the density of another value D. Of `"maf"` and `"spline"` a draw
    takes D passes; of `"coupling"` everything two.

    Args:
        flow: `"iaf"`, `"maf"`, `"spline"` or `"coupling"`; see `FLOWS`.
        transforms: how many layers.
        hidden: widths of each layer's network.
        context: size of h.

    Raises:
        UserError: an unknown flow, sizes that are not whole numbers; a latent that is no vector.
    """

    flow: str = "iaf"
    transforms: int = 2
    hidden: tuple[int, ...] = (64, 64)
    context: int = 32

    def __post_init__(self):
        if self.flow != "iaf" and self.flow not in FLOWS:
            raise unknown_name_error("flow", self.flow, ["iaf", *FLOWS])
        check_int_at_least(1, transforms=self.transforms, context=self.context)
        check_ints_at_least(1, hidden=self.hidden)
        object.__setattr__(self, "hidden", tuple(self.hidden))

    def outputs(self, shape):
        if len(shape) != 1:
            raise UserError(f"a flow is a distribution of vectors, not of shape {list(shape)}")
        return {"loc": shape, "log_scale": shape, "context": (self.context,)}

    def modules(self, shape):
        kind = FLOWS["maf" if self.flow == "iaf" else self.flow]
        sizes = {"features": shape[0], "context": self.context, "transforms": self.transforms}
        return {"flow": kind(**sizes, hidden_features=self.hidden)}

    def __call__(self, shape, loc, log_scale, context, flow):
        distribution = flow(context)
        transform = distribution.transform.inv if self.flow == "iaf" else distribution.transform
        return affine_flow(transform, distribution.base, loc, bounded_log_scale(log_scale).exp())
