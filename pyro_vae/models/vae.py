"""The variational autoencoder."""

from collections.abc import Mapping

import pyro
import torch
import torch.nn as nn

from ..conditionals import Conditional, Family
from ..conditionals import likelihood as likelihood_of
from ..conditionals.networks import NetworkLike
from ..errors import check_int_at_least, check_ints_at_least
from .model import Model
from .priors import prior_or_default


class VAE(Model):
    r"""Variational autoencoder.

        z     ~ Normal(0, I)                   (or any `prior`)
        x | z ~ likelihood(f(z))

    Its guide in the paper: z <- x, normal with diagonal covariance.

    Args:
        x_shape: event shape of `x`, e.g. `(1, 28, 28)`.
        latent_dim: size D of z.
        likelihood: bernoulli, binomial, continuous-bernoulli, discretized-logistic, categorical,
            poisson, negative-binomial, zero-inflated-negative-binomial, normal, student-t,
            gray-bernoulli, or a family.
        network: the decoder: `MLP(...)`, `ResidualMLP(...)`, `Conv(...)` or a function that makes an
            `nn.Module`, as in `pv.conditionals.Conditional`. Default: `MLP()`.
        prior: a module whose `forward()` is the distribution of z. Default: `StandardNormalPrior`.

    Raises:
        UserError: a size is not an integer ≥ 1, the likelihood is unknown, or the prior has another
            shape.

    References:
        Kingma and Welling 2013, arXiv 1312.6114.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> model(size=4).shape  # samples of x
        torch.Size([4, 6])
        >>> pv.evaluate.elbo(model, pv.guides.Guide(model), torch.ones(3, 6)).shape
        torch.Size([3])
    """

    default_guide = {"z": ["x"]}

    def __init__(
        self,
        x_shape: tuple[int, ...],
        latent_dim: int = 20,
        likelihood: Family | str = "bernoulli",
        network: NetworkLike | None = None,
        prior: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_int_at_least(1, latent_dim=latent_dim)
        self.p_z = prior_or_default(prior, "z", latent_dim)
        self.p_x = decoder(x_shape, {"z": (latent_dim,)}, likelihood, network)

    def forward(self, x: torch.Tensor | None = None, size: int | None = None) -> torch.Tensor:
        """Samples z and x; observes `x [B, *x_shape]` if it is given, else draws `size` rows."""
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(z=z), obs=x)


def decoder(
    x_shape: tuple[int, ...],
    given: Mapping[str, tuple[int, ...]],
    likelihood: Family | str,
    network: NetworkLike | None,
) -> Conditional:
    """`p(x | ...)` with the likelihood by name or as a family."""
    check_ints_at_least(1, x_shape=x_shape)
    return Conditional(x_shape, given, likelihood_of(likelihood), network)
