"""The conditional variational autoencoder and its relatives."""

import hashlib

import pyro
import pyro.distributions as dist
import torch
import torch.nn as nn

from ..conditionals import Conditional, Family
from ..conditionals.networks import NetworkLike, network_between
from ..errors import UserError, check_int_at_least, check_ints_at_least, names, unknown_name_error
from .model import Model
from .nn_baseline import NNBaseline, class_covariates, num_rows
from .priors import prior_or_default
from .vae import decoder

BASELINES = (None, "frozen", "joint")


class CVAE(Model):
    r"""Conditional VAE: p(x | c) with a latent z.

        z | c   ~ Normal(mu(c), diag sigma(c)^2)      (relaxed: p(z), without parents)
        x | z,c ~ likelihood(f(z, c))

    (The paper writes x for our c, and y for our x.) Four methods share this model:

    * CVAE: the guide z <- x, c, which is the default. Its bound on log p(x | c) is
      :math:`E_{q(z|x,c)}[\log p(x|z,c)] - \mathrm{KL}(q(z|x,c) \,\|\, p(z|c))`.
    * GSNN: the prior as guide, `PriorGuide(model)`: :math:`E_{p(z|c)}[\log p(x|z,c)]`.
    * hybrid: `objectives.Hybrid(alpha)`, the sum of both, weighted by alpha and 1 - alpha.
    * relaxed: `conditional_prior=False`; z does not depend on c.

    With a `baseline`, the prediction :math:`\hat x = E[x | c]` of an `NNBaseline` is a further
    parent of z, z | c ~ Normal(mu(c, x_hat), diag sigma(c, x_hat)^2): the paper's recurrent
    connection.
    `train.BaselineInitialization` trains the baseline first; `fit` refuses a frozen baseline that
    was never trained.

    Args:
        x_shape: event shape of `x`.
        c_shape: event shape of the covariates `c`.
        latent_dim: size of z.
        likelihood: a name or a family.
        network: of the prior, the decoder and the baseline.
        conditional_prior: whether the prior depends on c.
        decoder_parents: the parents of x: `("z", "c")`, or `("z",)`, with c acting through z alone.
        prior: a module whose `forward()` is the distribution of z, for `conditional_prior=False`.
            Default: `StandardNormalPrior`.
        baseline: None; `"frozen"`, which training leaves unchanged; or `"joint"`, trained with the
            model.
        c_is_class: whether c is a class as a one-hot vector, as from `data.Labels`. `sample` and
            the other functions of `generate` then take integers for c.

    Raises:
        UserError: x would not depend on c, a baseline is set without a conditional prior, or there
            would be two priors.

    References:
        Sohn, Lee and Yan 2015, NeurIPS.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.CVAE((6,), c_shape=(2,), latent_dim=2)
        >>> guide = pv.guides.Guide(model)  # z <- x, c
        >>> pv.evaluate.elbo(model, guide, torch.ones(4, 6), c=torch.zeros(4, 2)).shape
        torch.Size([4])
    """

    default_guide = {"z": ["x", "c"]}
    observes = ("x", "c")

    def __init__(
        self,
        x_shape: tuple[int, ...],
        c_shape: tuple[int, ...],
        latent_dim: int = 20,
        likelihood: Family | str = "bernoulli",
        network: NetworkLike | None = None,
        conditional_prior: bool = True,
        decoder_parents: tuple[str, ...] = ("z", "c"),
        prior: nn.Module | None = None,
        baseline: str | None = None,
        c_is_class: bool = False,
    ) -> None:
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
            raise UserError(
                "x would not depend on c: set conditional_prior=True, or add 'c' to decoder_parents"
            )
        if baseline not in BASELINES:
            raise unknown_name_error("baseline", str(baseline), [str(b) for b in BASELINES])
        if prior is not None and conditional_prior:
            raise UserError(
                "this model has a conditional prior p(z | c): set conditional_prior=False to pass "
                "another prior"
            )
        if baseline and not conditional_prior:
            raise UserError(
                "the prediction of a baseline is a parent of p(z | c): set conditional_prior=True"
            )
        self.baseline: NNBaseline | None = None
        if baseline:
            self.baseline = NNBaseline(x_shape, c_shape, likelihood, network, c_is_class)
            self.baseline.requires_grad_(baseline == "joint")
            self._untrained = _fingerprint(self.baseline)
        if conditional_prior:
            parents = {"c": shapes["c"]}
            if baseline:
                parents["baseline_prediction"] = tuple(x_shape)
            prior_network = network_between(network, *parents.values())
            self.p_z: nn.Module = Conditional(shapes["z"], parents, None, prior_network)
        else:
            self.p_z = prior_or_default(prior, "z", latent_dim)
        self.p_x = decoder(x_shape, {n: shapes[n] for n in decoder_parents}, likelihood, network)

    def prior(self, c: torch.Tensor | None) -> dist.TorchDistribution:
        """The distribution of z given `c [B, *c_shape]`, and the baseline's prediction, if any."""
        if not isinstance(self.p_z, Conditional):
            return self.p_z()
        if self.baseline is None:
            return self.p_z(c=c)
        return self.p_z(c=c, baseline_prediction=self.baseline.p_x(c=c).mean)

    def check_trainable(self) -> None:
        """Raise if a frozen baseline was never trained; `fit` calls this before it trains."""
        if self.baseline is None or any(p.requires_grad for p in self.baseline.parameters()):
            return
        if _fingerprint(self.baseline) == self._untrained:
            raise UserError(
                "the frozen baseline was never trained: initialize=BaselineInitialization() trains "
                "it first (--initialize baseline), baseline='joint' trains it with the model"
            )

    def forward(
        self,
        x: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
        size: int | None = None,
    ) -> torch.Tensor:
        """Samples all variables given `c [B, *c_shape]`; observes `x [B, *x_shape]` if given."""
        with pyro.plate("data", num_rows(c)):
            z = pyro.sample("z", self.prior(c))
            parents = {"z": z, "c": c}
            return pyro.sample("x", self.p_x(**{n: parents[n] for n in self.p_x.given}), obs=x)


def _fingerprint(module: nn.Module) -> str:
    """A digest of a module's parameters that does not depend on their device or precision."""
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().double().cpu().numpy().tobytes())
    return digest.hexdigest()
