"""Training: `fit`, its checkpoints, and ways to start."""

from .fit import Run, choose_device, fit, load_weights
from .initialise import BaselineInitialisation, MixtureInitialisation
from .recorded import RecordedStep

__all__ = [
    "BaselineInitialisation",
    "MixtureInitialisation",
    "RecordedStep",
    "Run",
    "choose_device",
    "fit",
    "load_weights",
]
