"""M1+M2: M2 on the latent of a VAE, as one generative model."""

import pyro
import torch

from ..conditionals import Conditional, Family
from ..conditionals.networks import NetworkLike, network_between
from ..errors import check_int_at_least
from .model import Model
from .priors import CategoricalPrior, StandardNormalPrior
from .vae import decoder


class M1M2(Model):
    r"""The stack M1+M2 as one generative model.

        y         ~ Categorical(1/K)
        z2        ~ Normal(0, I)
        z1 | y,z2 ~ Normal(mu(y, z2), diag sigma(y, z2)^2)
        x | z1    ~ likelihood(f(z1))

    Its guide: z1 <- x; y <- z1; z2 <- z1, y. The paper trains it in two stages, as
    `train.StackInitialization` does: first p(x | z1) and q(z1 | x) as a plain VAE (M1), then, with
    these frozen, the rest (M2 on draws of z1).

    Args:
        x_shape: event shape of `x`.
        num_classes: number of classes, K.
        latent_dim: size of z1.
        z2_dim: size of z2. Default: `latent_dim` (50 both, in the authors' code).
        likelihood: a name or a family, as in `VAE`.
        network: as in `VAE`.

    Raises:
        UserError: a size is not an integer ≥ 1, or the likelihood is unknown.

    References:
        Kingma, Mohamed, Rezende and Welling 2014, arXiv 1406.5298.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.M1M2((6,), num_classes=3, latent_dim=2)
        >>> guide = pv.guides.Guide(model)
        >>> pv.evaluate.elbo_terms(model, guide, torch.ones(4, 6)).keys()
        dict_keys(['y', 'z2', 'z1', 'x'])
    """

    default_guide = {"z1": ["x"], "y": ["z1"], "z2": ["z1", "y"]}
    style_latent = "z2"

    def __init__(
        self,
        x_shape: tuple[int, ...],
        num_classes: int = 10,
        latent_dim: int = 20,
        z2_dim: int | None = None,
        likelihood: Family | str = "bernoulli",
        network: NetworkLike | None = None,
    ) -> None:
        super().__init__()
        z2_dim = latent_dim if z2_dim is None else z2_dim
        check_int_at_least(1, num_classes=num_classes, latent_dim=latent_dim, z2_dim=z2_dim)
        self.p_y = CategoricalPrior(num_classes)
        self.p_z2 = StandardNormalPrior(z2_dim)
        parents = {"y": (num_classes,), "z2": (z2_dim,)}
        self.p_z1 = Conditional((latent_dim,), parents, network=network_between(network))
        self.p_x = decoder(x_shape, {"z1": (latent_dim,)}, likelihood, network)

    def forward(
        self,
        x: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        size: int | None = None,
    ) -> torch.Tensor:
        """Samples all variables; observes `x [B, *x_shape]` and one-hot `y [B, K]` if given."""
        with pyro.plate("data", size if x is None else len(x)):
            y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z2 = pyro.sample("z2", self.p_z2())
            z1 = pyro.sample("z1", self.p_z1(y=y, z2=z2))
            return pyro.sample("x", self.p_x(z1=z1), obs=x)
