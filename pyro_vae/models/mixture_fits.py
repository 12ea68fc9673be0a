"""Full-covariance Gaussian mixtures of codes, by EM: several fits at once, in float64.

With the products :math:`x_i x_j`, :math:`i \\ge j`, of a data point as features, the log-densities of
all components of all fits are one matrix product, and so are the moments of the next step. One fit
is scikit-learn's `GaussianMixture`, which starts, iterates and stops in the same way.
"""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.nn.functional import one_hot

from ..errors import UserError

SCREENING_ITERATIONS, FINISHED_FITS = 10, 5  # of many fits of a mixture
TOLERANCE = 1e-3  # change of the mean log-likelihood at which a fit ends, in nats
SMALLEST_COUNT = 10 * torch.finfo(torch.float64).eps  # a component may be empty
CHUNK_NUMBERS = 2**19  # features, or densities, of the rows that are multiplied at once
KEPT_NUMBERS = 2**25  # features that are computed once: 256 MiB


@dataclass(frozen=True)
class Mixtures:
    """F Gaussian mixtures with K components each, or one.

    Args:
        weights: `[F, K]` or `[K]`.
        means: `[F, K, D]` or `[K, D]`.
        covariances: `[F, K, D, D]` or `[K, D, D]`.
        log_likelihood: `[F]` or `[]`, of the data to which they were fitted, before the last step of
            EM; nats per data point.
    """

    weights: torch.Tensor
    means: torch.Tensor
    covariances: torch.Tensor
    log_likelihood: torch.Tensor

    def __getitem__(self, index: Any) -> "Mixtures":
        """Some of them, or one."""
        return Mixtures(*(value[index] for value in vars(self).values()))

    def responsibilities(self, codes: Any) -> torch.Tensor:
        """Of one mixture: `[N, K]` probabilities of the components, of codes `[N, D]`."""
        prepared = _Codes(codes, len(self.weights))
        coefficients = prepared.coefficients(self[None])
        return torch.cat([(c @ coefficients).softmax(-1) for c in prepared.chunks()])


def fit_mixture(
    codes: Any, num_components: int, fits: int, reg_covar: float, seed: int, max_iter: int = 100
) -> Mixtures:
    """The likeliest of several fits that start from k-means.

    Args:
        codes: `[N, D]`.
        num_components: K.
        fits: number of starts. Of more than 5, all are fitted for 10 iterations, and the 5 best until
            they converge.
        reg_covar: added to the diagonal of the covariances.
        seed: of the starts.
        max_iter: EM iterations.

    Raises:
        UserError: fewer codes than components, codes that are not finite, or a covariance that is
            singular.
    """
    if len(codes) < num_components:
        raise UserError(
            f"a mixture of {num_components} components needs as many data points or more, not "
            f"{len(codes)}"
        )
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    prepared, random = _Codes(codes, fits * num_components), np.random.RandomState(seed)
    with threadpool_limits(1), warnings.catch_warnings():  # products so small are slower on several
        warnings.simplefilter("ignore", ConvergenceWarning)  # of codes that are equal
        points = torch.as_tensor(codes).double().numpy()
        labels = np.stack([
            KMeans(num_components, n_init=1, random_state=random).fit(points).labels_
            for _ in range(fits)
        ])  # fmt: skip
        rows = torch.as_tensor(labels).long().split(prepared.rows, 1)
        members = (one_hot(part, num_components).double() for part in rows)
        mixtures = prepared.maximized(members, reg_covar)
        if fits > FINISHED_FITS:
            mixtures = prepared.fitted(mixtures, reg_covar, SCREENING_ITERATIONS)
            best = mixtures.log_likelihood.argsort(descending=True, stable=True)
            mixtures = mixtures[best[:FINISHED_FITS]]
        mixtures = prepared.fitted(mixtures, reg_covar, max_iter)
        return mixtures[mixtures.log_likelihood.argmax()]


def fit_mixture_from(
    codes: Any, responsibilities: Any, reg_covar: float, max_iter: int = 100
) -> Mixtures:
    """The mixture that EM finds from responsibilities.

    Args:
        codes: `[N, D]`.
        responsibilities: `[N, K]`, whose moments of the codes are the first components.
        reg_covar, max_iter: as in `fit_mixture`.
    """
    members = torch.as_tensor(responsibilities).double()[None]
    prepared = _Codes(codes, members.shape[-1])
    with threadpool_limits(1):
        start = prepared.maximized(members.split(prepared.rows, 1), reg_covar)
        return prepared.fitted(start, reg_covar, max_iter)[0]


