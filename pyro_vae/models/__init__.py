"""`p`: one generative program a file, and the priors that they share."""

from .cvae import CVAE
from .gmvae import GMVAE
from .mixture_vae import MixtureVAE
from .nn_baseline import NNBaseline
from .priors import Components, StandardNormal
from .vae import VAE

__all__ = ["CVAE", "Components", "GMVAE", "MixtureVAE", "NNBaseline", "StandardNormal", "VAE"]
