"""The conditional variational autoencoder and its relatives."""

import hashlib

import pyro
import torch.nn as nn

from ..conditionals import Conditional, Family, Network
from ..conditionals.networks import network_between
from ..errors import UserError, check_int_at_least, check_ints_at_least, names, unknown_name_error
from .model import Model
from .nn_baseline import NNBaseline, class_covariates, rows
from .priors import prior_or_default
from .vae import decoder

BASELINES = (None, "frozen", "joint")


class CVAE(Model):
    r"""Conditional VAE (Sohn, Lee and Yan, NeurIPS 2015): p(x | c) with a latent.

        z | c   ~ Normal(mu(c), sigma(c))      (relaxed: p(z), without parents)
        x | z,c ~ likelihood(f(z, c))

    (The paper writes x for our c, and y for our x.) Four objectives or guides share this model:

    * CVAE: z <- x, c, the default. Its bound on log p(x | c):
      :math:`E_{q(z|x,c)}[\log p(x|z,c)] - \mathrm{KL}(q(z|x,c) \,\|\, p(z|c))`.
    * GSNN: the prior itself, `PriorGuide(model)`: :math:`E_{p(z|c)}[\log p(x|z,c)]`.
    * hybrid: `objectives.Hybrid(alpha)`, their sum weighted by alpha and 1 - alpha.
    * relaxed: `conditional_prior=False`: z does not depend on c.

    With a `baseline`, the prediction of an `NNBaseline` :math:`\hat x = E[x | c]` is a further parent:
    z | c ~ Normal(mu(c, x_hat), sigma(c, x_hat)), the paper's recurrent connection.
    `train.BaselineInitialization` trains it first; `fit` refuses a frozen one that is still as it
    was made.

    Args:
        x_shape, c_shape: event shapes of `x` and of the covariates `c`.
        latent_dim: size of z.
        likelihood: a name or a family.
        network: of the prior, the decoder and the baseline.
        conditional_prior: whether the prior depends on c.
        decoder_parents: the parents of x: `("z", "c")`, or `("z",)`, which sees c through z alone.
        prior: a module whose `forward()` is the distribution of z, for `conditional_prior=False`.
            Default: `StandardNormalPrior`.
        baseline: None; `"frozen"`, which this model's training leaves as it is; or `"joint"`,
            trained with it.
        c_is_class: whether c is a class as a one-hot vector, as `data.Labels` makes it. `sample` and
            its relatives then take whole numbers for c.

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
        decoder_parents: tuple[str, ...] = ("z", "c"),
        prior: nn.Module | None = None,
        baseline: str | None = None,
        c_is_class: bool = False,
    ):
        super().__init__()
        check_int_at_least(1, latent_dim=latent_dim)
        check_ints_at_least(1, x_shape=x_shape, c_shape=c_shape)
        names(decoder_parents=decoder_parents)
        shapes = {"z": (latent_dim,), "c": tuple(c_shape)}
        self.covariates = {"c": tuple(c_shape)}
        self.class_covariates = class_covariates(c_shape, c_is_class)
        for name in decoder_parents:
            if name not in shapes:
                raise unknown_name_error("parent of x", name, shapes)
        if not conditional_prior and "c" not in decoder_parents:
            raise UserError("neither the prior nor the decoder sees c: x would not depend on it")
        if baseline not in BASELINES:
            raise unknown_name_error("baseline", str(baseline), [str(b) for b in BASELINES])
        if prior is not None and conditional_prior:
            raise UserError(
                "p(z | c) is this model's own: another prior needs conditional_prior=False"
            )
        if baseline and not conditional_prior:
            raise UserError(
                "a baseline's prediction is a parent of p(z | c): needs conditional_prior"
            )
        self.baseline = None
        if baseline:
            self.baseline = NNBaseline(x_shape, c_shape, likelihood, network, c_is_class)
            self.baseline.requires_grad_(baseline == "joint")
            self._untrained = _fingerprint(self.baseline)
        if conditional_prior:
            given = {
                "c": shapes["c"],
                **({"baseline_prediction": tuple(x_shape)} if baseline else {}),
            }
            inner = network_between(network, *given.values())
            self.p_z = Conditional(shapes["z"], given, None, inner)
        else:
            self.p_z = prior_or_default(prior, "z", latent_dim)
        self.p_x = decoder(x_shape, {n: shapes[n] for n in decoder_parents}, likelihood, network)

    def prior(self, c):
        """The distribution of z given c, and given the baseline's prediction where there is one."""
        if not isinstance(self.p_z, Conditional):
            return self.p_z()
        baseline_prediction = (
            {} if self.baseline is None else {"baseline_prediction": self.baseline.p_x(c=c).mean}
        )
        return self.p_z(c=c, **baseline_prediction)

    def check_trainable(self):
        """Raise where a frozen baseline was never trained: called by `fit` before it trains."""
        frozen = self.baseline is not None and not any(
            p.requires_grad for p in self.baseline.parameters()
        )
        if frozen and _fingerprint(self.baseline) == self._untrained:
            raise UserError(
                "the frozen baseline was never trained: initialize=BaselineInitialization() trains "
                "it first (--initialize baseline), baseline='joint' trains it with the model"
            )

    def forward(self, x=None, c=None, size=None):
        with pyro.plate("data", rows(c)):
            z = pyro.sample("z", self.prior(c))
            parents = {"z": z, "c": c}
            return pyro.sample("x", self.p_x(**{n: parents[n] for n in self.p_x.given}), obs=x)


def _fingerprint(module):
    """A digest of a module's parameters, whatever device and floating-point type they are moved to."""
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().double().cpu().numpy().tobytes())
    return digest.hexdigest()
