"""`p`: one generative program a file, and the priors that they share."""

from .auxiliary_dgm import AuxiliaryDGM
from .gmvae import GMVAE
from .m1m2 import M1M2
from .m2 import M2
from .mixture_vae import MixtureVAE
from .priors import Components, StandardNormal
from .vae import VAE

__all__ = [
    "AuxiliaryDGM",
    "Components",
    "GMVAE",
    "M1M2",
    "M2",
    "MixtureVAE",
    "StandardNormal",
    "VAE",
]
