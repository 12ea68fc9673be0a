"""The mixture of diagonal normal distributions, with reparameterized draws."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints

from .one_hot import LinearOneHotCategorical, linear_log_prob


class NormalMixture(TorchDistribution):
    r"""A mixture of K diagonal normal distributions over vectors, with reparameterized draws.

    .. math:: q(z) = \sum_k \pi_k\, \mathrm{Normal}(z;\, \mu_k, \mathrm{diag}\,\sigma_k^2)

    `rsample` uses implicit reparameterization.

    Args:
        logits: `[..., K]`, of the weights :math:`\pi`.
        loc: `[..., K, D]`.
        scale: `[..., K, D]`, positive.
        stratified: whether a guide in training draws from every component; see
            `StratifiedComponent`.

    References:
        Graves 2016, arXiv 1607.05690; Figurnov et al. 2018, arXiv 1805.08498.

    Example:
        >>> import torch, pyro_vae as pv
        >>> loc = torch.tensor([[-1.0], [1.0]])
        >>> fn = pv.distributions.NormalMixture(torch.zeros(2), loc, torch.ones(2, 1))
        >>> fn.mean, fn.variance
        (tensor([0.]), tensor([2.]))
        >>> fn.log_prob(torch.zeros(1))  # both components have this density at 0
        tensor(-1.4189)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        logits: torch.Tensor,
        loc: torch.Tensor,
        scale: torch.Tensor,
        stratified: bool = False,
    ) -> None:
        self.log_weights = logits.log_softmax(-1)
        self.loc, self.scale, self.stratified = loc, scale, stratified
        batch = torch.broadcast_shapes(logits.shape[:-1], loc.shape[:-2], scale.shape[:-2])
        super().__init__(batch, loc.shape[-1:], validate_args=False)

    def expand(
        self, batch_shape: Sequence[int], _instance: "NormalMixture | None" = None
    ) -> "NormalMixture":
        """The same distribution with its batch shape expanded."""
        batch, event = torch.Size(batch_shape), self.loc.shape[-2:]
        new = type(self).__new__(type(self))
        new.log_weights = self.log_weights.expand(batch + event[:1])
        new.loc, new.scale = self.loc.expand(batch + event), self.scale.expand(batch + event)
        new.stratified = self.stratified
        TorchDistribution.__init__(new, batch, event[1:], validate_args=False)
        return new

    @property
    def mean(self) -> torch.Tensor:
        return (self.log_weights.exp().unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> torch.Tensor:
        weights = self.log_weights.exp().unsqueeze(-1)
        # far from zero, the difference of the squares would lose the digits
        distance = self.loc - self.mean.unsqueeze(-2)
        return (weights * (self.scale**2 + distance**2)).sum(-2)

    def component_log_probs(self, value: torch.Tensor) -> torch.Tensor:
        """`[..., K]`: the log-density of `value [..., D]` under each component, in nats."""
        return _normal_log_prob(value.unsqueeze(-2), self.loc, self.scale).sum(-1)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """`[...]`: the log-density of `value [..., D]`, in nats."""
        return (self.log_weights + self.component_log_probs(value)).logsumexp(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws `[..., D]` without gradient."""
        with torch.no_grad():
            mixture = self.expand(torch.Size(sample_shape) + self.batch_shape)
            component = mixture.component_distribution().sample()
            return StratifiedComponent(mixture, component).rsample()

    def rsample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws `[..., D]` with gradients with respect to weights, means and scales."""
        z = self.sample(sample_shape)
        if not torch.is_grad_enabled():
            return z
        mixture = self.expand(z.shape[:-1])
        return ImplicitReparameterization.apply(z, mixture.log_weights, mixture.loc, mixture.scale)

    def component_distribution(self) -> LinearOneHotCategorical:
        """The distribution of the component as a one-hot vector `[..., K]`."""
        return LinearOneHotCategorical(logits=self.log_weights)

    def stratified_component(self, component: torch.Tensor) -> "StratifiedComponent":
        """The distribution of a draw within `component`, one-hot `[..., K]`."""
        return StratifiedComponent(self, component)


class StratifiedComponent(TorchDistribution):
    r"""One component of a `NormalMixture`, scored under the density of the whole mixture.

    A draw is from :math:`\mathrm{Normal}(\mu_k, \sigma_k)`. `log_prob` is
    :math:`\log q(z) - \log \pi_k`, with q the whole mixture. Together with the log-probability of
    the component k, which a guide enumerates, it sums to the log-density of the mixture. Alone it
    is not a normalized log-density.

    Args:
        mixture: the mixture.
        component: `[..., K]`, one-hot.

    References:
        Morningstar et al. 2020, arXiv 2003.01687.

    Example:
        >>> import torch, pyro_vae as pv
        >>> loc = torch.tensor([[-1.0], [1.0]])
        >>> mixture = pv.distributions.NormalMixture(torch.zeros(2), loc, torch.ones(2, 1))
        >>> components = mixture.component_distribution()
        >>> y = components.sample()
        >>> fn = mixture.stratified_component(y)
        >>> z = fn.rsample()
        >>> torch.allclose(components.log_prob(y) + fn.log_prob(z), mixture.log_prob(z))
        True
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, mixture: NormalMixture, component: torch.Tensor) -> None:
        self.mixture, self.component = mixture, component
        batch = torch.broadcast_shapes(component.shape[:-1], mixture.batch_shape)
        super().__init__(batch, mixture.event_shape, validate_args=False)

    def expand(
        self, batch_shape: Sequence[int], _instance: "StratifiedComponent | None" = None
    ) -> "StratifiedComponent":
        """The same distribution with its batch shape expanded."""
        new = type(self).__new__(type(self))
        new.mixture, new.component = self.mixture, self.component
        TorchDistribution.__init__(
            new, torch.Size(batch_shape), self.event_shape, validate_args=False
        )
        return new

    def _of_component(self, parameter: torch.Tensor) -> torch.Tensor:
        """The row of `parameter [..., K, D]` that belongs to the component."""
        return torch.einsum("...k,...kd->...d", self.component.to(parameter.dtype), parameter)

    @property
    def mean(self) -> torch.Tensor:
        return self._of_component(self.mixture.loc).expand(self.batch_shape + self.event_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws `[..., D]` from the component."""
        loc = self._of_component(self.mixture.loc)
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        noise = torch.randn(shape, dtype=loc.dtype, device=loc.device)
        return loc + self._of_component(self.mixture.scale) * noise

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        r"""`[...]`: :math:`\log q(z) - \log \pi_k` of `value [..., D]`, in nats."""
        log_weight = linear_log_prob(self.component, self.mixture.log_weights)
        return self.mixture.log_prob(value) - log_weight


def _normal_log_prob(z: torch.Tensor, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Elementwise log Normal(z; loc, scale)."""
    return -0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


class ImplicitReparameterization(torch.autograd.Function):
    r"""A mixture's draw z as a function of its parameters, by implicit reparameterization.

    z solves :math:`F_d(z_d \mid z_{<d}) = u_d` for fixed uniform u, with

    .. math:: F_d = \sum_k w_{kd}\, \Phi\Big(\frac{z_d - \mu_{kd}}{\sigma_{kd}}\Big), \quad
              w_{kd} \propto \pi_k \prod_{j<d} \mathrm{Normal}(z_j; \mu_{kj}, \sigma_{kj})

    so :math:`dz = -J^{-1}\, \partial_\theta F\, d\theta` with J = dF/dz lower triangular. The
    backward pass is itself differentiable, also with respect to z, so second derivatives are right.

    References:
        Figurnov et al. 2018, arXiv 1805.08498.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: torch.Tensor,
        log_weights: torch.Tensor,
        loc: torch.Tensor,
        scale: torch.Tensor,
    ) -> torch.Tensor:
        """A copy of `z [..., D]`, differentiable with respect to the mixture's parameters."""
        z = z.clone()
        ctx.save_for_backward(z, log_weights, loc, scale)
        return z

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients with respect to log-weights, means and scales."""
        (gradient,) = gradients
        z, log_weights, loc, scale = ctx.saved_tensors
        t = (z.unsqueeze(-2) - loc) / scale  # [..., K, D]
        log_p = _normal_log_prob(z.unsqueeze(-2), loc, scale)
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
