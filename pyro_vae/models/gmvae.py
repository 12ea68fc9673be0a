"""The Gaussian mixture VAE of Dilokthanakul et al."""

import pyro
import torch.nn as nn

from ..conditionals import MLP, Conditional, Family, Network
from ..errors import check_int_at_least
from .model import Model
from .priors import CategoricalPrior, prior_or_default
from .vae import decoder


class GMVAE(Model):
    r"""Gaussian mixture VAE (Dilokthanakul et al. 2016, arXiv 1611.02648).

        w       ~ Normal(0, I)
        y       ~ Categorical(1/K)
        z | w,y ~ Normal(mu_y(w), Sigma_y(w))
        x | z   ~ likelihood(f(z))

    (The paper writes x for our z, and z for our y.) A small network of w has K output heads, of
    which y picks one: within a component, w moves the Gaussian, so a component is itself an
    infinite mixture.

    Its guides in the paper: final version, w <- x; z <- x, and y summed exactly (the default);
    first version, y <- x in addition: `Guide(model, given={"w": ["x"], "z": ["x"], "y": ["x"]})`.

    Args:
        x_shape: event shape of `x`.
        num_components: K.
        latent_dim: size of z.
        w_dim: size of w.
        likelihood: a name or a family, as in `VAE`.
        network: as in `VAE`.
        component: family of z | w, y; the paper's is `Normal()` (diagonal).
        w_network: the network of w below the K heads.
        prior: a module whose `forward()` is the distribution of w.
    """

    default_guide = {"w": ["x"], "z": ["x"]}
    prior_latent = "w"

    def __init__(
        self,
        x_shape: tuple[int, ...],
        num_components: int = 10,
        latent_dim: int = 16,
        w_dim: int = 10,
        likelihood: Family | str = "bernoulli",
        network: Network | None = None,
        component: Family | None = None,
        w_network: Network | None = None,
        prior: nn.Module | None = None,
    ):
        super().__init__()
        check_int_at_least(1, num_components=num_components, latent_dim=latent_dim, w_dim=w_dim)
        w_network = MLP(hidden=(64,), activation="tanh") if w_network is None else w_network
        self.p_w = prior_or_default(prior, "w", w_dim)
        self.p_y = CategoricalPrior(num_components)
        self.p_z = Conditional(
            (latent_dim,),
            {"w": (w_dim,), "y": (num_components,)},
            component,
            w_network,
            select="y",
        )
        self.p_x = decoder(x_shape, {"z": (latent_dim,)}, likelihood, network)

    def forward(self, x=None, y=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            w = pyro.sample("w", self.p_w())
            y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.p_z(w=w, y=y))
            return pyro.sample("x", self.p_x(z=z), obs=x)
