"""Training: `fit`, its checkpoints, and ways to start."""

from .fit import Run, choose_device, fit, load_weights
from .initialise import MixtureInitialisation, StackInitialisation
from .recorded import RecordedStep

__all__ = [
    "MixtureInitialisation",
    "RecordedStep",
    "Run",
    "StackInitialisation",
    "choose_device",
    "fit",
    "load_weights",
]
