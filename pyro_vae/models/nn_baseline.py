"""A conditional model without latents: the baseline of conditional deep generative models."""

from collections.abc import Sequence

import pyro
import torch

from ..conditionals import Family
from ..conditionals.networks import NetworkLike
from ..errors import UserError, check_ints_at_least
from .model import Model
from .vae import decoder


class NNBaseline(Model):
    r"""A prediction of x from c by a network, without latents.

        x | c ~ likelihood(f(c))

    The dimensions of x are independent given c. The guide is empty, and the ELBO is the exact
    log p(x | c).

    Args:
        x_shape: event shape of `x`.
        c_shape: event shape of the covariates `c`.
        likelihood: a name or a family, as in `VAE`.
        network: as in `VAE`.
        c_is_class: as in `CVAE`.

    Raises:
        UserError: a size is not an integer ≥ 1, or the likelihood is unknown.

    References:
        The "NN baseline" of Sohn, Lee and Yan 2015, NeurIPS.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.NNBaseline((6,), c_shape=(2,))
        >>> guide = pv.guides.Guide(model)  # empty
        >>> pv.evaluate.elbo(model, guide, torch.ones(4, 6), c=torch.zeros(4, 2)).shape
        torch.Size([4])
    """

    default_guide: dict[str, list[str]] = {}
    observes = ("x", "c")

    def __init__(
        self,
        x_shape: tuple[int, ...],
        c_shape: tuple[int, ...],
        likelihood: Family | str = "bernoulli",
        network: NetworkLike | None = None,
        c_is_class: bool = False,
    ) -> None:
        super().__init__()
        check_ints_at_least(1, x_shape=x_shape, c_shape=c_shape)
        self.covariates = {"c": tuple(c_shape)}
        self.class_covariates = class_covariates(c_shape, c_is_class)
        self.p_x = decoder(x_shape, {"c": c_shape}, likelihood, network)

    def forward(
        self,
        x: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
        size: int | None = None,
    ) -> torch.Tensor:
        """Samples all variables given `c [B, *c_shape]`; observes `x [B, *x_shape]` if given."""
        with pyro.plate("data", num_rows(c)):
            return pyro.sample("x", self.p_x(c=c), obs=x)


def class_covariates(c_shape: Sequence[int], c_is_class: bool) -> tuple[str, ...]:
    """Names of the covariates that are classes, for `sample`: `("c",)` or `()`."""
    if c_is_class and (len(c_shape) != 1 or c_shape[0] < 2):
        raise UserError(
            f"c_is_class is for one-hot vectors of 2 classes or more, not for {list(c_shape)}"
        )
    return ("c",) if c_is_class else ()


def num_rows(c: torch.Tensor | None) -> int:
    """N, for covariates `c [N, ...]`."""
    if c is None:
        raise UserError("a conditional model needs its covariates: pass c= of shape [N, ...]")
    return len(c)
