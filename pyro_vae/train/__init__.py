"""Training: `fit`, its checkpoints, and ways to start."""

from .fit import Run, choose_device, fit, load_weights
from .initialise import MixtureInitialisation

__all__ = ["MixtureInitialisation", "Run", "choose_device", "fit", "load_weights"]
