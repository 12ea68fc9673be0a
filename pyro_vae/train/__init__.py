"""Training: `fit`, its checkpoints, and ways to start."""

from .device import choose_device
from .fit import Run, fit
from .initialize import (
    BaselineInitialization,
    Initialization,
    MixtureInitialization,
    PseudoInputInitialization,
    StackInitialization,
)
from .steps.recorded import RecordedStep
from .weights import load_weights

__all__ = [
    "BaselineInitialization",
    "Initialization",
    "MixtureInitialization",
    "PseudoInputInitialization",
    "RecordedStep",
    "Run",
    "StackInitialization",
    "choose_device",
    "fit",
    "load_weights",
]
