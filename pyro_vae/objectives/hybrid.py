"""The hybrid objective of conditional models."""

from collections.abc import Callable
from typing import Any

import torch

from ..errors import UserError
from ..guides.prior import hide_data
from .elbo import ELBO


class Hybrid(ELBO):
    r"""The weighted sum of a pair's ELBO and its GSNN objective, negated (Sohn, Lee and Yan 2015).

    .. math:: L = \alpha\, L_{\mathrm{ELBO}} + (1 - \alpha)\, E_{p(z|c)}[\log p(x | z, c)]

    The second term draws the latents from the model's own prior, as prediction does; with it,
    training and prediction sample alike. For any pair. Warm-up, beta and free bits weigh the ELBO's
    KLs alone: the GSNN's are zero. At `alpha=0` the guide is not trained.

    Args:
        alpha: the ELBO's weight, in [0, 1].
        options: the `ELBO`'s.

    Raises:
        UserError: alpha outside of [0, 1].

    Example:
        >>> import torch, pyro_vae as pv
        >>> network = pv.conditionals.MLP((8,))
        >>> model = pv.models.CVAE((6,), (3,), 2, network=network)
        >>> data = pv.data.from_arrays(torch.ones(4, 6), c=torch.ones(4, 3))
        >>> objective = pv.objectives.Hybrid(alpha=0.5)
        >>> run = pv.fit(model, pv.guides.Guide(model), data, 1, objective=objective, progress=False)
    """

    def __init__(self, alpha: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= alpha <= 1:
            raise UserError(
                f"alpha weighs the ELBO against the GSNN objective: 0 to 1, not {alpha}"
            )
        self.alpha = alpha
        self.gsnn = ELBO(num_particles=self.num_particles)

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: torch.Tensor, **kwargs: torch.Tensor
    ) -> torch.Tensor:
        """Sum over the minibatch, in nats."""
        loss: torch.Tensor | float = 0.0
        if self.alpha > 0:
            loss = self.alpha * super().differentiable_loss(model, guide, *args, **kwargs)
        if self.alpha < 1:
            prior = self.gsnn.differentiable_loss(model, hide_data(model), *args, **kwargs)
            loss = loss + (1 - self.alpha) * prior
        return torch.as_tensor(loss)

    def loss(
        self, model: Callable, guide: Callable, *args: torch.Tensor, **kwargs: torch.Tensor
    ) -> float:
        elbo = super().loss(model, guide, *args, **kwargs) if self.alpha > 0 else 0.0
        prior = self.gsnn.loss(model, hide_data(model), *args, **kwargs) if self.alpha < 1 else 0.0
        return self.alpha * elbo + (1 - self.alpha) * prior

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "name": "hybrid", "alpha": self.alpha}
