"""Distances between samples and data, where no likelihood is defined."""

import math

import numpy as np
import torch

from ..data.arrays import as_tensor
from ..errors import UserError, check_int_at_least, checked_seed
from .inputs import Array


def mmd_two_sample_test(
    x: Array,
    other: Array,
    num_permutations: int = 500,
    max_data: int = 2000,
    bandwidth: float | None = None,
    seed: int = 0,
) -> dict[str, float]:
    r"""A permutation test of whether two sets of data have the same distribution.

    The statistic is the unbiased estimate of the squared maximum mean discrepancy,

    .. math:: \frac{1}{m(m-1)} \sum_{i \ne j} k(x_i, x_j)
              + \frac{1}{n(n-1)} \sum_{i \ne j} k(o_i, o_j)
              - \frac{2}{mn} \sum_{i, j} k(x_i, o_j)

    with :math:`k(a, b) = \exp(-|a - b|^2 / 2h^2)`. The p-value is the fraction of random
    relabelings, the true labels counted, whose estimate is at least as large. It is uniform if
    the distributions are the same. The estimate is unbiased, so that it may be negative.

    Args:
        x: `[N, ...]`, the data.
        other: `[M, ...]`, samples, or other data, with the event shape of x.
        num_permutations: the smallest p-value is 1 / (num_permutations + 1).
        max_data: the largest number of data points of each set; a larger set is subsampled.
            Memory is (2 max_data)^2 numbers.
        bandwidth: h. Default: the median distance between two data points of both sets.
        seed: of the subsample and of the permutations.

    Returns:
        `{"mmd2", "p_value", "bandwidth", "num_permutations", "data", "other"}`; the last two are
        the numbers of data points used.

    Raises:
        UserError: event shapes differ, fewer than two data points in a set, values that are not
            finite, or no bandwidth because most data points are equal.

    References:
        Gretton et al. 2012, A kernel two-sample test, JMLR 13.

    Example:
        >>> import torch, pyro_vae as pv
        >>> x = torch.randn(50, 2)
        >>> test = pv.evaluate.mmd_two_sample_test(x, x + 3.0, num_permutations=99)
        >>> test["p_value"]
        0.01
    """
    check_int_at_least(1, num_permutations=num_permutations)
    a, b = _as_rows(x, other)
    generator = torch.Generator().manual_seed(checked_seed(seed))
    a, b = (s[torch.randperm(len(s), generator=generator)[:max_data]] for s in (a, b))
    if min(len(a), len(b)) < 2:
        raise UserError("mmd_two_sample_test needs at least two data points in each set")
    both = torch.cat([a, b])
    m, n = len(a), len(b)
    both = both - both.mean(0)  # far from zero, the squares in cdist would lose the differences
    distance = torch.cdist(both, both)
    if bandwidth is None:
        pairs = distance[torch.triu(torch.ones_like(distance), 1) > 0]
        bandwidth = float(np.median(pairs.numpy()))
    if not bandwidth > 0:
        raise UserError("more than half of the data are equal: pass bandwidth=")
    kernel = (-(distance**2) / (2 * bandwidth**2)).exp().fill_diagonal_(0)
    total = kernel.sum()

    def mmd2(first: torch.Tensor) -> torch.Tensor:  # [P, m + n], 1 for members of the first set
        within = ((first @ kernel) * first).sum(-1)
        across = first @ kernel.sum(0) - within
        rest = total - 2 * across - within
        return within / (m * (m - 1)) + rest / (n * (n - 1)) - 2 * across / (m * n)

    first = torch.zeros(1, m + n, dtype=both.dtype)
    first[:, :m] = 1
    statistic = mmd2(first)
    labels = torch.stack(
        [first[0, torch.randperm(m + n, generator=generator)] for _ in range(num_permutations)]
    )
    # "at least as large" up to rounding: relabelings that only swap equal data are ties
    larger = int((mmd2(labels) >= statistic - 1e-12).sum())
    return {
        "mmd2": float(statistic),
        "p_value": (1 + larger) / (1 + num_permutations),
        "bandwidth": bandwidth,
        "num_permutations": num_permutations,
        "data": m,
        "other": n,
    }


def frechet_distance(x: Array, other: Array, num_features: int = 30) -> float:
    r"""The squared Frechet distance between Gaussians fitted to two sets of data.

    .. math:: |\mu_1 - \mu_2|^2 + \mathrm{tr}\,(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2})

    The features are the first principal components of x. This is **not** FID, whose features come
    from an ImageNet network: the two cannot be compared. Only means and covariances count. The
    distance is biased upwards by about the error of the covariances: compare it with the distance
    between two halves, or two splits, of the data.

    Args:
        x: `[N, ...]`, the data, which determine the features.
        other: `[M, ...]`, samples, or other data, with the event shape of x.
        num_features: the largest number of features. There are at most as many as x has
            dimensions, and fewer than it has data points.

    Returns:
        The squared distance, in the squared units of x.

    Raises:
        UserError: event shapes differ, fewer than two data points in a set, or values that are not
            finite.

    Example:
        >>> import torch, pyro_vae as pv
        >>> x = torch.randn(50, 2)
        >>> round(pv.evaluate.frechet_distance(x, x + torch.tensor([3.0, 4.0])), 3)  # 3^2 + 4^2
        25.0
    """
    from sklearn.decomposition import PCA

    a, b = (s.numpy() for s in _as_rows(x, other))
    if min(len(a), len(b)) < 2:
        raise UserError("frechet_distance needs at least two data points in each set")
    pca = PCA(min(num_features, a.shape[1], len(a) - 1), svd_solver="full").fit(a)
    a, b = pca.transform(a), pca.transform(b)
    c1, c2 = (np.atleast_2d(np.cov(s, rowvar=False)) for s in (a, b))
    values, vectors = np.linalg.eigh(c1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ c2 @ root).clip(0)
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(means + np.trace(c1) + np.trace(c2) - 2 * np.sqrt(cross).sum())


def _as_rows(x: Array, other: Array) -> list[torch.Tensor]:
    """Both sets as float64 rows on the CPU."""
    x, other = as_tensor(x), as_tensor(other, "other")
    if x.shape[1:] != other.shape[1:]:
        raise UserError(f"the two differ in shape: {list(x.shape[1:])} and {list(other.shape[1:])}")
    rows = [s.reshape(len(s), math.prod(s.shape[1:])).double().cpu() for s in (x, other)]
    if not all(torch.isfinite(s).all() for s in rows):
        raise UserError("there are NaN or infinite values in the data or samples")
    return rows
