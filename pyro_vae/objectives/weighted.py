"""Bounds from several weighted draws: importance weighted, and Rényi's."""

import math
from collections.abc import Callable, Sequence
from numbers import Real

import torch

from ..distributions import GumbelSoftmax
from ..errors import UserError
from ..programs.sites import Site
from ..programs.traces import Traces
from .elbo import ELBO
from .surrogates import borrowed_parameters, mean_of_others, score_function, with_fixed


class IWAE(ELBO):
    r"""The negative importance-weighted bound (Burda, Grosse and Salakhutdinov, arXiv 1509.00519).

    .. math:: -L_S = -E \log \frac1S \sum_s w_s, \quad w_s = \sum_y \frac{p(x, z_s, y)}{q(z_s \mid y, x)},
              \quad z_s \sim q

    Weights are each data point's own; discrete latents are summed exactly, on whichever side. It is what
    `evaluate.log_likelihood(num_samples=S)` reports, with its gradient. With S = 1, and no latent
    summed in the guide, it is the ELBO.

    * A latent summed in the guide drops out: what is summed does not depend on q(y | x). That
      factor is fitted in addition, to the weights, by :math:`-\sum_{s,y} \bar w_{sy} \log q(y \mid
      \cdot)`, the normalized weight :math:`\bar w` and the draws held fixed (value 0: the loss is the bound's).
      So the other factors, and the model, have the bound's gradient alone.
    * A latent sampled without reparameterization has the score function's gradient, its baseline
      the bound without that particle (VIMCO, arXiv 1602.06725).
    * With the stratified `MixtureOfNormals` as guide it is SIWAE (arXiv 2003.01687).

    It has no KL for beta, warm-up or free bits to weigh.

    Args:
        num_particles: samples per data point, S.

    Raises:
        UserError: a relaxed latent, which has no importance weight; sites with scales of their own.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), 2, network=pv.conditionals.MLP((8,)))
        >>> guide, x = pv.guides.Guide(model), torch.ones(4, 6)
        >>> run = pv.fit(model, guide, x, 1, objective=pv.objectives.IWAE(8), progress=False)
    """

    name = "iwae"

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles=num_particles)

    def _is_plain(self) -> bool:
        return False

    def _run(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> Traces:
        traces = super()._run(model, guide, args, kwargs)
        for name, site in [*traces.model.items(), *traces.guide.items()]:
            if isinstance(site["fn"], GumbelSoftmax):
                raise UserError(
                    f"{name!r} is relaxed, and so has no importance weight: discrete='enumerate' or "
                    "'score_function', or the ELBO"
                )
        for name in traces.guide_factors:
            raise UserError(
                f"the guide has a pyro.factor, {name!r}, which is no part of an importance weight: "
                "use the ELBO"
            )
        traces.common_scale(why="an importance weight")
        return traces

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: torch.Tensor, **kwargs: torch.Tensor
    ) -> torch.Tensor:
        """Sum over the minibatch, in nats."""
        traces = self._run(model, guide, args, kwargs)
        return self._loss(traces) + self._score(traces) + self._fit_summed(traces, guide)

    def _loss(self, traces: Traces) -> torch.Tensor:
        bound = self._bound(self._by_particle(traces))
        return -(_scale_of_rows(traces) * bound).sum() - traces.outside_term()

    def _by_particle(self, traces: Traces) -> torch.Tensor:
        """`[S, B]`: what the bound is taken of, log w."""
        return _sum_left(self._wide(traces, traces.log_weights()), keep=2)

    def _bound(self, log_w: torch.Tensor, dim: int = 0) -> torch.Tensor:
        """The bound from particles along `dim` of `log_w`."""
        return log_w.logsumexp(dim) - math.log(self.num_particles)

    def _score(self, traces: Traces) -> torch.Tensor | float:
        """Zero, with the gradient of the draws that are not reparameterized."""
        if all(s["fn"].has_rsample for s in traces.sampled.values()):
            return 0.0
        with torch.no_grad():
            log_w = self._by_particle(traces)
            bound = self._bound(log_w).unsqueeze(0)
            if self.num_particles == 1:
                baseline = mean_of_others(bound)
            else:
                own = torch.eye(len(log_w), dtype=torch.bool, device=log_w.device).unsqueeze(-1)
                baseline = self._bound(torch.where(own, mean_of_others(log_w), log_w), dim=1)
            signal = _scale_of_rows(traces) * (baseline - bound)
        return score_function(traces, signal)

    def _fit_summed(self, traces: Traces, guide: object) -> torch.Tensor | float:
        """Zero, with the gradient that fits latents summed in the guide to the weights."""
        summed = [
            s for n, s in traces.guide.items() if n in traces.enumerated_guide and n in traces.model
        ]
        if not summed:
            return 0.0
        fixed = [*borrowed_parameters(guide), *traces.draws()]
        return with_fixed(self._fit(traces, summed), fixed)

    def _fit(self, traces: Traces, sites: Sequence[Site]) -> torch.Tensor:
        """Zero, with the gradient of the weighted sum of -log q of these sites of the guide."""
        log_q = self._wide(traces, torch.as_tensor(sum(traces.log_prob(s) for s in sites)))
        weights = _scale_of_rows(traces) * self._normalized_weights(traces)
        log_q = torch.where(log_q > -math.inf, log_q, 0.0)  # of a value that q cannot have
        return -(weights * (log_q - log_q.detach())).sum()

    def _normalized_weights(self, traces: Traces) -> torch.Tensor:
        """`[enum..., S, B]`: each entry's part of the data point's total weight, a constant."""
        log_w = self._wide(traces, traces.log_weights().detach())
        return log_w.flatten(0, -2).softmax(0).reshape(log_w.shape)

    def _wide(self, traces: Traces, value: torch.Tensor) -> torch.Tensor:
        """`[enum..., S, B]`, also where no sampled latent reaches, or S = 1."""
        if traces.event_dims == 1:
            value = value.unsqueeze(-2)
        return value.expand(*value.shape[:-2], self.num_particles, traces.size)

    def describe(self) -> dict[str, object]:
        return {"name": self.name, "num_particles": self.num_particles}


