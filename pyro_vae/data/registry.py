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
    """

    kind: str
    binarize: str = "none"
    images: bool = False


_MNIST_LIKE = DataSet("images", binarize="dynamic", images=True)

DATASETS = {
    "digits": DataSet("digits", images=True),
    "mnist": _MNIST_LIKE,
    "fashion-mnist": _MNIST_LIKE,
    "kmnist": _MNIST_LIKE,
    "arcs": DataSet("table"),
}


def data_set(name: str) -> DataSet:
    """What is known of a data set before it is loaded, by its name or its .npz file.

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
    if path.suffix == ".npz":
        if not path.is_file():
            raise UserError(f"{path} does not exist")
        return DataSet("table")
    if path.suffix or path.is_file():
        raise UserError(
            f"{name} is neither a data set ({', '.join(DATASETS)}) nor an .npz file: "
            "numpy.savez('data.npz', x=..., y=...) writes one"
        )
    raise unknown_name_error("data set", name, DATASETS)
