"""Data sets, their splits, their binarization, and minibatches on the device."""

from .batches import batches
from .conditions import Condition, Labels, Quadrants
from .core import Data, Split, as_data, from_arrays, from_dataset, standardize
from .sets import DATASETS, load, prepare

__all__ = [
    "DATASETS",
    "Condition",
    "Data",
    "Labels",
    "Quadrants",
    "Split",
    "as_data",
    "batches",
    "from_arrays",
    "from_dataset",
    "load",
    "prepare",
    "standardize",
]
