"""Data from files: tables, arrays, images and AnnData. No file is executed, and none is unpickled."""

import codecs
import csv
import re
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError, check_int_at_least
from .dataset import Data
from .frames import checked_kinds, from_anndata, from_frame
from .registry import DATASETS, FILES, IMAGES, data_set
from .splitting import from_arrays
from .tables import FileColumns, drop_hint, kind_hint, rows_as_lines

MISSING = {"", "na", "n/a", "nan", "null", "none"}  # in a CSV file, in lower case
MAX_IMAGE_SIZE = 4096  # to which images are resized
NUMPY_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"\x93NUMPY")  # of zip archives and of .npy files
DEEP_MODES = ("I", "F")  # of Pillow, of more than 8 bits; I;16 begins with the first
DECIMAL_COMMA = r"[+-]?\d*,\d+([eE][+-]?\d+)?"
THOUSANDS = r"[+-]?[1-9]\d{0,2},\d{3}"
BOOLEANS = {"true": True, "false": False}


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


def _one_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


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
    reason = "it holds objects" if "allow_pickle" in str(error) else _one_line(error)
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


def read_csv(
    path: Path,
    text: Collection[str] = (),
    numbers: Collection[str] = (),
    used: Collection[str] | None = None,
) -> FileColumns:
    """`{column: values}` of a text file with a header; None for a missing value.

    The separator is a comma, a semicolon or a tab, whichever the header has most of. A column is of
    integers, of numbers, of `true` and `false`, or of text. Missing values are empty, NA or NaN.
    Where the separator is no comma, a comma may be the decimal point: then it is one in every column,
    with a warning.

    Args:
        path: of the file.
        text: the names of columns that are text, whatever they look like.
        numbers: the names of columns in which text among numbers is refused.
        used: the names of columns that are used; others are text, as it is written. Default: all.

    Raises:
        UserError: no header, two columns of one name, a row of another length, text among `numbers`,
            no UTF-8.
    """
    try:
        with open(path, encoding=_encoding(path), newline="") as file:
            header_line = file.readline()
            separator = max(",;\t", key=header_line.count)
            file.seek(0)
            rows, lines = _rows_and_lines(csv.reader(file, delimiter=separator))
    except (csv.Error, UnicodeDecodeError) as e:
        remedy = ""
        if isinstance(e, UnicodeDecodeError):
            remedy = ": save it in UTF-8, which spreadsheets call 'CSV UTF-8'"
        raise UserError(f"{path} is not a CSV file in UTF-8: {_one_line(e)}{remedy}") from e
    if len(rows) < 2:
        raise UserError(f"{path} has no rows below a header")
    header, *body = rows
    _check_header(path, header)
    _, *lines = lines
    for line, row in zip(lines, body, strict=True):
        if len(row) != len(header):
            raise UserError(f"{path}: line {line} has {len(row)} values, the header {len(header)}")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise UserError(f"{path} has several columns {twice[0]!r}: rename them")
    read = {i: n for i, n in enumerate(header) if n not in text and (used is None or n in used)}
    has_commas = separator != "," and _has_decimal_commas(path, body, read)
    columns: dict[str, list[Any]] = {}
    for i, name in enumerate(header):
        if used is not None and name not in used:  # written as they are, if at all
            columns[name] = [row[i] for row in body]
            continue
        cells = [row[i].strip() for row in body]
        present = [cell for cell in cells if cell.lower() not in MISSING]
        if name in text:
            columns[name] = [None if cell.lower() in MISSING else cell for cell in cells]
            continue
        if has_commas:
            cells, present = ([_with_point(cell) for cell in each] for each in (cells, present))
        if name not in numbers or not any(map(_is_number, present)):
            _check_numbers(path, name, present)
        other = [each for each in zip(lines, cells, strict=True) if _is_text(each[1])]
        if other and len(other) < len(present):
            line, cell = other[0]
            if name in numbers:
                raise UserError(
                    f"{path}: column {name!r} had numbers, and now {cell[:20]!r} in line {line}"
                )
            warnings.warn(
                f"column {name!r} has numbers and text, such as {cell[:20]!r}: it is read as a "
                "category (a missing value is an empty cell, NA or NaN)",
                stacklevel=2,
            )
        columns[name] = _typed(cells, present)
        zeros = next((cell for cell in present if re.fullmatch(r"0\d+", cell)), None)
        if zeros is not None and isinstance(columns[name][cells.index(zeros)], int):
            warnings.warn(
                f"column {name!r} has numbers with zeros in front, such as {zeros!r}, which are lost: "
                f"{kind_hint(name, 'category')} keeps them",
                stacklevel=2,
            )
    return FileColumns(columns, lines)


