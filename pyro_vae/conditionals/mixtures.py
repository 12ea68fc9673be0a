"""The mixture of diagonal normals as one distribution, and three ways to train it."""

import math
from dataclasses import dataclass

import torch
from pyro.distributions import TorchDistribution, constraints

from ..errors import UserError, check_int_at_least, unknown_name_error
from .families import Family, LinearOneHotCategorical, bounded_log_scale

TRAINING = ("stratified", "pathwise", "uniform")


@dataclass(frozen=True)
class MixtureOfNormals(Family):
    r""":math:`q(z) = \sum_k \pi_k \mathrm{Normal}(z; \mu_k, \mathrm{diag}\,\sigma_k^2)`, from a network.

    The distribution is the same however it is trained, and evaluation sees the distribution alone. In training a
    `Guide` takes from it

    * `"stratified"`: a draw from each component, weighted by :math:`\pi_k`, under the density of the
      whole mixture (SIWAE, Morningstar et al. 2020, arXiv 2003.01687):
      :math:`L = \sum_k \pi_k\, E_{q_k}[\log p(x, z) - \log q(z)]`. K decodings a data point, little noise.
    * `"uniform"`: the same with fixed weights :math:`\pi_k = 1/K` (MISELBO, Kviman et al. 2022,
      arXiv 2209.15514). Learned weights tend to leave one component; these cannot.
    * `"pathwise"`: one draw of the mixture, by implicit reparameterization (Graves 2016, arXiv
      1607.05690; Figurnov et al. 2018, arXiv 1805.08498). One decoding; unbiased; the gradient is
      heavy-tailed where components lie far apart.

    The means start apart, at learned offsets `anchor` from what the network says: components that
    are equal stay equal.

    Args:
        num_components: K. It gains at most log K nats over its components' average ELBO.
        training: one of the three.

    Raises:
        UserError: an unknown way to train, K that is no whole number; a latent that is no vector.
    """

    num_components: int = 5
    training: str = "stratified"

    def __post_init__(self):
        check_int_at_least(1, num_components=self.num_components)
        if self.training not in TRAINING:
            raise unknown_name_error("training of a mixture", self.training, TRAINING)

    def outputs(self, shape):
        if len(shape) != 1:
            raise UserError(
                f"a mixture of normals is a distribution of vectors, not of shape {list(shape)}"
            )
        k = self.num_components
        weights = {} if self.training == "uniform" else {"logits": (k,)}
        return {**weights, "loc": (k, *shape), "log_scale": (k, *shape)}

    def free(self, shape):
        return {"anchor": 0.5 * torch.randn(self.num_components, *shape)}

    def __call__(self, shape, loc, log_scale, anchor, logits=None):
        if logits is None:
            logits = torch.zeros_like(loc[..., 0])
        scale = bounded_log_scale(log_scale).exp()
        return NormalMixture(logits, loc + anchor, scale, self.training != "pathwise")


class NormalMixture(TorchDistribution):
    """A mixture of K diagonal normals over vectors, with reparameterized draws.

    Args:
        logits: `[..., K]`, of the weights.
        loc, scale: `[..., K, D]`.
        stratified: whether a guide in training is to draw from every component.
    """

    arg_constraints = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, logits, loc, scale, stratified=False):
        self.log_weights = logits.log_softmax(-1)
        self.loc, self.scale, self.stratified = loc, scale, stratified
        batch = torch.broadcast_shapes(logits.shape[:-1], loc.shape[:-2], scale.shape[:-2])
        super().__init__(batch, loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape, _instance=None):
        batch, parts = torch.Size(batch_shape), self.loc.shape[-2:]
        new = type(self).__new__(type(self))
        new.log_weights = self.log_weights.expand(batch + parts[:1])
        new.loc, new.scale = self.loc.expand(batch + parts), self.scale.expand(batch + parts)
        new.stratified = self.stratified
        TorchDistribution.__init__(new, batch, parts[1:], validate_args=False)
        return new

    @property
    def mean(self):
        return (self.log_weights.exp().unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self):
        weights = self.log_weights.exp().unsqueeze(-1)
        return (weights * (self.scale**2 + self.loc**2)).sum(-2) - self.mean**2

    def component_log_probs(self, value):
        """`[..., K]`: the log-density of `value [..., D]` in each component."""
        return log_normal(value.unsqueeze(-2), self.loc, self.scale).sum(-1)

    def log_prob(self, value):
        return (self.log_weights + self.component_log_probs(value)).logsumexp(-1)

    def sample(self, sample_shape=()):
        with torch.no_grad():
            whole_law = self.expand(torch.Size(sample_shape) + self.batch_shape)
            component = whole_law.components().sample()
            return StratifiedComponent(whole_law, component).rsample()

    def rsample(self, sample_shape=()):
        z = self.sample(sample_shape)
        if not torch.is_grad_enabled():
            return z
        distribution = self.expand(z.shape[:-1])
        return _Implicit.apply(z, distribution.log_weights, distribution.loc, distribution.scale)

    def components(self):
        """The distribution of the component, one-hot `[..., K]`."""
        return LinearOneHotCategorical(logits=self.log_weights)

    def stratum(self, component):
        """A draw's distribution within the given component, one-hot `[..., K]`; see `StratifiedComponent`."""
        return StratifiedComponent(self, component)


