"""The named data sets, and what each of them needs. This module does not import torch."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, unknown_name_error


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set before it is loaded.

    Args:
        kind: which preset of a method fits it: `"digits"`, `"images"` (28 x 28) or `"table"`.
        binarize: what is done to its gray values by default.
        images: whether x is an image, so that quadrants of it can be a condition.
        missing: whether NaN is a missing value without being declared.
    """

    kind: str
    binarize: str = "none"
    images: bool = False
    missing: bool = False


_MNIST_LIKE = DataSet("images", binarize="dynamic", images=True)

DATASETS = {
    "digits": DataSet("digits", images=True),
    "mnist": _MNIST_LIKE,
    "fashion-mnist": _MNIST_LIKE,
    "kmnist": _MNIST_LIKE,
    "arcs": DataSet("table"),
}


#: Suffixes of files, and whether NaN in them is a missing value without being declared.
FILES = {
    ".npz": False,
    ".npy": False,
    ".csv": True,
    ".tsv": True,
    ".parquet": True,
    ".h5ad": True,
}
#: Suffixes of images, in an image folder.
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
#: What to do with files of other kinds.
CONVERSIONS = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save its sheet as a .csv file, in UTF-8"),
    ".txt": "if it is a table with a header, name it .csv",
    ".json": "save its table as a .csv file",
    ".pt": "save its arrays x, y as an .npz file",
}
FILE_KINDS = "a file (.csv, .tsv, .parquet, .npz, .npy, .h5ad) or a folder of images"


def data_set(name: str) -> DataSet:
    """What is known of a data set before it is loaded, by its name or by its file or folder.

    Example:
        >>> import torch, pyro_vae as pv
        >>> pv.data.data_set("mnist").binarize
        'dynamic'

    Raises:
        UserError: an unknown name, a file of another kind, or a file that does not exist.
    """
    if name in DATASETS:
        return DATASETS[name]
    path = Path(name)
    if path.is_dir():
        return DataSet("table", images=True)
    if path.suffix.lower() in FILES:
        if not path.is_file():
            raise UserError(f"{path} does not exist")
        return DataSet("table", missing=FILES[path.suffix.lower()])
    if path.is_file() and path.suffix.lower() in CONVERSIONS:
        raise UserError(f"{name} cannot be read: {CONVERSIONS[path.suffix.lower()]}")
    if path.suffix or path.is_file() or "/" in name:
        raise UserError(f"{name} is neither a data set ({', '.join(DATASETS)}) nor {FILE_KINDS}")
    raise unknown_name_error("data set", name, DATASETS)
