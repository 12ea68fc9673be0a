"""The conditional variational autoencoder and its relatives."""

import pyro
import torch.nn as nn

from ..conditionals import Conditional, Family, Network
from ..errors import UserError, unknown
from ..program import Program
from .nn_baseline import NNBaseline, rows
from .priors import StandardNormal
from .vae import decoder

BASELINES = (None, "frozen", "joint")


class CVAE(Program):
    r"""Conditional VAE (Sohn, Lee and Yan, NeurIPS 2015): p(x | c) with a latent.

        z | c   ~ Normal(mu(c), sigma(c))      (relaxed: p(z), without parents)
        x | z,c ~ likelihood(f(z, c))

    (The paper writes x for our c, and y for our x.) Four objectives or guides share this model:

    * CVAE: z <- x, c, the default. Its bound on log p(x | c):
      :math:`E_{q(z|x,c)}[\log p(x|z,c)] - \mathrm{KL}(q(z|x,c) \,\|\, p(z|c))`.
    * GSNN: the prior itself, `PriorGuide(model)`: :math:`E_{p(z|c)}[\log p(x|z,c)]`.
    * hybrid: `objectives.Hybrid(alpha)`, their sum weighted by alpha and 1 - alpha.
    * relaxed: `conditional_prior=False`: z does not depend on c.

    With a `baseline`, an `NNBaseline`'s guess :math:`\hat x = E[x | c]` is a further parent:
    z | c ~ Normal(mu(c, guess), sigma(c, guess)), the paper's recurrent connection.
    `train.BaselineInitialisation` trains it first.

    Args:
        x_shape, c_shape: event shapes of `x` and of the covariates `c`.
        latent_dim: size of z.
        likelihood: a name or a family.
        network: of the prior, the decoder and the baseline.
        conditional_prior: whether the prior depends on c.
        decoder_given: the parents of x: `("z", "c")`, or `("z",)`, which sees c through z alone.
        prior: a module whose `forward()` is the distribution of z, for `conditional_prior=False`;
            `StandardNormal` unless said.
        baseline: None; `"frozen"`, which this model's training leaves as it is; or `"joint"`,
            trained with it.

    Raises:
        UserError: x would not depend on c, a baseline has no prior to be given to, or there would be
            two priors.
    """

    default_guide = {"z": ["x", "c"]}
    observes = ("x", "c")

    def __init__(
        self,
        x_shape: tuple[int, ...],
        c_shape: tuple[int, ...],
        latent_dim: int = 20,
        likelihood: Family | str = "bernoulli",
        network: Network | None = None,
        conditional_prior: bool = True,
        decoder_given: tuple[str, ...] = ("z", "c"),
        prior: nn.Module | None = None,
        baseline: str | None = None,
    ):
        super().__init__()
        shapes = {"z": (latent_dim,), "c": tuple(c_shape)}
        self.covariates = {"c": tuple(c_shape)}
        for name in decoder_given:
            if name not in shapes:
                raise unknown("parent of x", name, shapes)
        if not conditional_prior and "c" not in decoder_given:
            raise UserError("neither the prior nor the decoder sees c: x would not depend on it")
        if baseline not in BASELINES:
            raise unknown("baseline", str(baseline), [str(b) for b in BASELINES])
        if prior is not None and conditional_prior:
            raise UserError(
                "p(z | c) is this model's own: another prior needs conditional_prior=False"
            )
        if baseline and not conditional_prior:
            raise UserError("a baseline's guess is a parent of p(z | c): needs conditional_prior")
        self.baseline = None
        if baseline:
            self.baseline = NNBaseline(x_shape, c_shape, likelihood, network)
            self.baseline.requires_grad_(baseline == "joint")
        if conditional_prior:
            given = {"c": shapes["c"], **({"guess": tuple(x_shape)} if baseline else {})}
            self.p_z = Conditional(shapes["z"], given, None, network)
        else:
            self.p_z = StandardNormal(latent_dim) if prior is None else prior
        self.p_x = decoder(x_shape, {n: shapes[n] for n in decoder_given}, likelihood, network)

    def prior(self, c):
        """The distribution of z given c, and given the baseline's guess where there is one."""
        if not isinstance(self.p_z, Conditional):
            return self.p_z()
        guess = {} if self.baseline is None else {"guess": self.baseline.p_x(c=c).mean}
        return self.p_z(c=c, **guess)

    def forward(self, x=None, c=None, size=None):
        with pyro.plate("data", rows(c)):
            z = pyro.sample("z", self.prior(c))
            parents = {"z": z, "c": c}
            return pyro.sample("x", self.p_x(**{n: parents[n] for n in self.p_x.given}), obs=x)
