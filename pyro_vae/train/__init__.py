"""Training: `fit`, its checkpoints, and ways to start."""

from .device import choose_device
from .fit import Run, fit
from .initialise import (
    BaselineInitialisation,
    MixtureInitialisation,
    PseudoInputs,
    StackInitialisation,
)
from .recorded import RecordedStep
from .weights import load_weights

__all__ = [
    "BaselineInitialisation",
    "MixtureInitialisation",
    "PseudoInputs",
    "RecordedStep",
    "Run",
    "StackInitialisation",
    "choose_device",
    "fit",
    "load_weights",
]
