"""Components of a mixture that are not in use, or that are the same."""

from itertools import combinations

import torch

from ..data.arrays import as_tensor
from .inputs import Array

#: A component is dead if its mean responsibility is smaller.
DEAD_THRESHOLD = 0.002
#: Two components are the same if which of the two it is has fewer nats about x.
MERGED_THRESHOLD = 0.02
#: Two components are compared if each has at least this part of their data.
MIN_PART = 0.1


def dead_components(probabilities: Array, threshold: float = DEAD_THRESHOLD) -> tuple[int, ...]:
    """The components of a mixture that have no data.

    Args:
        probabilities: `[N, K]`, of the components given each data point; see `responsibilities`.
        threshold: of the mean responsibility.

    Returns:
        The numbers of the components.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.evaluate.dead_components(torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]))
        (2,)
    """
    means = as_tensor(probabilities, "probabilities").mean(0)
    return tuple((means < threshold).nonzero().flatten().tolist())


def merged_components(
    probabilities: Array, threshold: float = MERGED_THRESHOLD
) -> tuple[tuple[int, int], ...]:
    """The pairs of components that do not differ: no data point tells one from the other.

    Of the data of two components, the mutual information of x and which of the two it is lies below
    the threshold.

    Args:
        probabilities: `[N, K]`, of the components given each data point; see `responsibilities`.
        threshold: nats.

    Returns:
        The pairs of numbers of components.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.evaluate.merged_components(torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]))
        ((0, 1),)
    """
    probabilities = as_tensor(probabilities, "probabilities")
    dead = set(dead_components(probabilities))
    alive = [k for k in range(probabilities.shape[-1]) if k not in dead]
    pairs = []
    for first, second in combinations(alive, 2):
        both = probabilities[:, [first, second]].double()
        weight = both.sum(-1)  # how much of each data point belongs to the two
        parts = both / weight.clamp_min(1e-300).unsqueeze(-1)
        mean = (weight.unsqueeze(-1) * parts).sum(0) / weight.sum()
        entropies = -torch.xlogy(parts, parts).sum(-1)
        information = -torch.xlogy(mean, mean).sum() - (weight * entropies).sum() / weight.sum()
        if mean.min() >= MIN_PART and information < threshold:
            pairs.append((first, second))
    return tuple(pairs)
