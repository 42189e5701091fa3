"""Images that a user hands to a model, as they are: nothing is resized."""

from __future__ import annotations

from pathlib import Path
from zipfile import is_zipfile

import numpy as np
from torch import Tensor

from study.data.dataset import DataError
from study.data.images import convert, read_image

ARRAY = "images"  # the name of the array in an .npz file, as `study.sample` writes it


def given_images(path: Path, image_size: int, colour: bool) -> Tensor:
    """The images of a file, uint8 [N, C, S, S] with S = image_size.

    Args:
        path: A picture, or an .npz file with the array `images`, uint8 [N, S, S] or [N, S, S, 3].
        colour: Three channels; else images are turned grey, one channel.

    Raises:
        DataError: The file cannot be read, or its images are of another size.
    """
    if path.suffix.lower() == ".npz":
        arrays, (height, width) = _arrays(path)
    else:
        pixels, (width, height) = read_image(path, image_size, colour)
        arrays = pixels[None]
    if (height, width) != (image_size, image_size):
        size = f"{image_size}x{image_size}"
        raise DataError(f"images must be of {size} pixels, as the model takes them, but {path} has {width}x{height}")
    return convert(arrays, image_size, colour)


def _arrays(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """The array, and the height and width of its images."""
    if path.is_file() and not is_zipfile(path):
        raise DataError(f"{path} must be an .npz file with the array `{ARRAY}`, but is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            images = file[ARRAY]
    except Exception as error:  # zipfile, zlib and NumPy raise nearly everything on damaged files
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} must be an .npz file with the array `{ARRAY}`: {reason}") from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[3:] not in ((), (3,)) or not images.size:
        shape = list(images.shape)
        raise DataError(
            f"`{ARRAY}` of {path} must be uint8 [N, H, W] or [N, H, W, 3], but are {images.dtype} of shape {shape}"
        )
    return images, (images.shape[1], images.shape[2])
