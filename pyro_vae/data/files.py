"""Data from files: tables, arrays, images and AnnData. No file is executed, and none is unpickled."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, reason_of
from .csv_files import read_csv
from .dataset import Data
from .frames import checked_kinds, from_anndata, from_frame
from .image_files import from_images
from .registry import DATASETS, FILES, data_set
from .splitting import from_arrays
from .tables import rows_as_lines

NUMPY_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY")  # of zip archives and of .npy files


def read_file(path: Path, split_seed: int, missing: bool, **options: Any) -> Data:
    """`Data` from a file or an image folder.

    Args:
        path: of the file.
        split_seed: of the splits.
        missing: whether NaN in arrays is a missing value; of tables it always is.
        options: those of `load` that depend on the kind of file; None if they were not passed.

    Raises:
        UserError: an option that this kind of file does not have, or a file that cannot be read.
    """
    kind = "folder" if path.is_dir() else path.suffix.lower()
    reader, known = READERS[kind]
    passed = {
        name: value for name, value in options.items() if value is not None and value is not False
    }
    for name in passed:
        if name not in (*known, "valid", "test"):
            raise UserError(f"{name}= is not an option of {path.name}")
    if kind in (".npz", ".npy"):
        passed["missing"] = missing
    return reader(path, name=path.stem, split_seed=split_seed, **passed)


def _load_numpy(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(max(map(len, NUMPY_STARTS)))
    if not start.startswith(NUMPY_STARTS):  # numpy would take it for a pickle
        reason = "its content is of another kind" if start else "it is empty"
        raise UserError(f"{path} is not an {path.suffix} file: {reason}")
    try:
        return np.load(path, allow_pickle=False)
    except Exception as e:  # a damaged file raises many types
        raise _not_numpy(path, e) from e


def _not_numpy(path: Path, error: Exception) -> UserError:
    reason = "it holds objects" if "allow_pickle" in str(error) else reason_of(error)
    return UserError(f"{path} is not an {path.suffix} file of plain arrays: {reason}")


def _read_npz(path: Path, **options: Any) -> Data:
    opened = _load_numpy(path)
    if not isinstance(opened, np.lib.npyio.NpzFile):
        raise UserError(f"{path} holds one array, not an .npz archive with x and y")
    try:
        with opened as arrays:
            if "x" not in arrays:
                raise UserError(f"{path} has no array x; it has {', '.join(arrays) or 'none'}")
            by_name = {name: arrays[name] if name in arrays else None for name in "xyc"}
    except UserError:
        raise
    except Exception as e:  # a damaged file raises many types
        raise _not_numpy(path, e) from e
    x, y, c = (
        None if array is None else _numbers(array, f"{path}: {name}")
        for name, array in by_name.items()
    )
    return from_arrays(x, y, c=c, **options)


def _read_npy(path: Path, **options: Any) -> Data:
    array = _load_numpy(path)
    if isinstance(array, np.lib.npyio.NpzFile):
        array.close()
        raise UserError(f"{path} is an archive of arrays: rename it to {path.stem}.npz")
    return from_arrays(_numbers(array, f"{path}: x"), **options)


def _numbers(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise UserError(f"{name} has numbers of no kind: its dtype is {array.dtype}")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _read_csv(path: Path, **options: Any) -> Data:
    dropped, kinds = options.get("drop") or (), checked_kinds(options.get("kinds"))
    categories = [name for name, kind in kinds.items() if kind == "category"]
    columns = read_csv(path, text=[*categories, *dropped])
    if next(iter(columns)) == "" and "" not in dropped:  # pandas writes the index without a name
        options = {"index": "", **options}
    with rows_as_lines(columns):
        return from_frame(columns, **options)


def read_parquet(path: Path) -> Any:
    """The DataFrame in a Parquet file, by pandas or polars, whichever is installed."""
    try:
        import pandas

        read: Callable[..., Any] = pandas.read_parquet
    except ImportError:
        try:
            import polars
        except ImportError:
            raise UserError(
                f"to read {path.name}, install pandas and pyarrow: pip install 'pyro-vae[tables]'"
            ) from None
        read = polars.read_parquet
    try:
        return read(path)
    except ImportError as e:
        raise UserError(
            f"to read {path.name}, install pyarrow: pip install 'pyro-vae[tables]'"
        ) from e
    except Exception as e:  # each library has its own
        raise UserError(f"{path} is not a Parquet file: {reason_of(e)}") from e


def _read_parquet(path: Path, **options: Any) -> Data:
    return from_frame(read_parquet(path), **options)


def read_anndata(path: Path) -> Any:
    """The AnnData object in an .h5ad file."""
    try:
        import anndata
    except ImportError:
        raise UserError(
            f"to read {path.name}, install anndata: pip install 'pyro-vae[anndata]'"
        ) from None
    try:
        return anndata.read_h5ad(path)
    except Exception as e:  # of h5py and anndata, of many types
        raise UserError(f"{path} is not an .h5ad file: {reason_of(e)}") from e


def _read_h5ad(path: Path, **options: Any) -> Data:
    return from_anndata(read_anndata(path), **options)


def read_source(
    path: Path,
    image_size: int | None = None,
    text: Collection[str] = (),
    numbers: Collection[str] = (),
    used: Collection[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """`(x, others)` of a file or an image folder.

    x is a frame, AnnData, columns, or an array `[N, ...]`. Of arrays and images, the others are labels
    y and covariates c, if there are any.

    Args:
        path: of the file or folder.
        image_size, class_names: as in `from_images`.
        text, numbers, used: as in `read_csv`.

    Raises:
        UserError: no such file, or one that cannot be read.
    """
    if str(path) in DATASETS:
        raise UserError(
            f"{path} is a data set, not a file: pass a file or an image folder; in Python, "
            "run.encode(run.data.test.x)"
        )
    if not path.exists():
        raise UserError(f"{path} does not exist")
    data_set(str(path))
    readers: dict[str, Callable[[Path], Any]] = {
        ".csv": partial(read_csv, text=text, numbers=numbers, used=used),
        ".tsv": partial(read_csv, text=text, numbers=numbers, used=used),
        ".parquet": read_parquet,
        ".h5ad": read_anndata,
    }
    kind = path.suffix.lower()
    if kind in readers and not path.is_dir():
        return readers[kind](path), {}
    options = {"image_size": image_size, "class_names": class_names} if path.is_dir() else {}
    arrays = read_file(path, 0, True, valid=0, test=0, **options).train.arrays()
    return arrays.pop("x"), arrays


def _read_images(path: Path, **options: Any) -> Data:
    return from_images(path, **options)


OF_TABLES = ("labels", "index", "library_size", "drop", "kinds", "covariates")
READERS: dict[str, tuple[Callable[..., Data], tuple[str, ...]]] = {
    ".npz": (_read_npz, ("library_size",)),
    ".npy": (_read_npy, ("library_size",)),
    ".csv": (_read_csv, OF_TABLES),
    ".tsv": (_read_csv, OF_TABLES),
    ".parquet": (_read_parquet, OF_TABLES),
    ".h5ad": (_read_h5ad, ("labels", "layer", "library_size", "covariates")),
    "folder": (_read_images, ("image_size", "class_names")),
}
assert set(READERS) == {*FILES, "folder"}
