"""Gradients through draws alone: sticking the landing, and doubly reparameterized."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.poutine.messenger import Messenger

from ..distributions import GumbelSoftmax, StratifiedComponent
from ..errors import UserError
from ..programs.sites import Site, is_subsample, whole_mask
from .elbo import ELBO
from .weighted import IWAE


class STL(ELBO):
    r"""The ELBO, with the path derivative: "sticking the landing" (Roeder et al. 2017, arXiv 1703.09194).

    The ELBO's gradient for the guide has two parts: through each draw z, and
    :math:`-\nabla_\phi \log q_\phi(z \mid \cdot)` at a fixed draw. The second, of mean zero, is
    dropped, of every sampled, reparameterized latent; so nothing is left where q is the
    posterior: there the gradient is zero for every draw. Where a later factor has z as a parent,
    the gradient goes through it.

    Unbiased, with these kept whole: the probabilities of latents summed exactly, as weights and in
    their own KL; a stratified mixture's weights (what is dropped of its components is of mean
    zero all together); the score function of a latent sampled without reparameterization. Of a
    relaxed latent nothing is dropped: its log-prob is not its density. beta, warm-up and free bits
    weigh as in the `ELBO`.

    The decoder is gone back through twice, once for z. A flow's density is taken of a given
    value: D passes where that is the slow direction, as for the IAF.

    Args:
        options: the `ELBO`'s.

    Raises:
        UserError: `analytic_kl`, which has no draw to go through.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), 2, network=pv.conditionals.MLP((8,)))
        >>> guide, x = pv.guides.Guide(model), torch.ones(4, 6)
        >>> run = pv.fit(model, guide, x, 1, objective=pv.objectives.STL(), progress=False)
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.analytic_kl:
            raise UserError("STL goes through the draws of the KL: analytic_kl has none")

    def _is_plain(self) -> bool:
        return False

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: torch.Tensor, **kwargs: torch.Tensor
    ) -> torch.Tensor:
        """Sum over the minibatch, in nats."""
        with DetachSamples() as cut:
            traces = self._run(model, guide, args, kwargs)
        detached = [
            n
            for n, site in traces.sampled.items()
            if n in cut.names and not isinstance(site["fn"], GumbelSoftmax)
        ]
        return self._loss(traces.with_detached_log_probs(detached)) + cut.path(self._loss(traces))

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "name": "stl"}


class DReG(IWAE):
    r"""The IWAE bound, its gradient doubly reparameterized (Tucker et al. 2019, arXiv 1810.04152).

    For the guide, with :math:`\bar w_s` the normalized weight of a particle,

    .. math:: \nabla_\phi L_S = E \sum_s \bar w_s^2\, \frac{\partial \log w_s}{\partial z_s}
              \frac{\partial z_s}{\partial \phi}

    and for the model the IWAE's gradient: the same mean as `IWAE`, and a signal-to-noise ratio
    that grows with S. Generally, each draw v gets the bound's gradient dL/dv, by way of the
    draws that follow from it as well, times the fraction of the weights that v takes part in: of a draw
    made for one value of a summed latent, that value's; of a masked draw, 1. With S = 1, and none summed
    in the guide, it is `STL`. A stratified mixture's draws have the IWAE's own gradient.

    Costs as `STL`; what is summed in the guide is fitted as by `IWAE`.

    Args:
        num_particles: samples per data point, S.

    Raises:
        UserError: as `IWAE`; a latent that is sampled without reparameterization.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), 2, network=pv.conditionals.MLP((8,)))
        >>> guide, x = pv.guides.Guide(model), torch.ones(4, 6)
        >>> run = pv.fit(model, guide, x, 1, objective=pv.objectives.DReG(8), progress=False)
    """

    name = "dreg"

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: torch.Tensor, **kwargs: torch.Tensor
    ) -> torch.Tensor:
        """Sum over the minibatch, in nats."""
        with DetachSamples() as cut:
            traces = self._run(model, guide, args, kwargs)
        if not traces.grid.is_one_run:
            raise UserError(
                "DReG weighs each draw once: it needs a pair whose discrete latents are enumerated in "
                "parallel, and whose rows can be repeated; the IWAE takes any"
            )
        fractions: dict[str, torch.Tensor] = {}
        weights = traces.grid.merged(self._normalized_weights(traces))
        for name, site in traces.sampled.items():
            fn = site["fn"]
            if not fn.has_rsample:
                raise UserError(
                    f"{name!r} is sampled without a reparameterized gradient, which DReG needs: "
                    "enumerate it, or take the IWAE"
                )
            # a component's draws are scored by the whole mixture, not by the distribution that they are from
            if not isinstance(fn, StratifiedComponent):
                fraction = weights.sum_to_size(fn.batch_shape)
                mask, _ = whole_mask(site)
                if mask is not None:  # masked, its log q is no part of the weights
                    mask = traces.grid.merged(torch.as_tensor(mask, device=fraction.device))
                    fraction = torch.where(mask, fraction, 1.0)
                fractions[name] = fraction.reshape(fn.batch_shape + (1,) * fn.event_dim)
        fit = self._fit_summed(traces, guide)  # it takes the draws as fixed: it has no path
        return (
            self._loss(traces.with_detached_log_probs(fractions))
            + cut.path(self._loss(traces), fractions)
            + fit
        )