class Renyi(IWAE):
    r"""The negative variational Rényi bound (Li and Turner 2016, arXiv 1602.02311).

    .. math:: -L_\alpha = -\frac{1}{1-\alpha} \log \frac1S \sum_s \sum_y q(y)
              \Big(\frac{p(x, z_s, y)}{q(z_s, y \mid x)}\Big)^{1-\alpha}

    Its mean is a bound from S draws: for finite S it lies below the bound of the exact integral
    where alpha < 1. `alpha=0` is the IWAE, 1 the ELBO, `-inf` the largest weight (VR-max). y are the
    latents summed in the guide; those summed in the model are summed within p. Weights are each
    data point's own.

    Args:
        alpha: any number, or -inf.
        num_particles: samples per data point, S.

    Raises:
        UserError: alpha is no such number; and as `IWAE`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), 2, network=pv.conditionals.MLP((8,)))
        >>> guide, objective = pv.guides.Guide(model), pv.objectives.Renyi(alpha=0.5, num_particles=8)
        >>> run = pv.fit(model, guide, torch.ones(4, 6), 1, objective=objective, progress=False)
    """

    name = "renyi"

    def __init__(self, alpha: float = 0.5, num_particles: int = 5) -> None:
        super().__init__(num_particles)
        number: object = alpha
        if not isinstance(number, Real) or math.isnan(alpha) or alpha == math.inf:
            raise UserError(f"alpha of the Renyi bound is a number, or -inf: not {alpha!r}")
        self.alpha: float = alpha

    def _by_particle(self, traces: Traces) -> torch.Tensor:
        r"""`[S, B]`: :math:`\log \sum_y q(y)\, (w_y / q(y))^{1-\alpha}`; at the limits, log w."""
        if self.alpha == 0 or not traces.enumerated_guide:
            return self._power(super()._by_particle(traces))
        log_w = traces.log_weights()
        in_model = [d for d in traces.enumerated_model.values() if log_w.dim() >= -d]
        log_w = log_w.logsumexp(in_model, keepdim=True) if in_model else log_w
        log_q = sum(traces.guide[n]["unscaled_log_prob"] for n in traces.enumerated_guide)
        log_w, log_q = self._wide(traces, log_w), self._wide(traces, torch.as_tensor(log_q))
        if self.alpha == 1:
            return ((log_w - log_q) * log_q.exp()).flatten(0, -3).sum(0)
        if self.alpha == -math.inf:
            return (log_w - log_q).flatten(0, -3).amax(0)
        return _sum_left((1 - self.alpha) * log_w + self.alpha * log_q, keep=2)

    def _power(self, log_w: torch.Tensor) -> torch.Tensor:
        finite = self.alpha not in (1, -math.inf)
        return (1 - self.alpha) * log_w if finite else log_w

    def _bound(self, log_w: torch.Tensor, dim: int = 0) -> torch.Tensor:
        if self.alpha == 1:
            return log_w.mean(dim)
        if self.alpha == -math.inf:
            return log_w.amax(dim)
        return super()._bound(log_w, dim) / (1 - self.alpha)

    def _fit_summed(self, traces: Traces, guide: object) -> torch.Tensor | float:
        return super()._fit_summed(traces, guide) if self.alpha == 0 else 0.0

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "alpha": self.alpha}


def _sum_left(log_values: torch.Tensor, keep: int) -> torch.Tensor:
    """`logsumexp` over all dimensions left of the last `keep`."""
    left = list(range(log_values.dim() - keep))
    return log_values.logsumexp(left) if left else log_values


def _scale_of_rows(traces: Traces) -> torch.Tensor | float:
    """The one scale of all sites, `[B]` if it is one for each row.

    Of particles that are rows or separate runs it was stacked, `[S, B]`: a bound has no particles.
    """
    scale = traces.common_scale(why="an importance weight")
    if not torch.is_tensor(scale) or scale.dim() < 2:
        return scale
    return scale.reshape(-1, scale.shape[-1])[0]
