"""The family of conditional normalizing flows, by zuko."""

from dataclasses import dataclass
from types import ModuleType

import torch
import torch.nn as nn

from ..distributions import FlowDistribution, affine_flow
from ..errors import UserError, check_int_at_least, check_ints_at_least, unknown_name_error
from .families import Family, bounded_log_scale


def _zuko() -> ModuleType:
    """The module zuko, imported when a flow is built: most pairs have none."""
    import zuko

    return zuko


#: Flows by name: masked autoregressive (arXiv 1705.07057), neural spline (arXiv 1906.04032), and
#: neural spline in coupling layers, in which a draw takes two passes per layer instead of D.
FLOWS = {
    "spline": lambda *args, **options: _zuko().flows.NSF(*args, **options),
    "coupling": lambda *args, **options: _zuko().flows.NSF(*args, passes=2, **options),
    "maf": lambda *args, **options: _zuko().flows.MAF(*args, **options),
}


@dataclass(frozen=True)
class Flow(Family):
    r"""A conditional normalizing flow, by zuko.

    .. math:: z = \mu + \sigma \odot f_h^{-1}(\epsilon),\quad \epsilon \sim \mathrm{Normal}(0, I)

    The network supplies :math:`\mu, \sigma` `[D]` and a context h, on which every layer of f
    depends. The distribution has no mean in closed form; functions that need one use the mean of
    32 draws, whose noise is fixed and common to all rows.

    `"iaf"` (inverse autoregressive) is `"maf"` in the other direction: a draw and its density take
    one pass per layer, the density of another value takes D. With `"maf"` and `"spline"` a draw
    takes D passes; with `"coupling"` every operation takes two.

    Args:
        flow: `"iaf"`, `"maf"`, `"spline"` or `"coupling"`.
        transforms: number of layers.
        hidden: widths of each layer's network.
        context: size of h, what the network tells every layer about the parents.

    Raises:
        UserError: the flow is unknown, a size is not an integer ≥ 1, or the variable is not a
            vector.

    References:
        Rezende and Mohamed 2015, arXiv 1505.05770; Kingma et al. 2016, arXiv 1606.04934 (iaf);
        arXiv 1705.07057 (maf); arXiv 1906.04032 (spline).

    Example:
        >>> import torch, pyro_vae as pv
        >>> family = pv.conditionals.Flow("iaf", transforms=1, hidden=(8,), context=4)
        >>> q = pv.conditionals.Conditional((2,), {"x": (5,)}, family)
        >>> q(x=torch.zeros(4, 5)).sample().shape
        torch.Size([4, 2])
    """

    flow: str = "iaf"
    transforms: int = 2
    hidden: tuple[int, ...] = (64, 64)
    context: int = 32

    def __post_init__(self) -> None:
        if self.flow != "iaf" and self.flow not in FLOWS:
            raise unknown_name_error("flow", self.flow, ["iaf", *FLOWS])
        check_int_at_least(1, transforms=self.transforms, context=self.context)
        check_ints_at_least(1, hidden=self.hidden)
        object.__setattr__(self, "hidden", tuple(self.hidden))

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        if len(shape) != 1:
            raise UserError(f"a flow is a distribution of vectors, not of shape {list(shape)}")
        return {"loc": shape, "log_scale": shape, "context": (self.context,)}

    def modules(self, shape: tuple[int, ...]) -> dict[str, nn.Module]:
        build = FLOWS["maf" if self.flow == "iaf" else self.flow]
        sizes = {"features": shape[0], "context": self.context, "transforms": self.transforms}
        return {"flow": build(**sizes, hidden_features=self.hidden)}

    def __call__(
        self,
        shape: tuple[int, ...],
        loc: torch.Tensor,
        log_scale: torch.Tensor,
        context: torch.Tensor,
        flow: nn.Module,
    ) -> FlowDistribution:
        distribution = flow(context)
        transform = distribution.transform.inv if self.flow == "iaf" else distribution.transform
        return affine_flow(transform, distribution.base, loc, bounded_log_scale(log_scale).exp())
