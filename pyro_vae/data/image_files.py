"""Images in a folder, whose subfolders are classes."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError, check_int_at_least, reason_of
from .dataset import Data
from .registry import IMAGES
from .splitting import from_arrays

MAX_IMAGE_SIZE = 4096  # to which images are resized
DEEP_MODES = ("I", "F")  # of Pillow, of more than 8 bits; I;16 begins with the first


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
            raise UserError(f"{path} cannot be read as an image: {reason_of(e)}") from e
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