class _Codes:
    """Codes `[N, D]`, with the features in which a Gaussian's log-density is linear.

    They are centered, so that moments about zero lose no digits.

    Args:
        codes: `[N, D]`.
        components: F K, of all fits.
    """

    def __init__(self, codes: Any, components: int) -> None:
        codes = torch.as_tensor(codes).double()
        if not codes.isfinite().all():
            raise UserError("a mixture can be fitted only to codes that are finite")
        self.center = codes.mean(0)
        self.codes = codes - self.center
        size = codes.shape[1]
        self.pairs = torch.tril_indices(size, size)
        self.num_features = self.pairs.shape[1] + size + 1
        self.rows = max(64, CHUNK_NUMBERS // max(self.num_features, components))
        self._kept: list[torch.Tensor] | None = None
        if len(codes) * self.num_features <= KEPT_NUMBERS:
            self._kept = list(map(self._features, self.codes.split(self.rows)))

    def _features(self, codes: torch.Tensor) -> torch.Tensor:
        """`[N, D (D + 1) / 2 + D + 1]`: products, codes, and one."""
        i, j = self.pairs
        return torch.cat([codes[:, i] * codes[:, j], codes, codes.new_ones(len(codes), 1)], 1)

    def chunks(self) -> Iterable[torch.Tensor]:
        """The features of some rows after others."""
        return self._kept or map(self._features, self.codes.split(self.rows))

    def maximized(self, members: Iterable[torch.Tensor], reg_covar: float) -> Mixtures:
        """The mixtures that responsibilities determine: `[F, rows, K]`, of some rows after others."""
        parts = zip(members, self.chunks(), strict=True)
        moments = sum(torch.einsum("frk,rp->fkp", *part) for part in parts)
        assert isinstance(moments, torch.Tensor)
        unknown = moments.new_full((len(moments),), -math.inf)
        return self._mixtures(moments, unknown, reg_covar)

    def fitted(self, mixtures: Mixtures, reg_covar: float, max_iter: int) -> Mixtures:
        """Mixtures after EM; each ends when its log-likelihood changes by less than the tolerance."""
        result = [value.clone() for value in vars(mixtures).values()]
        running = torch.arange(len(mixtures.weights))
        for _ in range(max_iter):
            after = self._step(mixtures, reg_covar)
            for value, new in zip(result, vars(after).values(), strict=True):
                value[running] = new
            change = (after.log_likelihood - mixtures.log_likelihood).abs()
            continues = ~(change < TOLERANCE)
            running, mixtures = running[continues], after[continues]
            if not len(running):
                break
        return Mixtures(*result)

    def _step(self, mixtures: Mixtures, reg_covar: float) -> Mixtures:
        """One step of EM; the log-likelihood is that before it."""
        num, size = mixtures.weights.shape
        coefficients = self.coefficients(mixtures)
        log_likelihood = coefficients.new_zeros(num)
        moments = coefficients.new_zeros(num * size, self.num_features)
        for chunk in self.chunks():
            joint = (chunk @ coefficients).view(-1, num, size)
            density = joint.logsumexp(-1, keepdim=True)
            log_likelihood += density.sum((0, 2))
            moments.addmm_((joint - density).exp_().flatten(1).T, chunk)
        moments = moments.view(num, size, -1)
        return self._mixtures(moments, log_likelihood / len(self.codes), reg_covar)

    def _mixtures(
        self, moments: torch.Tensor, log_likelihood: torch.Tensor, reg_covar: float
    ) -> Mixtures:
        """The mixtures of weighted sums of the features, `[F, K, features]`."""
        size = self.codes.shape[1]
        count = moments[..., -1] + SMALLEST_COUNT
        products, sums = (moments[..., :-1] / count[..., None]).split(
            [self.pairs.shape[1], size], -1
        )
        i, j = self.pairs
        covariances = moments.new_zeros(*count.shape, size, size)
        covariances[..., i, j] = covariances[..., j, i] = products - sums[..., i] * sums[..., j]
        covariances.diagonal(dim1=-2, dim2=-1).add_(reg_covar)
        weights = count / count.sum(-1, keepdim=True)
        return Mixtures(weights, sums + self.center, covariances, log_likelihood)

    def coefficients(self, mixtures: Mixtures) -> torch.Tensor:
        """`[features, F K]`: their products with the features are log p(k) + log N(code | k)."""
        size = self.codes.shape[1]
        root, failed = torch.linalg.cholesky_ex(mixtures.covariances)
        if failed.any():
            raise UserError(
                "the covariance of a component is singular: raise reg_covar, or take fewer components"
            )
        precision, mean = torch.cholesky_inverse(root), mixtures.means - self.center
        i, j = self.pairs
        products = precision[..., i, j] * torch.where(i == j, -0.5, -1.0).double()
        linear = (precision @ mean[..., None])[..., 0]
        constant = mixtures.weights.log() - 0.5 * (linear * mean).sum(-1)
        constant = constant - root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = constant - 0.5 * size * math.log(2 * math.pi)
        coefficients = torch.cat([products, linear, constant[..., None]], -1)
        return coefficients.flatten(0, 1).T.contiguous()
