"""Problems with exact answers that several test files share."""

import torch

import pyro_vae as pv
from pyro_vae.conditionals import MLP, MultivariateNormal
from pyro_vae.programs.inspection import has_rows

LINEAR = MLP(hidden=())


def linear_weights(model):
    """Weights `[D, L]` and bias `[D]` of a linear decoder p(x | z)."""
    head = model.p_x.head
    return head.maps["z"].weight.detach(), head.bias.detach()


def linear_marginal(model, scale):
    """p(x) = N(b, W W' + scale^2 I) of x = W z + b + scale e with z ~ N(0, I)."""
    w, b = linear_weights(model)
    covariance = w @ w.T + scale**2 * torch.eye(len(b), dtype=w.dtype)
    return torch.distributions.MultivariateNormal(b, covariance)


def linear_posterior(model, scale):
    """`(gain [L, D], offset [L], covariance [L, L])` of p(z | x) = N(gain x + offset, covariance)."""
    w, b = linear_weights(model)
    precision = torch.eye(w.shape[1], dtype=w.dtype) + w.T @ w / scale**2
    covariance = torch.linalg.inv(precision)
    gain = covariance @ w.T / scale**2
    return gain, -gain @ b, covariance


def set_linear_posterior(guide, model, scale, widen=1.0):
    """Make a linear guide of one full-covariance latent the exact posterior, or one wider.

    Args:
        guide: `Guide(model, family={"z": family}, network=LINEAR)`; the family is `MultivariateNormal()`
            or `ConstantCorrelationNormal()`, for the covariance is the same at all x.
        widen: factor of the posterior's standard deviations.
    """
    gain, offset, covariance = linear_posterior(model, scale)
    q, covariance = guide.factors["z"], widen**2 * covariance
    with torch.no_grad():
        q.head.maps["x"].weight.zero_()[: len(offset)] = gain
        q.head.bias.copy_(q.family.raw_parameters(offset, covariance))
        for name, value in q.family.raw_unconditional_parameters(covariance).items():
            q.unconditional_parameters[name].copy_(value)
    return guide


def linear_posterior_guide(model, scale, widen=1.0):
    """A float64 guide with the exact posterior of a linear-Gaussian model, or one wider."""
    guide = pv.guides.Guide(model, family={"z": MultivariateNormal()}, network=LINEAR).double()
    return set_linear_posterior(guide, model, scale, widen)


def binary_patterns(num, *shape, seed=1, dtype=torch.float64):
    """`[num, *shape]` fair bits; the caller's random stream stays as it was."""
    generator = torch.Generator().manual_seed(seed)
    return torch.bernoulli(torch.full((num, *shape), 0.5, dtype=dtype), generator=generator)


def plane_grid(width, num):
    """`[num^2, 2]` points of [-width, width]^2 in float64, and the area of each."""
    axis = torch.linspace(-width, width, num, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), float(axis[1] - axis[0]) ** 2


def rows_of(given, num_data):
    """`num_data` of a guide, where a latent has a row of parameters per data point; else None."""
    return num_data if has_rows(given or {}) else None
