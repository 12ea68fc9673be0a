"""Data sets, their splits, their binarization, and minibatches on the device."""

from typing import TYPE_CHECKING

from .._lazy import lazy_attributes

if TYPE_CHECKING:
    from .conditions import Condition, Labels, Quadrants
    from .conversion import as_data, from_dataset
    from .dataset import Data, Split
    from .frames import from_anndata, from_frame
    from .image_files import from_images
    from .library_size import with_library_size
    from .minibatches import batches
    from .registry import DATASETS, data_set
    from .scaling import standardize
    from .sets import load, prepare
    from .splitting import from_arrays

__all__ = [
    "DATASETS",
    "Condition",
    "Data",
    "Labels",
    "Quadrants",
    "Split",
    "as_data",
    "batches",
    "data_set",
    "from_anndata",
    "from_arrays",
    "from_dataset",
    "from_frame",
    "from_images",
    "load",
    "prepare",
    "standardize",
    "with_library_size",
]
__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "arrays": [],
        "conditions": ["Condition", "Labels", "Quadrants"],
        "conversion": ["as_data", "from_dataset"],
        "dataset": ["Data", "Split"],
        "frames": ["from_anndata", "from_frame"],
        "image_files": ["from_images"],
        "library_size": ["with_library_size"],
        "minibatches": ["batches"],
        "registry": ["DATASETS", "data_set"],
        "scaling": ["standardize"],
        "sets": ["load", "prepare"],
        "splitting": ["from_arrays"],
    },
)
