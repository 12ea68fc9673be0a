"""M2: a class and a style make a data point."""

import pyro
import torch.nn as nn

from ..conditionals import Family, Network
from ..errors import check_int_at_least
from .model import Model
from .priors import CategoricalPrior, prior_or_default
from .vae import decoder


class M2(Model):
    r"""M2 (Kingma, Mohamed, Rezende and Welling 2014, arXiv 1406.5298).

        y       ~ Categorical(1/K)
        z       ~ Normal(0, I)                 (or any `prior`)
        x | y,z ~ likelihood(f(y, z))

    Its guide in the paper: y <- x; z <- x, y. With labels of some data it is trained by
    `objectives.SemiSupervised`. Without any it is no clusterer: a decoder of z alone reaches the same
    likelihood, an ignored y costs nothing, and q(y | x) becomes p(y), of ln K nats of entropy, or
    carries something else than the class (`python -m benchmarks.quality.m2_clustering`).

    Args:
        x_shape: event shape of `x`.
        num_classes: K.
        latent_dim: size of z.
        likelihood: a name or a family, as in `VAE`.
        network: as in `VAE`.
        prior: as in `VAE`.
    """

    default_guide = {"y": ["x"], "z": ["x", "y"]}
    style_latent = "z"  # what of x the class leaves open

    def __init__(
        self,
        x_shape: tuple[int, ...],
        num_classes: int = 10,
        latent_dim: int = 20,
        likelihood: Family | str = "bernoulli",
        network: Network | None = None,
        prior: nn.Module | None = None,
    ):
        super().__init__()
        check_int_at_least(1, num_classes=num_classes, latent_dim=latent_dim)
        self.p_y = CategoricalPrior(num_classes)
        self.p_z = prior_or_default(prior, "z", latent_dim)
        parents = {"y": (num_classes,), "z": (latent_dim,)}
        self.p_x = decoder(x_shape, parents, likelihood, network)

    def forward(self, x=None, y=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(y=y, z=z), obs=x)
