"""A VAE whose prior is a mixture: VaDE, Rui Shu's GMVAE."""

import pyro

from ..conditionals import MLP, Conditional, Family, Network
from ..errors import check_int_at_least
from .model import Model
from .priors import CategoricalPrior
from .vae import decoder


class MixtureVAE(Model):
    r"""VAE with a Gaussian-mixture prior.

        y     ~ Categorical(pi)
        z | y ~ Normal(mu_y, Sigma_y)
        x | z ~ likelihood(f(z))

    Two papers' pairs share this model and differ in the guide:

    * VaDE (Jiang et al. 2017, arXiv 1611.05148): z <- x, and y left out, so it is summed exactly;
      the default.
    * Rui Shu's GMVAE (blog, 2016): y <- x; z <- x, y. Declared as
      `Guide(model, given={"y": ["x"], "z": ["x", "y"]})`.

    Args:
        x_shape: event shape of `x`.
        num_components: K.
        latent_dim: size D of z.
        likelihood: a name or a family, as in `VAE`.
        network: as in `VAE`.
        component: family of z | y, `Normal()` (diagonal) or `MultivariateNormal()`.
        learn_weights: whether pi is learned (VaDE) or uniform (Shu).
    """

    default_guide = {"z": ["x"]}

    def __init__(
        self,
        x_shape: tuple[int, ...],
        num_components: int = 10,
        latent_dim: int = 10,
        likelihood: Family | str = "bernoulli",
        network: Network | None = None,
        component: Family | None = None,
        learn_weights: bool = True,
    ):
        super().__init__()
        check_int_at_least(1, num_components=num_components, latent_dim=latent_dim)
        self.p_y = CategoricalPrior(num_components, learned=learn_weights)
        self.p_z = Conditional((latent_dim,), {"y": (num_components,)}, component, MLP(hidden=()))
        self.p_x = decoder(x_shape, {"z": (latent_dim,)}, likelihood, network)

    def forward(self, x=None, y=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.p_z(y=y))
            return pyro.sample("x", self.p_x(z=z), obs=x)
