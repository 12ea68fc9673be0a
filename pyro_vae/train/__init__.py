"""Training: `fit`, its checkpoints, and ways to start."""

from .fit import Run, choose_device, fit, load_weights

__all__ = ["Run", "choose_device", "fit", "load_weights"]
