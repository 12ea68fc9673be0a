"""A VAE with two stochastic layers."""

import pyro
import torch
import torch.nn as nn

from ..conditionals import MLP, Conditional, Family, Network
from ..conditionals.networks import NetworkLike
from ..errors import check_int_at_least, check_ints_at_least
from .model import Model
from .priors import prior_or_default
from .vae import decoder


class HierarchicalVAE(Model):
    r"""VAE with two stochastic layers.

        z2      ~ Normal(0, I)                 (or any `prior`)
        z1 | z2 ~ Normal(mu(z2), diag sigma^2(z2))
        x | z1  ~ likelihood(f(z1))

    Its guide in the paper: z1 <- x; z2 <- z1. The bound is

    .. math:: E_q[\log p(x | z_1)] - E_q[\log q(z_1|x) - \log p(z_1|z_2)]
              - E_q\,\mathrm{KL}(q(z_2|z_1) \| p(z_2))

    in which the middle term, that of z1, is a KL for each z2, not a KL of the marginals of z1. The
    other order (z2 <- x; z1 <- x, z2), of Tomczak and Welling's hierarchical VAE, is declared as
    `Guide(model, given={"z2": ["x"], "z1": ["x", "z2"]})`.

    Args:
        x_shape: event shape of `x`.
        latent_dim: size of z1.
        z2_dim: size of z2.
        likelihood: a name or a family, as in `VAE`.
        network: of p(x | z1), as in `VAE`.
        top_network: the network of p(z1 | z2). Default: two tanh layers of 100 units.
        prior: a module whose `forward()` is the distribution of z2. Default:
            `StandardNormalPrior`.

    Raises:
        UserError: a size is not an integer ≥ 1, or the likelihood is unknown.

    References:
        Burda et al. 2016, arXiv 1509.00519; Tomczak and Welling 2018, arXiv 1705.07120.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.HierarchicalVAE((6,), latent_dim=4, z2_dim=2)
        >>> guide = pv.guides.Guide(model)
        >>> pv.evaluate.elbo_terms(model, guide, torch.ones(4, 6)).keys()
        dict_keys(['z2', 'z1', 'x'])
    """

    default_guide = {"z1": ["x"], "z2": ["z1"]}
    prior_latent = "z2"

    def __init__(
        self,
        x_shape: tuple[int, ...],
        latent_dim: int = 100,
        z2_dim: int = 50,
        likelihood: Family | str = "bernoulli",
        network: NetworkLike | None = None,
        top_network: Network | None = None,
        prior: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_ints_at_least(1, x_shape=x_shape)
        check_int_at_least(1, latent_dim=latent_dim, z2_dim=z2_dim)
        top_network = (
            MLP(hidden=(100, 100), activation="tanh") if top_network is None else top_network
        )
        self.p_z2 = prior_or_default(prior, "z2", z2_dim)
        self.p_z1 = Conditional((latent_dim,), {"z2": (z2_dim,)}, network=top_network)
        self.p_x = decoder(x_shape, {"z1": (latent_dim,)}, likelihood, network)

    def forward(self, x: torch.Tensor | None = None, size: int | None = None) -> torch.Tensor:
        """Samples all variables; observes `x [B, *x_shape]` if it is given."""
        with pyro.plate("data", size if x is None else len(x)):
            z2 = pyro.sample("z2", self.p_z2())
            z1 = pyro.sample("z1", self.p_z1(z2=z2))
            return pyro.sample("x", self.p_x(z1=z1), obs=x)
