"""The components of a mixture prior p(z | y, ...): fitted to codes, and set."""

from typing import Any, Protocol

import torch
import torch.nn as nn

from ..conditionals import (
    Conditional,
    ConstantCorrelationNormal,
    Family,
    MultivariateNormal,
    Normal,
)
from ..conditionals.networks import Affine
from ..errors import UserError
from .mixture_fits import Mixtures, fit_mixture
from .priors import CategoricalPrior


class MixtureModel(Protocol):
    """A model with p(y) and p(z | y, ...): `GMVAE` or `MixtureVAE`."""

    p_y: CategoricalPrior
    p_z: Conditional


def fit_components(model: MixtureModel, codes: Any, fits: int, reg_covar: float, seed: int) -> None:
    """Fit a mixture to codes; put it into p(y) and p(z | y, ...).

    Args:
        model: such as `GMVAE`, with K components.
        codes, fits, reg_covar, seed: as in `fit_mixture`.
    """
    num_components = model.p_y().event_shape[0]
    set_mixture(model, fit_mixture(codes, num_components, fits, reg_covar, seed))


def settable_head(p_z: Conditional) -> Affine | None:
    """The head of p(z | y, ...) that `set_components` writes; None if it cannot set the components."""
    families: tuple[type[Family], ...] = (Normal, MultivariateNormal)
    if p_z.head_index == "y":  # else all components have the same correlations
        families += (ConstantCorrelationNormal,)
    head = p_z.head
    return head if isinstance(p_z.family, families) and isinstance(head, Affine) else None


def set_mixture(model: MixtureModel, mixture: Mixtures) -> None:
    """Put one mixture into p(y) and p(z | y, ...)."""
    set_components(model, mixture.weights, mixture.means, mixture.covariances)


@torch.no_grad()
def set_components(model: MixtureModel, weights: Any, means: Any, covariances: Any) -> None:
    """Put weights `[K]`, means `[K, D]` and covariances `[K, D, D]` into p(y) and p(z | y, ...)."""
    p_z, head = model.p_z, settable_head(model.p_z)
    if head is None:
        raise UserError(
            "components can be set only if p(z | y, ...) is Normal() or MultivariateNormal() (or, "
            "with a head for each y, ConstantCorrelationNormal()) and its network is an MLP"
        )
    covariance = torch.as_tensor(covariances)
    raw = p_z.family.raw_parameters(torch.as_tensor(means), covariance).to(head.bias)
    for name, value in p_z.family.raw_unconditional_parameters(covariance).items():
        p_z.unconditional_parameters[name].copy_(value)
    if p_z.head_index == "y":  # K heads on features of the other parents
        head.bias.copy_(raw.flatten())
        for weight in head.maps.parameters():
            weight.mul_(0.1)
    else:  # linear in the one-hot y
        head.bias.zero_()
        next(head.maps["y"].parameters()).copy_(raw.T)
    if isinstance(model.p_y.logits, nn.Parameter):
        model.p_y.logits.copy_(torch.as_tensor(weights).log())
