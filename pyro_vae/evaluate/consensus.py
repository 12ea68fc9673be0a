"""Several clusterings of the same data: how far they agree, and their consensus."""

import itertools
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.arrays import as_labels, as_tensor
from ..errors import UserError
from .inputs import Array

MAX_ROUNDS = 100  # of matching clusters to their average; they end where no match changes


def clustering_agreements(clusterings: Mapping[int, Array] | Sequence[Array]) -> dict[int, float]:
    """How far each clustering agrees with the others: the mean adjusted Rand index.

    It is 1 if all clusterings are the same up to the clusters' numbers, and about 0 if they are
    unrelated.

    Args:
        clusterings: `[N]` integers each, of the same data, two or more; a list, or a dict by number.

    Returns:
        `{number of the clustering: its mean adjusted Rand index with the others}`.

    Raises:
        UserError: fewer than two clusterings, or their lengths differ.

    References:
        Strehl and Ghosh 2002, JMLR 3 (the clustering that agrees most with the others).

    Example:
        >>> import pyro_vae as pv
        >>> pv.evaluate.clustering_agreements([[0, 0, 1, 1], [1, 1, 0, 0]])
        {0: 1.0, 1: 1.0}
    """
    from sklearn.metrics import adjusted_rand_score

    items = clusterings.items() if isinstance(clusterings, Mapping) else enumerate(clusterings)
    assigned = {n: as_labels(c, "clusters").cpu().numpy() for n, c in items}
    if len(assigned) < 2:
        raise UserError(f"an agreement needs two clusterings or more, not {len(assigned)}")
    if len({len(c) for c in assigned.values()}) > 1:
        raise UserError("the clusterings are of different numbers of data points")
    pairs = {
        (m, n): float(adjusted_rand_score(assigned[m], assigned[n]))
        for m, n in itertools.combinations(assigned, 2)
    }
    return {n: statistics.fmean(v for pair, v in pairs.items() if n in pair) for n in assigned}


def agreements_of_several_clusters(clusterings: Mapping[int, Array]) -> dict[int, float]:
    """`clustering_agreements` of the clusterings that have several clusters; {} for fewer than two.

    Those with one cluster agree with each other, and say nothing.
    """
    several = {n: c for n, c in clusterings.items() if len(as_labels(c).unique()) > 1}
    return clustering_agreements(several) if len(several) > 1 else {}


def stability(clusterings: Mapping[int, Array]) -> float | None:
    """The mean agreement of all clusterings; None for one, or if all have one cluster."""
    if len(clusterings) < 2 or all(len(as_labels(c).unique()) < 2 for c in clusterings.values()):
        return None
    return statistics.fmean(clustering_agreements(clusterings).values())


def consensus_clustering(
    responsibilities: Sequence[Array], reference: int | None = None
) -> torch.Tensor:
    """The average of several clusterings of the same data, after their clusters are matched.

    Clusters have no order, so that those of one run must be matched to those of another first. Every
    clustering's clusters are matched to those of a reference one to one, by the largest overlap
    (Hungarian algorithm), and averaged; the average is the next reference, until no match changes.

    Args:
        responsibilities: `[N, K]` each, the probability of each cluster; of a clustering without
            probabilities, one-hot rows.
        reference: number of the clustering that is the first reference. Default: the one that agrees
            most with the others.

    Returns:
        `[N, K]`, in the order of the first reference's clusters.

    Raises:
        UserError: no clustering, or shapes that differ.

    References:
        Strehl and Ghosh 2002, JMLR 3 (combining clusterings); Dimitriadou, Weingessel and Hornik
        2002, A combination scheme for fuzzy clustering (averages of matched clusters).

    Example:
        >>> import torch, pyro_vae as pv
        >>> one_hot = torch.eye(2)[torch.tensor([0, 0, 1, 1])]
        >>> noisy = torch.eye(2)[torch.tensor([1, 1, 1, 0])]
        >>> pv.evaluate.consensus_clustering([one_hot, 1 - one_hot, noisy]).argmax(1)
        tensor([0, 0, 1, 1])
    """
    tensors = [as_tensor(r, "responsibilities") for r in responsibilities]
    if {r.dim() for r in tensors} != {2} or len({r.shape for r in tensors}) > 1:
        raise UserError("a consensus needs responsibilities [N, K] of one shape, one or more")
    first = tensors[0]
    members = [r.cpu().numpy().astype(np.float64) for r in tensors]
    if reference is None:
        reference = _most_agreeing([r.argmax(1) for r in members])
    average = members[reference]
    matches: list[tuple[int, ...]] = []
    for _ in range(MAX_ROUNDS):
        previous, matches = matches, [_matched(average, member) for member in members]
        if matches == previous:
            break
        average = np.mean([m[:, k] for m, k in zip(members, matches, strict=True)], axis=0)
    return torch.as_tensor(average).to(first)


def _most_agreeing(clusterings: Sequence[Array]) -> int:
    """The number of the clustering that agrees most with the others; of one, 0."""
    if len(clusterings) == 1:
        return 0
    agreements = clustering_agreements(clusterings)
    return max(agreements, key=lambda n: agreements[n])


def _matched(reference: NDArray[np.float64], member: NDArray[np.float64]) -> tuple[int, ...]:
    """For each cluster of the reference, the cluster of a member that is matched to it."""
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(reference.T @ member, maximize=True)
    return tuple(columns.tolist())
