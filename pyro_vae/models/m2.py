"""M2: a class and a style generate a data point."""

import pyro
import torch
import torch.nn as nn

from ..conditionals import Family
from ..conditionals.networks import NetworkLike
from ..errors import check_int_at_least
from .model import Model
from .priors import CategoricalPrior, prior_or_default
from .vae import decoder


class M2(Model):
    r"""M2: a class y and a style z generate x.

        y       ~ Categorical(1/K)
        z       ~ Normal(0, I)                 (or any `prior`)
        x | y,z ~ likelihood(f(y, z))

    Its guide in the paper: y <- x; z <- x, y. If some data are labeled, it is trained by
    `objectives.SemiSupervised`. Without labels it does not cluster: a decoder of z alone reaches
    the same likelihood, an ignored y costs nothing, and q(y | x) becomes p(y), with ln K nats of
    entropy, or carries information other than the class (`python -m benchmarks.quality.m2_clustering`).

    Args:
        x_shape: event shape of `x`.
        num_classes: number of classes, K.
        latent_dim: size of z.
        likelihood: a name or a family, as in `VAE`.
        network: as in `VAE`.
        prior: as in `VAE`.

    Raises:
        UserError: a size is not an integer ≥ 1, or the likelihood is unknown.

    References:
        Kingma, Mohamed, Rezende and Welling 2014, arXiv 1406.5298.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.M2((6,), num_classes=3, latent_dim=2)
        >>> guide = pv.guides.Guide(model)  # y <- x; z <- x, y
        >>> pv.evaluate.elbo_terms(model, guide, torch.ones(4, 6)).keys()
        dict_keys(['y', 'z', 'x'])
    """

    default_guide = {"y": ["x"], "z": ["x", "y"]}
    style_latent = "z"  # what the class leaves undetermined in x

    def __init__(
        self,
        x_shape: tuple[int, ...],
        num_classes: int = 10,
        latent_dim: int = 20,
        likelihood: Family | str = "bernoulli",
        network: NetworkLike | None = None,
        prior: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_int_at_least(1, num_classes=num_classes, latent_dim=latent_dim)
        self.p_y = CategoricalPrior(num_classes)
        self.p_z = prior_or_default(prior, "z", latent_dim)
        parents = {"y": (num_classes,), "z": (latent_dim,)}
        self.p_x = decoder(x_shape, parents, likelihood, network)

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
            return pyro.sample("x", self.p_x(y=y, z=z), obs=x)
