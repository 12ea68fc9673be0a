"""`p`: one generative program a file, and the priors that they share."""

from .gmvae import GMVAE
from .mixture_vae import MixtureVAE
from .priors import Components, StandardNormal
from .vae import VAE

__all__ = ["Components", "GMVAE", "MixtureVAE", "StandardNormal", "VAE"]