def _rows_and_lines(reader: Any) -> tuple[list[list[str]], list[int]]:
    """The rows that are not empty, and the line of the file on which each begins."""
    rows, lines, read = [], [], 0
    for row in reader:
        if row:
            rows.append(row)
            lines.append(read + 1)
        read = reader.line_num  # a quoted cell may have several lines
    return rows, lines


def _check_header(path: Path, header: list[str]) -> None:
    """Warn of a first row of numbers: it may be a row of data. pandas' names 0, 1, ... are none."""
    names = header[1:] if header[0] == "" else header  # pandas writes the index without a name
    if names and all(map(_is_number, names)) and names != [str(i) for i in range(len(names))]:
        warnings.warn(
            f"{path}: the first row was taken as the column names, and it has only numbers, such as "
            f"{names[0]!r}; if it is a row of data, add a row of names above it",
            stacklevel=2,
        )


def _check_numbers(path: Path, name: str, present: list[str]) -> None:
    """Refuse a column of numbers that are written with commas, units of money or per cent."""
    # the second is 1.234,50; dates have no comma
    forms = r"[$€£]?[+-]?,?\d[\d,]*(\.\d+)? ?[%$€£]?", r"[+-]?\d[\d.]*(,\d+)?"
    is_written = [all(re.fullmatch(form, cell) for cell in present) for form in forms]
    if not (is_written[0] or (is_written[1] and any("," in cell for cell in present))):
        return
    written = next((cell for cell in present if not _is_number(cell)), None)
    if written is not None:
        raise UserError(
            f"{path}: column {name!r} has numbers with signs or commas, such as {written!r}: write "
            "them with digits and a point alone, such as 1234.5, or leave the column out, "
            f"{drop_hint(name)}"
        )


def _has_decimal_commas(path: Path, rows: list[list[str]], columns: dict[int, str]) -> bool:
    """Whether a file has numbers such as 1,5, and none such as 1.5; 1,500 alone may be thousands.

    Args:
        columns: the names of the columns that are looked at, by their places.
    """
    cells = [(name, row[i].strip()) for row in rows for i, name in columns.items()]
    found: dict[str, str] = {}  # by column
    for name, cell in cells:
        if re.fullmatch(DECIMAL_COMMA, cell) and not re.fullmatch(THOUSANDS, cell):
            found.setdefault(name, cell)
    if not found or any(re.fullmatch(r"[+-]?\d*\.\d+", cell) for _, cell in cells):
        return False
    listed = ", ".join(f"{cell!r} (column {name!r})" for name, cell in [*found.items()][:3])
    warnings.warn(
        f"{path}: the comma is read as the decimal point of numbers, such as {listed}"
        + (", ..." if len(found) > 3 else ""),
        stacklevel=3,
    )
    return True


def _with_point(cell: str) -> str:
    return cell.replace(",", ".") if re.fullmatch(DECIMAL_COMMA, cell) else cell


def _is_text(cell: str) -> bool:
    """Whether a cell is neither a number nor a missing value."""
    return cell.lower() not in MISSING and not _is_number(cell)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _typed(cells: list[str], present: list[str]) -> list[Any]:
    """The values of a column: of the narrowest type that all of them have."""
    convert: Callable[[str], Any] = str
    for candidate in (_integer, float, lambda cell: BOOLEANS[cell.lower()]):
        try:
            for cell in present:
                candidate(cell)
        except (ValueError, KeyError):
            continue
        convert = candidate
        break
    return [None if cell.lower() in MISSING else convert(cell) for cell in cells]


def _encoding(path: Path) -> str:
    """UTF-8, or UTF-16 of a file that begins with its mark, as spreadsheets save "Unicode text"."""
    with open(path, "rb") as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _integer(cell: str) -> int:
    number = int(cell)
    if abs(number) >= 2**63:
        raise ValueError
    return number


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
        raise UserError(f"{path} is not a Parquet file: {_one_line(e)}") from e


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
        raise UserError(f"{path} is not an .h5ad file: {_one_line(e)}") from e


def _read_h5ad(path: Path, **options: Any) -> Data:
    return from_anndata(read_anndata(path), **options)