class StratifiedComponent(TorchDistribution):
    r"""One component to draw from, and the share of the mixture's density that goes with it.

    A draw is from :math:`\mathrm{Normal}(\mu_k, \sigma_k)`; `log_prob` is
    :math:`\log q(z) - \log \pi_k` with q the whole mixture. With the probability of the component k,
    which a guide sums out, that makes the mixture's density; by itself it is none.
    """

    arg_constraints = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, mixture, component):
        self.mixture, self.component = mixture, component
        batch = torch.broadcast_shapes(component.shape[:-1], mixture.batch_shape)
        super().__init__(batch, mixture.event_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        new = type(self).__new__(type(self))
        new.mixture, new.component = self.mixture, self.component
        TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        return new

    def _of_component(self, parameter):
        return torch.einsum("...k,...kd->...d", self.component.to(parameter.dtype), parameter)

    @property
    def mean(self):
        return self._of_component(self.mixture.loc).expand(self.batch_shape + self.event_shape)

    def rsample(self, sample_shape=()):
        loc = self._of_component(self.mixture.loc)
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        noise = torch.randn(shape, dtype=loc.dtype, device=loc.device)
        return loc + self._of_component(self.mixture.scale) * noise

    def log_prob(self, value):
        share = (self.component * self.mixture.log_weights).sum(-1)
        return self.mixture.log_prob(value) - share


def log_normal(z, loc, scale):
    """Elementwise log Normal(z; loc, scale)."""
    return -0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


class _Implicit(torch.autograd.Function):
    r"""A mixture's draw z as a function of its parameters, by implicit reparameterization.

    z solves :math:`F_d(z_d \mid z_{<d}) = u_d` for fixed uniform u, with

    .. math:: F_d = \sum_k w_{kd}\, \Phi\Big(\frac{z_d - \mu_{kd}}{\sigma_{kd}}\Big), \quad
              w_{kd} \propto \pi_k \prod_{j<d} \mathrm{Normal}(z_j; \mu_{kj}, \sigma_{kj})

    so :math:`dz = -J^{-1}\, \partial_\theta F\, d\theta` with J = dF/dz lower triangular. The backward
    is itself differentiable, z included, so second derivatives are right too.
    """

    @staticmethod
    def forward(ctx, z, log_weights, loc, scale):
        z = z.clone()
        ctx.save_for_backward(z, log_weights, loc, scale)
        return z

    @staticmethod
    def backward(ctx, gradient):
        z, log_weights, loc, scale = ctx.saved_tensors
        t = (z.unsqueeze(-2) - loc) / scale  # [..., K, D]
        log_p = log_normal(z.unsqueeze(-2), loc, scale)
        before = log_p.cumsum(-1) - log_p  # sum over j < d
        w = (log_weights.unsqueeze(-1) + before).softmax(-2)
        phi = torch.special.ndtr(t)
        a = w * (phi - (w * phi).sum(-2, keepdim=True))  # dF_d / d(log weight of k at d)
        density = w * log_p.exp()  # [..., K, D]; summed over k, dF_d / dz_d
        # J[d, j] = sum_k a[k, d] * d log N_kj / dz_j below the diagonal, the density on it
        below = (a.mT @ (-t / scale)).tril(-1)
        diagonal = density.sum(-2).clamp(min=torch.finfo(z.dtype).tiny)
        jacobian = below + torch.diag_embed(diagonal)
        v = torch.linalg.solve_triangular(jacobian.mT, gradient.unsqueeze(-1), upper=True)
        v = v.mT  # [..., 1, D]; the gradient of a parameter is - v dF / dparameter
        weighted = v * a
        later = weighted.sum(-1, keepdim=True) - weighted.cumsum(-1)  # sum over d > j
        to_loc = v * density - later * t / scale
        to_scale = v * density * t - later * (t**2 - 1) / scale
        return None, -weighted.sum(-1), to_loc, to_scale
