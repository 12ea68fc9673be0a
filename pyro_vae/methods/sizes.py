"""How long a method trains and how large its latent is, where its preset leaves that to the data."""

import math
from collections.abc import Sequence

from .table import DEFAULTS, preset

LEAST_EPOCHS, LEAST_STEPS = 200, 2000
LEAST_LATENT_DIM = 2


def epochs_for(num_train: int, batch_size: int, epochs: int | None = None) -> int:
    """The epochs of a run: those that are stated, else enough of them for a small table.

    The logarithm of a learned scale moves by about the learning rate in a step. Of 200 rows in batches
    of 128, 200 epochs are 400 steps: at a rate of 2e-3 it moves by less than 0.8.

    Example:
        >>> from pyro_vae.methods.sizes import epochs_for
        >>> epochs_for(200, 128), epochs_for(60_000, 128), epochs_for(200, 128, 5)
        (1000, 200, 5)

    Args:
        num_train: training data.
        batch_size: data per step.
        epochs: passes over the training data. null: at least 200, and at least 2,000 steps.
    """
    if epochs is not None:
        return epochs
    steps = math.ceil(num_train / batch_size)  # the short last batch is one
    return max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / steps))


def latent_dim_for(name: str, x_shape: Sequence[int]) -> int:
    """The size of z for a table: half of its columns, at least 2, and at most that of the preset.

    More units than columns lower the held-out likelihood and the agreement of clusterings, see
    `benchmarks/quality/table_latents.py`.

    Example:
        >>> from pyro_vae.methods.sizes import latent_dim_for
        >>> [latent_dim_for("gmvae", (columns,)) for columns in (3, 13, 2000)]
        [2, 6, 24]

    Args:
        name: the method.
        x_shape: of a data point.
    """
    largest = {**DEFAULTS, **preset(name).settings}["model.latent_dim"]
    assert isinstance(largest, int)
    return min(largest, max(LEAST_LATENT_DIM, math.prod(x_shape) // 2))
