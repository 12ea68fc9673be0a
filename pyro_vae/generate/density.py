"""A density of a latent fitted after training, to sample from in the prior's place."""

import pyro.distributions as dist
import torch
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from ..errors import UserError, whole
from ..evaluate import posterior
from .paths import main_latent


def fitted_mixture(model, guide, x, latent=None, num_components=10, draws=4, seed=0, **others):
    """A full-covariance Gaussian mixture of the guide's codes of x, for `sample(source={"z": ...})`.

    Fitted by scikit-learn to `draws` draws of q(z | x) for each datum: what the decoder has seen is
    the aggregate posterior. (Ghosh et al. 2020, arXiv 1903.12436, fit the encoder's means.)

    Args:
        latent: its name; z, or the model's topmost continuous latent, unless said.
        num_components: of the mixture.
        seed: of the draws and of the fit.
    """
    whole(1, num_components=num_components, draws=draws)
    latent = main_latent(model) if latent is None else latent
    parts = [posterior(model, guide, x, seed=seed + d, **others) for d in range(draws)]
    if latent not in parts[0] or parts[0][latent].dim() != 2:
        raise UserError(f"{latent!r} is not a vector among the latents {', '.join(parts[0])}")
    codes = torch.cat([p[latent] for p in parts])
    mixture = GaussianMixture(num_components, reg_covar=1e-4, random_state=seed)
    with threadpool_limits(1):  # matrices so small are slower on several threads
        mixture.fit(codes.double().cpu().numpy())
    weights, means, covariances = (
        torch.as_tensor(a) for a in (mixture.weights_, mixture.means_, mixture.covariances_)
    )
    root = torch.linalg.cholesky(covariances)
    components = dist.MultivariateNormal(means.to(codes), scale_tril=root.to(codes))
    return dist.MixtureSameFamily(dist.Categorical(logits=weights.log().to(codes)), components)
