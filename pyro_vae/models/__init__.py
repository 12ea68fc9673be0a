"""`p`: one generative program per file, and the priors that they share."""

from .auxiliary_dgm import AuxiliaryDGM
from .cvae import CVAE
from .gmvae import GMVAE
from .hierarchical_vae import HierarchicalVAE
from .m1m2 import M1M2
from .m2 import M2
from .mixture_vae import MixtureVAE
from .model import Model
from .nn_baseline import NNBaseline
from .priors import (
    CategoricalPrior,
    FlowPrior,
    MixturePrior,
    Prior,
    StandardNormalPrior,
    VampPrior,
    prior_of,
    with_prior,
)
from .vae import VAE

__all__ = [
    "AuxiliaryDGM",
    "CVAE",
    "CategoricalPrior",
    "FlowPrior",
    "GMVAE",
    "HierarchicalVAE",
    "M1M2",
    "M2",
    "MixturePrior",
    "MixtureVAE",
    "Model",
    "NNBaseline",
    "Prior",
    "StandardNormalPrior",
    "VAE",
    "VampPrior",
    "prior_of",
    "with_prior",
]
