"""The family of mixtures of diagonal normal distributions, and three ways to train it."""

from dataclasses import dataclass

import torch

from ..distributions import NormalMixture
from ..errors import UserError, check_int_at_least, unknown_name_error
from .families import Family, bounded_log_scale

TRAINING = ("stratified", "pathwise", "uniform")


@dataclass(frozen=True)
class MixtureOfNormals(Family):
    r"""Mixture of diagonal normal distributions; a network supplies all of its parameters.

    .. math:: q(z) = \sum_k \pi_k\, \mathrm{Normal}(z;\, \mu_k, \mathrm{diag}\,\sigma_k^2)

    `training` says how a `Guide` trains it. It changes neither the distribution nor evaluation.

    * `"stratified"` (SIWAE): one draw from each component, weighted by :math:`\pi_k`, under the
      density of the whole mixture:
      :math:`L = \sum_k \pi_k\, E_{q_k}[\log p(x, z) - \log q(z)]`. It decodes K draws per data
      point, and its gradients have little noise.
    * `"uniform"` (MISELBO): the same with fixed weights :math:`\pi_k = 1/K`. Learned weights tend
      to concentrate on one component; fixed weights cannot.
    * `"pathwise"`: one draw of the mixture, by implicit reparameterization. It decodes one draw
      and is unbiased; its gradient is heavy-tailed if the components lie far apart.

    The means start apart: learned `component_offsets` are added to the network's outputs, because
    equal components would stay equal.

    Args:
        num_components: number of components, K. The mixture gains at most log K nats over the
            average ELBO of its components.
        training: how a draw is made in training: `"stratified"`, `"uniform"` or `"pathwise"`.

    Raises:
        UserError: `training` is unknown, K is not an integer ≥ 1, or the variable is not a vector.

    References:
        Morningstar et al. 2020, arXiv 2003.01687 (SIWAE); Kviman et al. 2022, arXiv 2209.15514
        (MISELBO); Graves 2016, arXiv 1607.05690, and Figurnov et al. 2018, arXiv 1805.08498
        (implicit reparameterization).

    Example:
        >>> import torch, pyro_vae as pv
        >>> family = pv.conditionals.MixtureOfNormals(num_components=3)
        >>> q = pv.conditionals.Conditional((2,), {"x": (5,)}, family)
        >>> q(x=torch.zeros(4, 5)).loc.shape  # [B, K, D]
        torch.Size([4, 3, 2])
    """

    num_components: int = 5
    training: str = "stratified"

    def __post_init__(self) -> None:
        check_int_at_least(1, num_components=self.num_components)
        if self.training not in TRAINING:
            raise unknown_name_error("training of a mixture", self.training, TRAINING)

    def parameter_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        if len(shape) != 1:
            raise UserError(
                f"a mixture of normals is a distribution of vectors, not of shape {list(shape)}"
            )
        k = self.num_components
        weights = {} if self.training == "uniform" else {"logits": (k,)}
        return {**weights, "loc": (k, *shape), "log_scale": (k, *shape)}

    def unconditional_parameters(self, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
        return {"component_offsets": 0.5 * torch.randn(self.num_components, *shape)}

    def __call__(
        self,
        shape: tuple[int, ...],
        loc: torch.Tensor,
        log_scale: torch.Tensor,
        component_offsets: torch.Tensor,
        logits: torch.Tensor | None = None,
    ) -> NormalMixture:
        if logits is None:
            logits = torch.zeros_like(loc[..., 0])
        scale = bounded_log_scale(log_scale).exp()
        return NormalMixture(logits, loc + component_offsets, scale, self.training != "pathwise")
