"""Several clusterings of the same data: agreement, and consensus."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

import pyro_vae as pv
from pyro_vae.evaluate import clustering_agreements, consensus_clustering


def noisy_clusterings(num, seed=0, wrong=0.25, size=60, K=3):
    """`(truth [N], responsibilities)`: noisy copies of a clustering, with permuted clusters."""
    random = np.random.default_rng(seed)
    truth = np.arange(size) % K
    members = []
    for _ in range(num):
        y = np.where(random.random(size) < wrong, random.integers(0, K, size), truth)
        r = 0.7 * np.eye(K)[y] + 0.3 * random.dirichlet(np.ones(K), size)
        members.append(torch.as_tensor(r[:, random.permutation(K)]))
    return truth, members


def accuracy(truth, responsibilities):
    return pv.evaluate.clustering_metrics(truth, responsibilities.argmax(1))["accuracy"]


def test_an_agreement_is_the_mean_adjusted_rand_index_with_the_others():
    clusterings = [r.argmax(1) for r in noisy_clusterings(4)[1]]
    agreements = clustering_agreements(clusterings)
    assert list(agreements) == [0, 1, 2, 3]
    for n, value in agreements.items():
        others = [
            adjusted_rand_score(clusterings[n], c) for m, c in enumerate(clusterings) if m != n
        ]
        assert value == pytest.approx(np.mean(others))
    by_name = clustering_agreements({7: clusterings[0], 3: clusterings[1]})
    assert by_name[7] == by_name[3] == adjusted_rand_score(clusterings[0], clusterings[1])


@pytest.mark.parametrize("seed", range(4))
def test_the_consensus_is_the_best_of_all_matches_of_clusters(seed):
    """By trying every match: the average with the largest sum of squares has the most overlap."""
    truth, members = noisy_clusterings(3, seed)
    permutations = list(itertools.permutations(range(3)))
    averages = [
        (members[0] + members[1][:, p] + members[2][:, q]) / 3
        for p in permutations for q in permutations
    ]  # fmt: skip
    best = max(averages, key=lambda average: float(average.square().sum()))
    consensus = consensus_clustering(members)
    found = [torch.allclose(consensus, best[:, p], atol=1e-12) for p in permutations]
    assert sum(found) == 1
    assert accuracy(truth, consensus) > max(accuracy(truth, m) for m in members)


def test_clusterings_that_differ_in_their_order_alone_are_their_consensus():
    one = noisy_clusterings(1)[1][0]
    members = [one[:, [2, 0, 1]], one, one[:, [1, 0, 2]]]
    assert torch.allclose(consensus_clustering(members), members[0], atol=1e-15)
    assert torch.equal(consensus_clustering([one.float()]), one.float())


def test_a_clustering_that_merges_two_clusters_is_outvoted():
    y = torch.arange(30) % 3
    good = torch.eye(3)[y]
    merged = torch.eye(3)[y.clamp(max=1)]  # clusters 1 and 2 are one, and its cluster 2 is empty
    consensus = consensus_clustering([merged, good[:, [1, 2, 0]], good])
    assert accuracy(y, consensus) == 1.0


def test_what_is_no_set_of_clusterings_raises():
    r = torch.full((4, 2), 0.5)
    for wrong in ([], [r[0]], [r, r[:3]], [r, torch.ones(4, 3)]):
        with pytest.raises(pv.UserError, match=r"responsibilities \[N, K\] of one shape"):
            consensus_clustering(wrong)
    with pytest.raises(pv.UserError, match="two clusterings or more, not 1"):
        clustering_agreements([[0, 1]])
    with pytest.raises(pv.UserError, match="different numbers of data points"):
        clustering_agreements([[0, 1], [0, 1, 1]])
