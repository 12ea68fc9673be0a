"""A conditional model without latents: the baseline of conditional deep generative models."""

import pyro

from ..conditionals import Family, Network
from ..errors import UserError, check_ints_at_least
from .model import Model
from .vae import decoder


class NNBaseline(Model):
    r"""A network's prediction of x from c, with no latent: its outputs are independent given c.

        x | c ~ likelihood(f(c))

    The "NN baseline" of Sohn, Lee and Yan (NeurIPS 2015). Its guide is empty, its ELBO the exact
    log p(x | c).

    Args:
        x_shape, c_shape: event shapes of `x` and of the covariates `c`.
        likelihood: a name or a family, as in `VAE`.
        network: as in `VAE`.
        c_is_class: as in `CVAE`.
    """

    default_guide = {}
    observes = ("x", "c")

    def __init__(
        self,
        x_shape: tuple[int, ...],
        c_shape: tuple[int, ...],
        likelihood: Family | str = "bernoulli",
        network: Network | None = None,
        c_is_class: bool = False,
    ):
        super().__init__()
        check_ints_at_least(1, x_shape=x_shape, c_shape=c_shape)
        self.covariates = {"c": tuple(c_shape)}
        self.class_covariates = class_covariates(c_shape, c_is_class)
        self.p_x = decoder(x_shape, {"c": c_shape}, likelihood, network)

    def forward(self, x=None, c=None, size=None):
        with pyro.plate("data", rows(c)):
            return pyro.sample("x", self.p_x(c=c), obs=x)


def class_covariates(c_shape, c_is_class):
    """Names of the covariates that are classes, for `sample`: `("c",)` or none."""
    if c_is_class and (len(c_shape) != 1 or c_shape[0] < 2):
        raise UserError(
            f"c_is_class is for one-hot vectors of 2 classes or more, not for {list(c_shape)}"
        )
    return ("c",) if c_is_class else ()


def rows(c):
    """How many data the covariates `c [N, ...]` are of."""
    if c is None:
        raise UserError("a conditional model needs its covariates: pass c= of shape [N, ...]")
    return len(c)
