"""Several clusterings of the same data: how far they agree, and their consensus."""

import itertools
import statistics
from collections.abc import Collection, Mapping, Sequence

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
    items = clusterings.items() if isinstance(clusterings, Mapping) else enumerate(clusterings)
    by_number = dict(items)
    return _mean_agreements(_pair_agreements(by_number), by_number)


def agreements_and_stability(
    clusterings: Mapping[int, Array], candidates: Collection[int] | None = None
) -> tuple[dict[int, float], float | None]:
    """`(agreements, stability)` of clusterings, one of which is to be chosen.

    Clusterings with one cluster agree with each other, and say nothing: they count for the stability
    alone.

    Args:
        clusterings: as in `clustering_agreements`, but any number of them.
        candidates: numbers of those that may be chosen. Default: all.

    Returns:
        The agreements of the candidates that have several clusters with each other, {} for fewer than
        two; and the mean agreement of all clusterings, None for one, or if all have one cluster.
    """
    several = [n for n, c in clusterings.items() if len(as_labels(c).unique()) > 1]
    if len(clusterings) < 2 or not several:
        return {}, None
    pairs = _pair_agreements(clusterings)
    compared = [n for n in several if candidates is None or n in candidates]
    agreements = _mean_agreements(pairs, compared) if len(compared) > 1 else {}
    return agreements, statistics.fmean(_mean_agreements(pairs, clusterings).values())


def _pair_agreements(clusterings: Mapping[int, Array]) -> dict[tuple[int, int], float]:
    """The adjusted Rand index of each two clusterings, by their numbers."""
    from sklearn.metrics import adjusted_rand_score

    assigned = {n: as_labels(c, "clusters").cpu().numpy() for n, c in clusterings.items()}
    if len(assigned) < 2:
        raise UserError(f"an agreement needs two clusterings or more, not {len(assigned)}")
    if len({len(c) for c in assigned.values()}) > 1:
        raise UserError("the clusterings are of different numbers of data points")
    return {
        (m, n): float(adjusted_rand_score(assigned[m], assigned[n]))
        for m, n in itertools.combinations(assigned, 2)
    }


def _mean_agreements(
    pairs: Mapping[tuple[int, int], float], numbers: Collection[int]
) -> dict[int, float]:
    """The mean agreement of each of these clusterings with the others of them."""
    return {
        n: statistics.fmean(pairs[pair] for pair in itertools.combinations(numbers, 2) if n in pair)
        for n in numbers
    }


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
