"""Small data sets of somebody's own: noise with a square at a place of its own for each class, which can be learned."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from string import ascii_uppercase

import numpy as np
from conftest import squares
from PIL import Image
from torch import Tensor

SHAPES = ("Größe L", "green disc", "stripe")
"""Class names in the order of their numbers, which is that of their characters."""
LETTERS = tuple(ascii_uppercase)


def write_images(folder: Path, images: Iterable[Tensor]) -> Path:
    """A folder of PNG files, without class folders."""
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:03}.png")
    return folder


def folder_of_shapes(folder: Path, per_class: dict[str, int], *, size: int = 32) -> Path:
    """A folder of class folders under each part's name, `train` and `test` say; "": of class folders at once."""
    for seed, (part, count) in enumerate(per_class.items()):
        split = squares((3, size, size), len(SHAPES), count, seed)
        for label, name in enumerate(SHAPES):
            write_images(folder / part / name, split.images[split.labels == label])
    return folder


def arrays_of_letters(
    path: Path, train: int, test: int, names: Sequence[str] = LETTERS, *, changed_pixel: int | None = None
) -> Path:
    """An .npz file of grey images, so many of each class for training and for the test, named as Keras names them;
    `changed_pixel` is another value for the first pixel of the last test image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = {}
    for part, count in (("train", train), ("test", test)):
        split = squares((1, 28, 28), len(names), count, len(parts))
        parts |= {f"x_{part}": split.images[:, 0].numpy(), f"y_{part}": split.labels.numpy()}
    if changed_pixel is not None:
        parts["x_test"][-1, 0, 0] = changed_pixel
    np.savez_compressed(path, class_names=np.array(list(names)), **parts)
    return path
