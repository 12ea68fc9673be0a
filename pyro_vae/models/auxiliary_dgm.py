"""Auxiliary and skip deep generative models: M2 with an auxiliary variable a."""

import pyro
import torch

from ..conditionals import Conditional, Family
from ..conditionals.networks import NetworkLike, network_between
from ..errors import UserError, check_int_at_least, check_ints_at_least
from .model import Model
from .priors import CategoricalPrior, StandardNormalPrior
from .vae import decoder


class AuxiliaryDGM(Model):
    r"""Auxiliary deep generative model, or its version with skip connections.

        y         ~ Categorical(1/K)               y         ~ Categorical(1/K)
        z         ~ Normal(0, I)                   z         ~ Normal(0, I)
        x | y,z   ~ likelihood(f(y, z))            a | y,z   ~ Normal(mu(y, z), diag sigma(y, z)^2)
        a | x,y,z ~ Normal(mu, diag sigma^2)       x | a,y,z ~ likelihood(f(a, y, z))
                                  `skip=False`                                 `skip=True`

    Both have the guide a <- x; y <- a, x; z <- a, x, y. Without the skip, a is a leaf: if it is
    integrated out, the model of x is M2. The benefit is a richer guide, whose marginals
    :math:`q(y|x) = \int q(a|x)\, q(y|a,x)\, da` and q(z | x, y) are mixtures over a. With the skip,
    a is a second stochastic layer between (y, z) and x.

    Args:
        x_shape: event shape of `x`.
        num_classes: number of classes, K.
        latent_dim: size of z.
        auxiliary_dim: size of a. Default: `latent_dim`.
        skip: whether a is a parent of x, instead of x a parent of a.
        likelihood: a name or a family, as in `VAE`.
        network: as in `VAE`.

    Raises:
        UserError: a size is not an integer ≥ 1, or the likelihood is unknown.

    References:
        Maaloe et al. 2016, arXiv 1602.05473.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.AuxiliaryDGM((6,), num_classes=3, latent_dim=2, skip=True)
        >>> guide = pv.guides.Guide(model)
        >>> pv.evaluate.elbo_terms(model, guide, torch.ones(4, 6)).keys()
        dict_keys(['y', 'z', 'a', 'x'])
    """

    default_guide = {"a": ["x"], "y": ["a", "x"], "z": ["a", "x", "y"]}
    style_latent = "z"

    def __init__(
        self,
        x_shape: tuple[int, ...],
        num_classes: int = 10,
        latent_dim: int = 20,
        auxiliary_dim: int | None = None,
        skip: bool = False,
        likelihood: Family | str = "bernoulli",
        network: NetworkLike | None = None,
    ) -> None:
        super().__init__()
        check_ints_at_least(1, x_shape=x_shape)
        auxiliary_dim = latent_dim if auxiliary_dim is None else auxiliary_dim
        check_int_at_least(
            1, num_classes=num_classes, latent_dim=latent_dim, auxiliary_dim=auxiliary_dim
        )
        self.skip = skip
        self.p_y = CategoricalPrior(num_classes)
        self.p_z = StandardNormalPrior(latent_dim)
        shared = {"y": (num_classes,), "z": (latent_dim,)}
        a_parents = shared if skip else {"x": x_shape, **shared}
        a_network = network_between(network, *a_parents.values())
        self.p_a = Conditional((auxiliary_dim,), a_parents, network=a_network)
        x_parents = {"a": (auxiliary_dim,), **shared} if skip else shared
        self.p_x = decoder(x_shape, x_parents, likelihood, network)
        if not skip and self.p_x.family.ignores_missing:
            raise UserError(
                "p(a | x, y, z) needs all of x: with missing values, use skip=True, whose a does not "
                "depend on x"
            )

    def forward(
        self,
        x: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        size: int | None = None,
    ) -> torch.Tensor:
        """Samples all variables; observes `x [B, *x_shape]` and one-hot `y [B, K]` if given."""
        with pyro.plate("data", size if x is None else len(x)):
            y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.p_z())
            if self.skip:
                a = pyro.sample("a", self.p_a(y=y, z=z))
                return pyro.sample("x", self.p_x(a=a, y=y, z=z), obs=x)
            x = pyro.sample("x", self.p_x(y=y, z=z), obs=x)
            pyro.sample("a", self.p_a(x=x, y=y, z=z))
            return x
