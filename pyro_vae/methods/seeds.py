"""The seeds of a run's restarts."""

import numpy as np


def restart_seeds(seed: int, restarts: int = 1) -> list[int]:
    """The seeds of a run's restarts; the first one is the seed of the run.

    Example:
        >>> from pyro_vae.methods.seeds import restart_seeds
        >>> restart_seeds(0, 3)[0]
        0

    Args:
        seed: of the run.
        restarts: whole runs from different seeds. One is kept: of three or more that cluster, the
            one whose clusters agree most with the others'; else the one with the largest
            importance-weighted log-likelihood of the validation split. The mean agreement is reported
            as `stability`.
    """
    others = (np.random.SeedSequence([seed, n]).generate_state(1)[0] for n in range(1, restarts))
    return [seed, *map(int, others)]
