"""The Gaussian mixture VAE of Dilokthanakul et al."""

import pyro
import torch
import torch.nn as nn

from ..conditionals import MLP, Conditional, Family, Network
from ..conditionals.networks import NetworkLike
from ..errors import check_int_at_least
from .model import Model
from .priors import CategoricalPrior, prior_or_default
from .vae import decoder


class GMVAE(Model):
    r"""Gaussian mixture VAE of Dilokthanakul et al.

        w       ~ Normal(0, I)
        y       ~ Categorical(1/K)
        z | w,y ~ Normal(mu_y(w), Sigma_y(w))
        x | z   ~ likelihood(f(z))

    (The paper writes x for our z, and z for our y.) A small network of w has K output heads, one of
    which y selects. Within a component, w moves the Gaussian, so a component is itself an infinite
    mixture.

    Its guides in the paper: in the final version w <- x; z <- x, with y enumerated in the model
    (the default); in the first version also y <- x:
    `Guide(model, given={"w": ["x"], "z": ["x"], "y": ["x"]})`.

    From random weights, components often merge or split classes. Start from a mixture fitted to
    encodings: `pv.fit(..., initialize=pv.train.MixtureInitialization())`.

    Args:
        x_shape: event shape of `x`.
        num_components: number of components, K.
        latent_dim: size of z.
        w_dim: size of w.
        likelihood: a name or a family, as in `VAE`.
        network: as in `VAE`.
        component: family of z | w, y. `Normal()` (diagonal), which None means, is the paper's.
            `ConstantCorrelationNormal()` has correlations for each y, and `MultivariateNormal()`,
            at more cost, for each y and w.
        w_network: the network of w below the K heads. Default: one tanh layer of 64 units.
        prior: a module whose `forward()` is the distribution of w. Default: `StandardNormalPrior`.

    Raises:
        UserError: a size is not an integer ≥ 1, or the likelihood is unknown.

    References:
        Dilokthanakul et al. 2016, arXiv 1611.02648.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.GMVAE((6,), num_components=3, latent_dim=2, w_dim=2)
        >>> guide = pv.guides.Guide(model)
        >>> pv.evaluate.responsibilities(model, guide, torch.ones(4, 6)).shape  # q(y | x), [N, K]
        torch.Size([4, 3])
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
        network: NetworkLike | None = None,
        component: Family | None = None,
        w_network: Network | None = None,
        prior: nn.Module | None = None,
    ) -> None:
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
            head_index="y",
        )
        self.p_x = decoder(x_shape, {"z": (latent_dim,)}, likelihood, network)

    def forward(
        self,
        x: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        size: int | None = None,
    ) -> torch.Tensor:
        """Samples all variables; observes `x [B, *x_shape]` and one-hot `y [B, K]` if given."""
        with pyro.plate("data", size if x is None else len(x)):
            w = pyro.sample("w", self.p_w())
            y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.p_z(w=w, y=y))
            return pyro.sample("x", self.p_x(z=z), obs=x)
