"""`p`: one generative program a file, and the priors that they share."""

from .gmvae import GMVAE
from .hierarchical_vae import HierarchicalVAE
from .mixture_vae import MixtureVAE
from .priors import (
    Components,
    FlowPrior,
    MixturePrior,
    StandardNormal,
    VampPrior,
    prior_of,
    with_prior,
)
from .vae import VAE

__all__ = [
    "Components",
    "FlowPrior",
    "GMVAE",
    "HierarchicalVAE",
    "MixturePrior",
    "MixtureVAE",
    "StandardNormal",
    "VAE",
    "VampPrior",
    "prior_of",
    "with_prior",
]
