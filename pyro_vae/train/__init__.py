"""Training: `fit`, its checkpoints, and ways to start."""

from .callbacks import Callback, TensorBoard
from .device import choose_device
from .fit import fit
from .initialize import (
    BaselineInitialization,
    Initialization,
    PseudoInputInitialization,
    StackInitialization,
)
from .mixture_initialization import MixtureInitialization
from .result import Run
from .steps.recorded import RecordedStep
from .weights import load_weights

__all__ = [
    "BaselineInitialization",
    "Callback",
    "Initialization",
    "MixtureInitialization",
    "PseudoInputInitialization",
    "RecordedStep",
    "Run",
    "StackInitialization",
    "TensorBoard",
    "choose_device",
    "fit",
    "load_weights",
]
