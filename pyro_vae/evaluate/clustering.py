"""Clusters against labels: metrics, and the baselines that a deep model must beat."""

import numpy as np

from ..data.arrays import as_labels
from ..errors import UserError


def clustering_metrics(labels, clusters):
    """How well clusters match labels: `{accuracy, purity, nmi, ari}`, each at most 1.

    * `accuracy`: under the best one-to-one match of clusters to classes (Hungarian). Clusters
      beyond the number of classes count as wrong.
    * `purity`: each cluster takes its majority class; never falls when clusters are split.
    * `nmi` (arithmetic mean), `ari`: as in scikit-learn.

    Data labelled -1 (not labelled) are left out.

    Raises:
        UserError: lengths differ, nothing is labelled, or labels are no whole numbers.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    labels = as_labels(labels).cpu().numpy()
    clusters = as_labels(clusters, "clusters").cpu().numpy()
    if len(labels) != len(clusters):
        raise UserError(f"{len(labels)} labels for {len(clusters)} cluster assignments")
    keep = labels >= 0
    labels, clusters = labels[keep], clusters[keep]
    if not len(labels):
        raise UserError("no data point is labelled")
    table = contingency_matrix(labels, clusters)  # [classes, clusters]
    matched = table[linear_sum_assignment(table, maximize=True)].sum()
    return {
        "accuracy": float(matched / table.sum()),
        "purity": float(table.max(0).sum() / table.sum()),
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
    }


def clustering_baselines(train_x, test_x, num_clusters, seed=0):
    """Classical clusterings of the test data, `{name: [N] clusters}`.

    k-means and a full-covariance Gaussian mixture on 30 principal components are fitted on the
    training data (the first 10,000 of them); Ward's method, which cannot predict, on both together
    (up to 5,000 data). Counts (non-negative integers above 1) are clustered by the log of their
    size-normalized values, as is usual for them.
    """
    from sklearn.cluster import AgglomerativeClustering, KMeans
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    train = train_x[:10_000].flatten(1).cpu().numpy().astype(np.float64)
    test = test_x.flatten(1).cpu().numpy().astype(np.float64)
    if (train >= 0).all() and train.max() > 1 and (train == train.round()).all():
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


def _log_normalized(counts, size):
    """`log(1 + counts)`, every row first scaled to the same sum."""
    return np.log1p(counts * size / np.maximum(counts.sum(1, keepdims=True), 1.0))
