"""Pillow reads, turns grey or coloured, and resizes: the one place where a picture becomes an array."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from study.data.dataset import DataError, Split

# Pillow registers these, but identifies them only, or needs a program of the system to draw them.
NOT_DRAWN = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
BACKGROUND = "white"
"""What shows through a transparent image, as in most viewers."""


def endings() -> set[str]:
    """The endings of the image files that Pillow reads, in lower case with the dot."""
    known = Image.registered_extensions()
    return {ending for ending, kind in known.items() if kind in Image.OPEN and kind not in NOT_DRAWN}


def read_image(path: Path, image_size: int, colour: bool) -> tuple[np.ndarray, tuple[int, int]]:
    """The image of a file, upright as its EXIF data say, as uint8 [S, S] or [S, S, 3], and its width and height.

    Raises:
        DataError: The file is no image, is truncated or damaged, has too many pixels, or may not be read.
    """
    try:
        with Image.open(path) as image:
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            upright = ImageOps.exif_transpose(image)
            return to_array(upright, image_size, colour), upright.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} must have at most {Image.MAX_IMAGE_PIXELS} pixels, but has more") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path} cannot be read as an image: its content is of no format that Pillow knows") from error
    except Exception as error:  # Pillow's readers raise nearly everything on damaged files
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as an image: {reason}") from error


def to_array(image: Image.Image, image_size: int, colour: bool) -> np.ndarray:
    """An image of any mode as uint8 [S, S] (grey) or [S, S, 3] (colour), resized with antialiasing where needed."""
    image.load()
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image)
    elif image.has_transparency_data:
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, BACKGROUND), seen)
    mode = "RGB" if colour else "L"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.array(image)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8: Pillow's own conversion would cut all above 255 off."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65_535:
        raise ValueError(f"pixels must be whole numbers of 8 or 16 bits, but are from {values.min()} to {values.max()}")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def convert(images: np.ndarray, image_size: int, colour: bool) -> Tensor:
    """Arrays uint8 [N, H, W] or [N, H, W, 3] as a tensor uint8 [N, C, S, S]; Pillow only where something changes."""
    if colour and images.ndim == 3:  # resized once, not in each of three equal channels
        return convert(images, image_size, colour=False).repeat(1, 3, 1, 1)
    if images.shape[1:3] != (image_size, image_size) or (images.ndim == 4) != colour:
        images = np.stack([to_array(Image.fromarray(image), image_size, colour) for image in images])
    pixels = torch.from_numpy(np.ascontiguousarray(images)).reshape(-1, image_size, image_size, 3 if colour else 1)
    return pixels.permute(0, 3, 1, 2).contiguous()


def convert_split(split: Split, image_size: int, colour: bool) -> Split:
    """The split with images of another size or number of channels."""
    pixels = split.images.permute(0, 2, 3, 1).numpy()  # [N, H, W, C]
    return Split(convert(pixels[..., 0] if pixels.shape[3] == 1 else pixels, image_size, colour), split.labels)


def tell_of_resizing(name: str, sizes: Iterable[tuple[int, int]], image_size: int) -> None:
    """Says once that images are resized, if these widths and heights are not all image_size."""
    found = set(sizes)
    if found <= {(image_size, image_size)}:
        return
    what = "of {}x{} pixels".format(*next(iter(found))) if len(found) == 1 else f"of {len(found)} different sizes"
    logging.getLogger("study").warning(
        f"the images of {name} are {what}: all are resized to {image_size}x{image_size}; --image-size sets another size"
    )
