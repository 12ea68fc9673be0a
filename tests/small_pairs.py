"""Small pairs on the digits, and comparisons of their weights."""

import torch

import pyro_vae as pv
from pyro_vae.conditionals import MLP

NET = MLP((16,))


def digits(**options):
    return pv.data.load("digits", binarize="none", **options)


def pair(seed=0, model=pv.models.GMVAE, **options):
    torch.manual_seed(seed)
    m = model((1, 8, 8), latent_dim=3, likelihood="binomial", network=NET, **options)
    return m, pv.guides.Guide(m, network=NET)


def quiet(*arguments, **options):
    return pv.fit(*arguments, progress=False, device="cpu", **options)


def weights(*modules):
    return {f"{i}.{k}": v.clone() for i, m in enumerate(modules) for k, v in m.state_dict().items()}


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def three_clusters(labels=True):
    """150 points in six dimensions, in three clusters that are far apart."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(150) % 3
    x = 3 * torch.eye(3)[y].repeat(1, 2) + torch.randn(150, 6, generator=generator)
    return pv.data.from_arrays(x, y if labels else None)
