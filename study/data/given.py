"""What a user hands to a model, as it is: images, none of which is resized, or vectors."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from zipfile import is_zipfile

import numpy as np
import torch
from torch import Tensor

from study.data.dataset import DataError
from study.data.images import convert, read_image

IMAGES, VECTORS = "images", "inputs"  # the names of the arrays in an .npz file, as `study.sample` writes it


def given_images(path: Path, image_size: int, colour: bool) -> Tensor:
    """The images of a file, uint8 [N, C, S, S] with S = image_size.

    Args:
        path: A picture, an .npz file with the array `images`, uint8 [N, S, S] or [N, S, S, 3], or a .csv file with the
            pixels of an image a line, 0 to 255, row by row (of colour images red, green and blue of each pixel).
        colour: Three channels; else images are turned grey, one channel.

    Raises:
        DataError: The file cannot be read, or its images are of another size.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _pixels(path, image_size, colour)
    if suffix == ".npz":
        arrays = _array(path, IMAGES)
        if arrays.dtype != np.uint8 or arrays.ndim not in (3, 4) or arrays.shape[3:] not in ((), (3,)):
            found = f"{arrays.dtype} of shape {list(arrays.shape)}"
            raise DataError(f"`{IMAGES}` of {path} must be uint8 [N, H, W] or [N, H, W, 3], but are {found}")
        height, width = arrays.shape[1:3]
    else:
        pixels, (width, height) = read_image(path, image_size, colour)
        arrays = pixels[None]
    if (height, width) != (image_size, image_size):
        size = f"{image_size}x{image_size}"
        raise DataError(f"images must be of {size} pixels, as the model takes them, but {path} has {width}x{height}")
    return convert(arrays, image_size, colour)


def given_vectors(path: Path, width: int) -> Tensor:
    """The vectors of a file, float32 [N, width].

    Args:
        path: An .npz file with the array `inputs` [N, width], or a .csv file with a vector a line.

    Raises:
        DataError: The file cannot be read, or its vectors are of another length, or not finite.
    """
    vectors = _table(path) if path.suffix.lower() == ".csv" else _array(path, VECTORS)
    if vectors.dtype.kind not in "fiu" or vectors.ndim != 2 or vectors.shape[1] != width:
        found = f"{vectors.dtype} of shape {list(vectors.shape)}"
        raise DataError(f"the inputs must be numbers [N, {width}], as the model takes them, but {path} has {found}")
    with np.errstate(over="ignore"):
        narrow = vectors.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise DataError(f"the inputs must be finite 32-bit numbers, but {path} has others")
    return torch.from_numpy(narrow)


def _pixels(path: Path, image_size: int, colour: bool) -> Tensor:
    table, shape = _table(path), (image_size, image_size, *((3,) if colour else ()))
    width = int(np.prod(shape))
    if table.shape[1] != width:
        raise DataError(f"a line of {path} must have {width} pixels, as the model takes them, but has {table.shape[1]}")
    if not (table == table.clip(0, 255).round()).all():  # so that NaN is refused too
        raise DataError(f"the pixels of {path} must be whole numbers from 0 to 255, but it has others")
    return convert(table.astype(np.uint8).reshape(-1, *shape), image_size, colour)


def _table(path: Path) -> np.ndarray:
    """The numbers of a .csv file, float64 [N, columns]; a first line of names is passed over."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # as Excel writes it
            lines = [line for line in csv.reader(file) if line]
        if lines and _is_names(lines[0]):
            del lines[0]
        table = np.array(lines, dtype=np.float64)
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path} must have as many numbers in each line, with commas between them: {reason}") from error
    if not table.size:
        raise DataError(f"{path} must have numbers, but has none")
    return table


def _is_names(line: Sequence[str]) -> bool:
    """Whether a first line has the columns' names: less than half of it are numbers, or they are pandas' 0, 1, 2, ...

    A line of numbers with a cell that is none is a mistake, which is not passed over.
    """
    numbers = [str(number) for number in range(len(line))]
    counted = (list(line), list(line[1:]) if not line[0] else [])  # pandas leaves the index without a name
    if len(line) > 1 and (counted[0] == numbers or counted[1] == numbers[:-1]):
        return True
    return 2 * sum(map(_is_number, line)) < len(line)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _array(path: Path, name: str) -> np.ndarray:
    if os.path.isfile(path) and not is_zipfile(path):  # `Path.is_file` raises where a folder must not be read
        raise DataError(f"{path} must be an .npz file with the array `{name}`, but is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            array = file[name]
    except Exception as error:  # zipfile, zlib and NumPy raise nearly everything on damaged files
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} must be an .npz file with the array `{name}`: {reason}") from error
    if not array.size:
        raise DataError(f"the array `{name}` of {path} must not be empty, but has the shape {list(array.shape)}")
    return array
