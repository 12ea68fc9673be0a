"""The components of a mixture prior p(z | y, ...): fitted to codes by scikit-learn, and set."""

import warnings
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn as nn
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..conditionals import (
    Conditional,
    ConstantCorrelationNormal,
    Family,
    MultivariateNormal,
    Normal,
)
from ..conditionals.networks import Affine
from ..errors import UserError
from .priors import CategoricalPrior

SCREENING_ITERATIONS, FINISHED_FITS = 10, 5  # of many fits of a mixture


class MixtureModel(Protocol):
    """A model with p(y) and p(z | y, ...): `GMVAE` or `MixtureVAE`."""

    p_y: CategoricalPrior
    p_z: Conditional


def fit_components(
    model: MixtureModel, codes: Any, fits: int, reg_covar: float, seed: int, max_iter: int = 100
) -> None:
    """Fit a mixture to codes; put it into p(y) and p(z | y, ...).

    Args:
        model: such as `GMVAE`, with K components.
        codes, fits, reg_covar, seed, max_iter: as in `fit_mixture`.
    """
    num_components = model.p_y().event_shape[0]
    mixture = fit_mixture(codes, num_components, fits, reg_covar, seed, max_iter)
    set_components(model, mixture.weights_, mixture.means_, mixture.covariances_)


def fit_mixture(
    codes: Any, num_components: int, fits: int, reg_covar: float, seed: int, max_iter: int = 100
) -> Any:
    """The likeliest of several fits of scikit-learn's full-covariance `GaussianMixture`.

    Args:
        codes: `[N, D]`, a numpy array.
        num_components: K.
        fits: number of initializations. Of more than 5, all are fitted for 10 iterations, and the 5
            best until they converge.
        reg_covar: added to the diagonal of the covariances.
        seed: of the initializations.
        max_iter: EM iterations.

    Raises:
        UserError: fewer codes than components.
    """
    if len(codes) < num_components:
        raise UserError(
            f"a mixture of {num_components} components needs as many data points or more, not "
            f"{len(codes)}"
        )
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    settings = {"n_components": num_components, "reg_covar": reg_covar, "max_iter": max_iter}
    with threadpool_limits(1):  # matrices so small are slower on several threads
        if fits <= FINISHED_FITS:
            return GaussianMixture(n_init=fits, random_state=seed, **settings).fit(codes)
        begun = []
        random = np.random.RandomState(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is what few iterations are
            for _ in range(fits):
                mixture = GaussianMixture(random_state=random, warm_start=True, **settings)
                begun.append(mixture.set_params(max_iter=SCREENING_ITERATIONS).fit(codes))
        begun.sort(key=lambda mixture: mixture.lower_bound_, reverse=True)
        finished = [m.set_params(**settings).fit(codes) for m in begun[:FINISHED_FITS]]
        return max(finished, key=lambda mixture: mixture.lower_bound_)


def fit_mixture_from(
    codes: Any, responsibilities: NDArray[Any], reg_covar: float, max_iter: int = 100
) -> Any:
    """scikit-learn's `GaussianMixture`, fitted by EM from responsibilities.

    Args:
        codes: `[N, D]`, a numpy array.
        responsibilities: `[N, K]`, whose moments of the codes are the first components.
        reg_covar, max_iter: as in `fit_mixture`.
    """
    from sklearn.mixture import GaussianMixture

    weights, means, covariances = weighted_moments(codes, responsibilities)
    mixture = GaussianMixture(
        len(weights), reg_covar=reg_covar, max_iter=max_iter, weights_init=weights, means_init=means,
        precisions_init=np.linalg.inv(covariances + reg_covar * np.eye(codes.shape[1])),
    )  # fmt: skip
    with threadpool_limits(1):
        return mixture.fit(codes)


def weighted_moments(
    codes: NDArray[Any], responsibilities: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """`(weights [K], means [K, D], covariances [K, D, D])` of codes in each component.

    Args:
        codes: `[N, D]`.
        responsibilities: `[N, K]`, non-negative.
    """
    x, r = np.asarray(codes, np.float64), np.asarray(responsibilities, np.float64)
    count = r.sum(0) + 10 * np.finfo(np.float64).eps  # as scikit-learn: a component may be empty
    means = r.T @ x / count[:, None]
    covariances = np.empty((len(count), x.shape[1], x.shape[1]))
    for k, mean in enumerate(means):
        covariances[k] = (r[:, k, None] * (x - mean)).T @ (x - mean) / count[k]
    return count / count.sum(), means, covariances


def settable_head(p_z: Conditional) -> Affine | None:
    """The head of p(z | y, ...) that `set_components` writes; None if it cannot set the components."""
    families: tuple[type[Family], ...] = (Normal, MultivariateNormal)
    if p_z.head_index == "y":  # else all components have the same correlations
        families += (ConstantCorrelationNormal,)
    head = p_z.head
    return head if isinstance(p_z.family, families) and isinstance(head, Affine) else None


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
