"""The variational autoencoder."""

import pyro
import torch.nn as nn

from ..conditionals import Conditional, Family, Network
from ..conditionals import likelihood as likelihood_of
from ..errors import check_int_at_least, check_ints_at_least
from .model import Model
from .priors import prior_or_default


class VAE(Model):
    r"""Variational autoencoder (Kingma and Welling 2013, arXiv 1312.6114).

        z     ~ Normal(0, I)                   (or any `prior`)
        x | z ~ likelihood(f(z))

    Its guide in the paper: z <- x, diagonal normal.

    Args:
        x_shape: event shape of `x`, e.g. `(1, 28, 28)`.
        latent_dim: size D of z.
        likelihood: bernoulli, binomial, continuous-bernoulli, discretized-logistic, categorical,
            poisson, negative-binomial, normal, grey-bernoulli, or a family.
        network: the decoder, `MLP(...)` or `Conv(...)`.
        prior: a module whose `forward()` is the distribution of z.
    """

    default_guide = {"z": ["x"]}

    def __init__(
        self,
        x_shape: tuple[int, ...],
        latent_dim: int = 20,
        likelihood: Family | str = "bernoulli",
        network: Network | None = None,
        prior: nn.Module | None = None,
    ):
        super().__init__()
        check_int_at_least(1, latent_dim=latent_dim)
        self.p_z = prior_or_default(prior, "z", latent_dim)
        self.p_x = decoder(x_shape, {"z": (latent_dim,)}, likelihood, network)

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(z=z), obs=x)


def decoder(x_shape, given, family, network):
    """`p(x | ...)` with the likelihood given by name or family."""
    check_ints_at_least(1, x_shape=x_shape)
    return Conditional(x_shape, given, likelihood_of(family), network)