class DetachSamples(Messenger):
    """Reparameterized draws are taken off the graph: what follows has their values.

    So a loss depends on the guide's parameters only where they are read at fixed draws, and `path`
    is the rest of its gradient: no program need be run twice, nor its parameters be known.
    """

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[
            tuple[str, torch.Tensor, torch.Tensor]
        ] = []  # in sampling order: the site's name, the draw, and the value in its place

    @property
    def names(self) -> set[str]:
        return {name for name, _, _ in self.draws}

    def _pyro_sample(self, msg: Site) -> None:
        fn = msg["fn"]
        if msg["done"] or msg["is_observed"] or is_subsample(msg) or not fn.has_rsample:
            return
        draw = fn(*msg["args"], **msg["kwargs"])
        msg["value"], msg["done"] = _Severed.apply(draw), True
        self.draws.append((msg["name"], draw, msg["value"]))

    def path(
        self, loss: torch.Tensor | float, factors: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor | float:
        r"""Zero, with the gradient :math:`\sum_v c_v \frac{d\,loss}{dv} \frac{\partial v}{\partial\phi}`.

        The sum is over draws v; d/dv goes through the draws that follow from v as well. `factors` are
        the constants :math:`c_v`, 1 where not named.
        """
        draws = [(name, draw, value) for name, draw, value in self.draws if draw.requires_grad]
        if not draws or not isinstance(loss, torch.Tensor) or not loss.requires_grad:
            return 0.0
        values = [value for _, _, value in draws]
        surrogate: torch.Tensor | float = 0.0
        gradients = _gradients(loss, values)
        for i, (name, draw, _) in reversed(list(enumerate(draws))):
            gradient = gradients[i]
            if i:
                back = _gradients(draw, values[:i], gradient)
                gradients[:i] = [g + b for g, b in zip(gradients[:i], back, strict=True)]
            gradient = gradient * (factors or {}).get(name, 1.0)
            surrogate = surrogate + (gradient * (draw - draw.detach())).sum()
        return surrogate


def _gradients(
    value: torch.Tensor, inputs: Sequence[torch.Tensor], weights: torch.Tensor | None = None
) -> list[torch.Tensor]:
    return list(
        torch.autograd.grad(
            value,
            list(inputs),
            weights,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
    )


class _Severed(torch.autograd.Function):
    """The same value, through which no gradient goes; unlike a leaf, it is no parameter."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> None:
        return None
