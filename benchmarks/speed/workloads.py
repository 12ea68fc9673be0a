"""The pairs of the speed benchmarks, and their losses written by hand over the same modules.

M2 has no labels here: labels do not shorten a step of fixed shape, which sums over every class.
"""

import math

import torch
import torch.nn.functional as F

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.conditionals.families import bounded_log_scale

X, K = 784, 10


def vae():
    """784-400-20, softplus: the network of Pyro's VAE tutorial."""
    net = MLP((400,), "softplus")
    model = pv.models.VAE((X,), 20, "bernoulli", net)
    return model, pv.guides.Guide(model, network=net)


def vae_loss(model, guide, x):
    """The negative ELBO by hand, over the same modules' weights."""
    m, s = _net(guide.factors["z"], x=x).chunk(2, -1)
    s = bounded_log_scale(s)
    e = torch.randn_like(m)
    z = m + s.exp() * e
    kl = (0.5 * z.square() - 0.5 * e.square() - s).sum()
    return F.binary_cross_entropy_with_logits(_net(model.p_x, z=z), x, reduction="sum") + kl


def gmvae():
    """Final version of the paper: w <- x; z <- x; y summed; K = 10, 500-500."""
    net = MLP((500, 500))
    model = pv.models.GMVAE((X,), K, 16, 10, "bernoulli", net, w_network=MLP((500,), "tanh"))
    return model, pv.guides.Guide(model, network=net)


def gmvae_loss(model, guide, x):
    q = guide.factors
    h = q["w"].features(x=x)  # the trunk is shared
    wm, ws = q["w"].head(**h).chunk(2, -1)
    zm, zs = q["z"].head(**h).chunk(2, -1)
    ws, zs = bounded_log_scale(ws), bounded_log_scale(zs)
    ew, ez = torch.randn_like(wm), torch.randn_like(zm)
    w, z = wm + ws.exp() * ew, zm + zs.exp() * ez
    heads = _net(model.p_z, w=w).reshape(len(x), K, 32)
    m, s = heads.chunk(2, -1)
    s = bounded_log_scale(s)
    log_pz = (-0.5 * ((z.unsqueeze(1) - m) * (-s).exp()).square() - s).sum(-1).logsumexp(-1)
    kl = (0.5 * w.square() - 0.5 * ew.square() - ws).sum() + (-0.5 * ez.square() - zs).sum()
    kl = kl - (log_pz - math.log(K)).sum()
    return F.binary_cross_entropy_with_logits(_net(model.p_x, z=z), x, reduction="sum") + kl


def m2():
    """Kingma's: y <- x, summed in the guide; z <- x, y; K = 10, z of 50, 500-500."""
    net = MLP((500, 500))
    model = pv.models.M2((X,), K, 50, "bernoulli", net)
    return model, pv.guides.Guide(model, network=net)


def m2_loss(model, guide, x):
    q, y = guide.factors, torch.eye(K, dtype=x.dtype, device=x.device).unsqueeze(1)  # [K, 1, K]
    log_qy = _net(q["y"], x=x).log_softmax(-1).T  # [K, B]
    m, s = _net(q["z"], x=x, y=y).chunk(2, -1)  # [K, B, 50]
    s = bounded_log_scale(s)
    e = torch.randn_like(m)
    z = m + s.exp() * e
    kl = (0.5 * z.square() - 0.5 * e.square() - s).sum(-1) + log_qy + math.log(K)
    logits = _net(model.p_x, y=y, z=z)
    nll = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
    return (log_qy.exp() * (nll + kl)).sum()


def _net(conditional, **parents):
    return conditional.head(**conditional.features(**parents))


#: name: (the pair, its loss written by hand)
WORKLOADS = {"vae": (vae, vae_loss), "gmvae": (gmvae, gmvae_loss), "m2": (m2, m2_loss)}


def batch_of(size, device="cpu"):
    """One binary batch, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    return torch.bernoulli(torch.rand(size, X, generator=generator), generator=generator).to(device)


def check(name, make, by_hand):
    """Raise where loss or gradients by hand differ from the pair's, with the same noise."""
    torch.manual_seed(0)
    pair = [m.double() for m in make()]
    parameters = [p for m in pair for p in m.parameters()]
    x, results = torch.bernoulli(torch.rand(16, X, dtype=torch.float64)), []
    for loss in (by_hand, pv.objectives.ELBO().differentiable_loss):
        torch.manual_seed(1)
        value = loss(*pair, x)
        results.append([value.detach(), *torch.autograd.grad(value, parameters)])
    for a, b in zip(*results, strict=True):
        if (a - b).abs().max() > 1e-9 * b.abs().max():
            raise RuntimeError(f"{name}: the loss by hand is not the objective of the pair")
