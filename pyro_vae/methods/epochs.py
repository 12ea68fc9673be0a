"""How long a method trains, where its preset does not say it."""

import math

LEAST_EPOCHS, LEAST_STEPS = 200, 2000


def epochs_for(num_train: int, batch_size: int, epochs: int | None = None) -> int:
    """The epochs of a run: those that are stated, else enough of them for a small table.

    The logarithm of a learned scale moves by about the learning rate in a step. Of 200 rows in batches
    of 128, 200 epochs are 400 steps: at a rate of 2e-3 it moves by less than 0.8.

    Example:
        >>> from pyro_vae.methods.epochs import epochs_for
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
