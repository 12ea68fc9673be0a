"""Training: `fit`, its checkpoints, and ways to start."""

from .device import choose_device
from .fit import Run, fit
from .initialise import (
    BaselineInitialisation,
    Initialisation,
    MixtureInitialisation,
    PseudoInputs,
    StackInitialisation,
)
from .recorded import RecordedStep
from .weights import load_weights

__all__ = [
    "BaselineInitialisation",
    "Initialisation",
    "MixtureInitialisation",
    "PseudoInputs",
    "RecordedStep",
    "Run",
    "StackInitialisation",
    "choose_device",
    "fit",
    "load_weights",
]
