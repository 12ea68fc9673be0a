"""Data sets, their splits, their binarization, and minibatches on the device."""

from typing import TYPE_CHECKING

from .._lazy import lazy_attributes

if TYPE_CHECKING:
    from .conditions import Labels, Quadrants
    from .core import Data, Split, as_data, from_arrays, from_dataset, standardize
    from .minibatches import batches
    from .registry import DATASETS, data_set
    from .sets import load, prepare

__all__ = [
    "DATASETS",
    "Data",
    "Labels",
    "Quadrants",
    "Split",
    "as_data",
    "batches",
    "data_set",
    "from_arrays",
    "from_dataset",
    "load",
    "prepare",
    "standardize",
]
__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "arrays": [],
        "conditions": ["Labels", "Quadrants"],
        "core": ["Data", "Split", "as_data", "from_arrays", "from_dataset", "standardize"],
        "minibatches": ["batches"],
        "registry": ["DATASETS", "data_set"],
        "sets": ["load", "prepare"],
    },
)
