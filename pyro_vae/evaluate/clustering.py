"""Clusters compared with labels: metrics, and classical clusterings as baselines."""

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.arrays import as_floats, as_labels, rows_for_baselines
from ..errors import UserError, check_int_at_least, checked_seed
from .inputs import Array


def clustering_metrics(labels: Array, clusters: Array) -> dict[str, float]:
    """How well clusters match labels.

    * `accuracy`: under the best one-to-one match of clusters to classes (Hungarian algorithm).
      Clusters beyond the number of classes count as wrong.
    * `purity`: each cluster takes its majority class. It never falls when clusters are split.
    * `nmi`: normalized mutual information, arithmetic mean, as in scikit-learn.
    * `ari`: adjusted Rand index, as in scikit-learn.

    Args:
        labels: `[N]` integers. Data points with label -1 (not labeled) are left out.
        clusters: `[N]` integers.

    Returns:
        `{"accuracy", "purity", "nmi", "ari"}`, each at most 1.

    Raises:
        UserError: lengths differ, nothing is labeled, or labels are not integers.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.evaluate.clustering_metrics([0, 0, 1, 1], [2, 2, 0, 0])["accuracy"]
        1.0
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    truth = as_labels(labels).cpu().numpy()
    assigned = as_labels(clusters, "clusters").cpu().numpy()
    if len(truth) != len(assigned):
        raise UserError(f"{len(truth)} labels for {len(assigned)} cluster assignments")
    keep = truth >= 0
    truth, assigned = truth[keep], assigned[keep]
    if not len(truth):
        raise UserError("no data point is labeled")
    table = contingency_matrix(truth, assigned)  # [classes, clusters]
    matched = table[linear_sum_assignment(table, maximize=True)].sum()
    return {
        "accuracy": float(matched / table.sum()),
        "purity": float(table.max(0).sum() / table.sum()),
        "nmi": float(normalized_mutual_info_score(truth, assigned)),
        "ari": float(adjusted_rand_score(truth, assigned)),
    }


def clustering_baselines(
    train_x: Array,
    test_x: Array,
    num_clusters: int,
    seed: int = 0,
    standardize: bool = False,
) -> dict[str, NDArray[np.int64]]:
    """Classical clusterings of the test data.

    k-means, and a Gaussian mixture with full covariances on 30 principal components, are fitted on
    the first 10,000 training data points. Ward's method cannot predict; it is fitted on training
    and test data together, if they are at most 5,000 data points. Counts (non-negative integers
    above 1) are clustered by the log of their size-normalized values, as is usual for them. Missing
    values (NaN) are replaced by the mean of their column in the training data.

    Args:
        train_x: `[M, ...]`, training data.
        test_x: `[N, ...]`, test data.
        num_clusters: K.
        seed: of k-means, the principal components and the mixture.
        standardize: center and scale every column by the training data, counts too, as columns of
            different kinds need. The report does so with a table that has several kinds.

    Returns:
        `{name: [N] clusters}`.

    Example:
        >>> import torch, pyro_vae as pv
        >>> x = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
        >>> clusters = pv.evaluate.clustering_baselines(x, x, num_clusters=2)
        >>> sorted(clusters)
        ['Gaussian mixture', 'Ward', 'k-means']
    """
    from sklearn.cluster import AgglomerativeClustering, KMeans
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    check_int_at_least(1, num_clusters=num_clusters)
    seed = checked_seed(seed, bits=32)
    train_x, test_x = as_floats(train_x, "train_x"), as_floats(test_x, "test_x")
    if len(train_x) < num_clusters:
        raise UserError(f"{len(train_x)} data points cannot make {num_clusters} clusters")
    train, test = rows_for_baselines(train_x, train_x[:10_000], test_x, standardize=standardize)
    if not standardize and _are_counts(train_x[:10_000]):
        size = np.median(train.sum(1))
        train, test = (_log_normalized(v, size) for v in (train, test))
    result = {
        "k-means": KMeans(num_clusters, n_init=10, random_state=seed).fit(train).predict(test)
    }
    if len(train) + len(test) <= 5000:
        both = AgglomerativeClustering(num_clusters).fit_predict(np.concatenate([test, train]))
        result["Ward"] = both[: len(test)]
    pca = PCA(min(30, *train.shape), random_state=seed).fit(train)
    mixture = GaussianMixture(num_clusters, n_init=3, reg_covar=1e-3, random_state=seed)
    mixture.fit(pca.transform(train))
    result["Gaussian mixture"] = mixture.predict(pca.transform(test))
    return result


def _are_counts(x: torch.Tensor) -> bool:
    """Whether the observed values are counts, some of them above 1."""
    observed = x[~x.isnan()]
    is_whole = bool(((observed >= 0) & (observed == observed.round())).all())
    return is_whole and observed.numel() > 0 and bool(observed.max() > 1)


def _log_normalized(counts: NDArray[np.float64], size: float) -> NDArray[np.float64]:
    """`log(1 + counts)`, after every row is scaled to the sum `size`."""
    return np.log1p(counts * size / np.maximum(counts.sum(1, keepdims=True), 1.0))
