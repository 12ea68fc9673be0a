"""A VAE with two stochastic layers."""

import pyro

from ..conditionals import MLP, Conditional
from ..errors import UserError, wholes
from ..program import Program
from .priors import prior_or_default
from .vae import decoder


class HierarchicalVAE(Program):
    r"""VAE with two stochastic layers (Burda et al. 2016, arXiv 1509.00519).

        z2      ~ Normal(0, I)                 (or any `prior`)
        z1 | z2 ~ Normal(mu(z2), diag sigma^2(z2))
        x | z1  ~ likelihood(f(z1))

    Its guide in the paper: z1 <- x; z2 <- z1. The bound is

    .. math:: E_q[\log p(x | z_1)] - E_q[\log q(z_1|x) - \log p(z_1|z_2)]
              - E_q\,\mathrm{KL}(q(z_2|z_1) \| p(z_2))

    in which the middle term, z1's, is a KL for each z2, not one of z1's marginals. The other order
    (z2 <- x; z1 <- x, z2), of Tomczak and Welling's hierarchical VAE, is declared:
    `Guide(model, given={"z2": ["x"], "z1": ["x", "z2"]})`.

    Args:
        x_shape: event shape of `x`.
        latent_dims: sizes of z1 and z2.
        likelihood, network: as in `VAE`; the network of p(x | z1).
        upper: the network of p(z1 | z2).
        prior: a module whose `forward()` is the distribution of z2.
    """

    default_guide = {"z1": ["x"], "z2": ["z1"]}
    prior_latent = "z2"

    def __init__(
        self,
        x_shape,
        latent_dims=(100, 50),
        likelihood="bernoulli",
        network=None,
        upper=None,
        prior=None,
    ):
        super().__init__()
        wholes(1, latent_dims=latent_dims)
        if len(latent_dims) != 2:
            raise UserError(f"latent_dims takes the sizes of z1 and z2, not {latent_dims!r}")
        lower, top = latent_dims
        upper = MLP(hidden=(100, 100), activation="tanh") if upper is None else upper
        self.p_z2 = prior_or_default(prior, "z2", top)
        self.p_z1 = Conditional((lower,), {"z2": (top,)}, network=upper)
        self.p_x = decoder(x_shape, {"z1": (lower,)}, likelihood, network)

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            z2 = pyro.sample("z2", self.p_z2())
            z1 = pyro.sample("z1", self.p_z1(z2=z2))
            return pyro.sample("x", self.p_x(z1=z1), obs=x)
