"""How near samples are to data, where no likelihood is defined: distances between two sets."""

import math

import numpy as np
import torch

from ..errors import UserError


def mmd_two_sample_test(x, other, num_permutations=500, max_data=2000, bandwidth=None, seed=0):
    r"""Whether two sets of data are of one distribution: `{mmd2, p_value, bandwidth, ...}`.

    The unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, JMLR 13),

    .. math:: \frac{1}{m(m-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{n(n-1)} \sum_{i \ne j} k(o_i, o_j)
              - \frac{2}{mn} \sum_{i, j} k(x_i, o_j)

    with :math:`k(a, b) = \exp(-|a - b|^2 / 2h^2)`, and the p-value of a permutation test: the share of
    random relabellings, the data's own counted, whose estimate is at least as large. It is
    uniform where both are of one distribution. Small values of `mmd2` may be negative: it is unbiased.

    Args:
        x, other: `[N, ...]` and `[M, ...]`, of one event shape.
        num_permutations: the smallest p-value is 1 / (num_permutations + 1).
        max_data: of each set, a seeded random choice of that many where there are more; memory
            is (2 max_data)^2 numbers.
        bandwidth: h. Default: the median distance between two of all the data.
        seed: of the choice and of the permutations.
    """
    a, b = _rows(x, other)
    generator = torch.Generator().manual_seed(seed)
    a, b = (s[torch.randperm(len(s), generator=generator)[:max_data]] for s in (a, b))
    if min(len(a), len(b)) < 2:
        raise UserError("mmd_two_sample_test needs at least two data on either side")
    both = torch.cat([a, b])
    m, n = len(a), len(b)
    distance = torch.cdist(both, both)
    if bandwidth is None:
        bandwidth = float(distance[torch.triu(torch.ones_like(distance), 1) > 0].median())
    if not bandwidth > 0:
        raise UserError("more than half of the data are equal: pass bandwidth=")
    kernel = (-(distance**2) / (2 * bandwidth**2)).exp().fill_diagonal_(0)
    total = kernel.sum()

    def mmd2(first):  # [P, m + n], ones for the members of the first set
        within = ((first @ kernel) * first).sum(-1)
        either = first @ kernel.sum(0)  # first with all
        across = either - within
        rest = total - 2 * across - within
        return within / (m * (m - 1)) + rest / (n * (n - 1)) - 2 * across / (m * n)

    first = torch.zeros(1, m + n, dtype=both.dtype)
    first[:, :m] = 1
    found = mmd2(first)
    labels = torch.stack(
        [first[0, torch.randperm(m + n, generator=generator)] for _ in range(num_permutations)]
    )
    # "at least as large" up to rounding: relabellings that only swap equal data are ties
    larger = int((mmd2(labels) >= found - 1e-12).sum())
    return {
        "mmd2": float(found),
        "p_value": (1 + larger) / (1 + num_permutations),
        "bandwidth": bandwidth,
        "num_permutations": num_permutations,
        "data": m,
        "other": n,
    }


def frechet_distance(x, other, num_features=30):
    r"""The squared Frechet distance between Gaussians fitted to two sets of data.

    .. math:: |\mu_1 - \mu_2|^2 + \mathrm{tr}\,(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2})

    on the first `num_features` principal components of `x`. No classifier is in it, and it is
    **not** FID, which takes the features of an ImageNet network: numbers of the two do not compare.
    It sees means and covariances alone, and is biased upwards by about the error of the
    covariances: compare it with the distance between two halves, or splits, of the data.

    Args:
        x: `[N, ...]` the data, which choose the features.
        other: `[M, ...]` samples, or other data.
        num_features: at most; no more than x has dimensions, or data.
    """
    from sklearn.decomposition import PCA

    a, b = (s.numpy() for s in _rows(x, other))
    if min(len(a), len(b)) < 2:
        raise UserError("frechet needs at least two data on either side")
    pca = PCA(min(num_features, a.shape[1], len(a) - 1), svd_solver="full").fit(a)
    a, b = pca.transform(a), pca.transform(b)
    c1, c2 = (np.atleast_2d(np.cov(s, rowvar=False)) for s in (a, b))
    values, vectors = np.linalg.eigh(c1)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ c2 @ root).clip(0)
    means = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(means + np.trace(c1) + np.trace(c2) - 2 * np.sqrt(cross).sum())


def _rows(x, other):
    """Both sets as float64 rows on the CPU."""
    if x.shape[1:] != other.shape[1:]:
        raise UserError(f"the two differ in shape: {list(x.shape[1:])} and {list(other.shape[1:])}")
    rows = [s.detach().reshape(len(s), math.prod(s.shape[1:])).double().cpu() for s in (x, other)]
    if not all(torch.isfinite(s).all() for s in rows):
        raise UserError("there are NaN or infinite values in the data or samples")
    return rows
