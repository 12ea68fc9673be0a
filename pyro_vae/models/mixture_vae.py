"""A VAE whose prior is a mixture: VaDE, Rui Shu's GMVAE."""

import pyro
import torch

from ..conditionals import MLP, Conditional, Family
from ..conditionals.networks import NetworkLike
from ..errors import check_int_at_least
from .model import Model
from .priors import CategoricalPrior
from .vae import decoder


class MixtureVAE(Model):
    r"""VAE with a Gaussian-mixture prior.

        y     ~ Categorical(pi)
        z | y ~ Normal(mu_y, Sigma_y)
        x | z ~ likelihood(f(z))

    Two published methods share this model and differ in the guide:

    * VaDE: z <- x. y is left out, and therefore enumerated in the model. This is the default.
    * Rui Shu's GMVAE: y <- x; z <- x, y. Declared as
      `Guide(model, given={"y": ["x"], "z": ["x", "y"]})`.

    From random weights, components often merge or split classes. As in VaDE, training should start
    from a mixture fitted to encodings: `pv.fit(..., initialize=pv.train.MixtureInitialization())`.

    Args:
        x_shape: event shape of `x`.
        num_components: number of components, K.
        latent_dim: size D of z.
        likelihood: a name or a family, as in `VAE`.
        network: as in `VAE`.
        component: family of z | y, `Normal()` (diagonal) or `MultivariateNormal()`. Default:
            `Normal()`.
        learn_weights: whether pi is learned (VaDE) or uniform (Shu).

    Raises:
        UserError: a size is not an integer ≥ 1, or the likelihood is unknown.

    References:
        Jiang et al. 2017, arXiv 1611.05148 (VaDE); Rui Shu 2016, ruishu.io.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.MixtureVAE((6,), num_components=3, latent_dim=2)
        >>> guide = pv.guides.Guide(model)
        >>> pv.evaluate.responsibilities(model, guide, torch.ones(4, 6)).shape  # q(y | x), [N, K]
        torch.Size([4, 3])
    """

    default_guide = {"z": ["x"]}

    def __init__(
        self,
        x_shape: tuple[int, ...],
        num_components: int = 10,
        latent_dim: int = 16,
        likelihood: Family | str = "bernoulli",
        network: NetworkLike | None = None,
        component: Family | None = None,
        learn_weights: bool = True,
    ) -> None:
        super().__init__()
        check_int_at_least(1, num_components=num_components, latent_dim=latent_dim)
        self.p_y = CategoricalPrior(num_components, learned=learn_weights)
        table = MLP(hidden=())  # one row of parameters per component
        self.p_z = Conditional((latent_dim,), {"y": (num_components,)}, component, table)
        self.p_x = decoder(x_shape, {"z": (latent_dim,)}, likelihood, network)

    def forward(
        self,
        x: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        size: int | None = None,
    ) -> torch.Tensor:
        """Samples all variables; observes `x [B, *x_shape]` and one-hot `y [B, K]` if given."""
        with pyro.plate("data", size if x is None else len(x)):
            y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.p_z(y=y))
            return pyro.sample("x", self.p_x(z=z), obs=x)