def from_images(
    folder: Path | str,
    image_size: int | None = None,
    valid: float | int = 0.1,
    test: float | int = 0.1,
    name: str | None = None,
    split_seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> Data:
    """`Data` from the images in a folder; each subfolder is a class.

    Images become `[N, 1, H, W]` if all are gray, else `[N, 3, H, W]`, with values in [0, 1]. Files are
    read in the order of their paths. Classes are numbered in the order of the subfolders' names.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> import pyro_vae as pv
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cats", "dogs"):
        ...         (Path(folder) / name).mkdir()
        ...         Image.new("L", (6, 4), color=100).save(Path(folder) / name / "1.png")
        ...     pv.data.from_images(folder, image_size=8, valid=0, test=0, name="pets")
        Data('pets': 2 train; x [1, 8, 8], 2 classes)

    Args:
        folder: with images, or with subfolders of images.
        image_size: resize images to `image_size` × `image_size`. Default: all have one size.
        valid, test: fractions of the data, or counts; 0 for none.
        name: of the data set. Default: the folder's name.
        split_seed: of the splits.
        class_names: the subfolders that are classes, in the order of their numbers; images in others
            have no label. Default: all subfolders, sorted.

    Raises:
        UserError: no images, images of several sizes or of more than 8 bits, a file that is no image,
            images in the folder and in subfolders of it.
    """
    from PIL import Image

    folder = Path(folder)
    if image_size is not None:
        check_int_at_least(1, image_size=image_size)
        if image_size > MAX_IMAGE_SIZE:
            raise UserError(f"image_size must be at most {MAX_IMAGE_SIZE}, got {image_size}")
    paths = image_paths(folder)
    images = []
    for path in paths:
        try:
            with Image.open(path) as opened:
                if opened.mode.startswith(DEEP_MODES):
                    raise UserError(
                        f"{path} has more than 8 bits per value: convert it to 8 bits, or pass arrays"
                    )
                image = opened.convert("L" if opened.mode in ("1", "L", "LA") else "RGB")
        except UserError:
            raise
        except Exception as e:  # a decoder's errors have many types; one is of too many pixels
            raise UserError(f"{path} cannot be read as an image: {_one_line(e)}") from e
        images.append(image if image_size is None else image.resize((image_size, image_size)))
    for path, image in zip(paths, images, strict=True):
        if image.size != images[0].size:
            (w, h), (first_w, first_h) = image.size, images[0].size
            raise UserError(
                f"{path} is {w} x {h}, {paths[0]} is {first_w} x {first_h}: a training with image_size= "
                "(--image-size) resizes all images to one size"
            )
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    arrays = np.stack([np.asarray(image.convert(mode)) for image in images])
    x = torch.from_numpy(arrays)
    x = x.unsqueeze(1) if mode == "L" else x.permute(0, 3, 1, 2)
    subfolders = _class_names(folder, paths)
    names = subfolders if class_names is None else _checked_classes(class_names)
    y = None if subfolders is None or names is None else _class_numbers(folder, paths, names)
    data = from_arrays(
        x.contiguous(),
        y,
        valid,
        test,
        name=folder.resolve().name if name is None else name,
        split_seed=split_seed,
    )
    return replace(data, class_names=names)


def image_paths(folder: Path) -> list[Path]:
    """The images in a folder and its subfolders, in the order in which they are read.

    Raises:
        UserError: no folder, no images in it, or the pictures of a run.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES and p.is_file())
    if not paths:
        raise UserError(f"{folder} has no images ({', '.join(sorted(IMAGES))})")
    for parent in sorted({path.parent for path in paths}):
        if (parent / "checkpoint.pt").exists():
            raise UserError(f"{folder} is no image folder: {parent} is the folder of a run")
    return paths


def file_names(folder: Path) -> list[str]:
    """The paths of the images relative to their folder, one per row of `from_images`, with slashes."""
    return [path.relative_to(folder).as_posix() for path in image_paths(folder)]


def _class_names(folder: Path, paths: list[Path]) -> tuple[str, ...] | None:
    """The names of the subfolders that have images, sorted; None without subfolders."""
    inside = [len(path.relative_to(folder).parts) > 1 for path in paths]
    if not any(inside):
        return None
    if not all(inside):
        stray = paths[inside.index(False)]
        raise UserError(f"{folder} has images in subfolders, which are classes, and {stray.name}")
    return tuple(sorted({_subfolder(folder, path) for path in paths}))


def _checked_classes(class_names: Sequence[str]) -> tuple[str, ...]:
    """The classes that a caller names, if each is named once."""
    if isinstance(class_names, str):
        raise UserError(f"class_names must be a list of subfolders, not {class_names!r}")
    names = tuple(class_names)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"class_names has {twice!r} twice")
    return names


def _class_numbers(folder: Path, paths: list[Path], class_names: tuple[str, ...]) -> list[int]:
    """The number of each image's class, which is its subfolder; -1 for a subfolder that is none."""
    numbers = {name: number for number, name in enumerate(class_names)}
    subfolders = [_subfolder(folder, path) for path in paths]
    others = sorted({name for name in subfolders if name not in numbers})
    if others:
        warnings.warn(
            f"{folder}: the subfolder {others[0]!r} is none of the classes {', '.join(class_names)}: "
            f"images in {'it' if len(others) == 1 else f'{len(others)} such subfolders'} have no label",
            stacklevel=3,
        )
    return [numbers.get(name, -1) for name in subfolders]


def _subfolder(folder: Path, path: Path) -> str:
    return path.relative_to(folder).parts[0]


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
