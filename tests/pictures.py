"""Small data sets of somebody's own, drawn by Pillow: shapes and letters in noise, which a classifier can learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHAPES = ("Größe L", "green disc", "stripe")
"""Class names in the order of their numbers, which is that of their characters."""
LETTERS = tuple(ascii_uppercase)


def shape(kind: int, generator: np.random.Generator, size: int = 32) -> Image.Image:
    """A coloured disc, square or stripe, somewhere in noise."""
    image = Image.fromarray(generator.integers(0, 70, (size, size, 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    left, top = (int(place) for place in generator.integers(2, size // 2 - 2, 2))
    box = (left, top, left + size // 2, top + size // 2)
    if kind == 0:
        draw.ellipse(box, fill=(40, 220, 60))
    elif kind == 1:
        draw.rectangle(box, fill=(230, 60, 40))
    else:
        draw.line((0, top, size, top + size // 2), fill=(60, 80, 240), width=5)
    return image


def folder_of_shapes(folder: Path, per_class: dict[str, int], *, size: int = 32) -> Path:
    """A folder of class folders under each part's name, `train` and `test` say; "": of class folders at once."""
    for seed, (part, count) in enumerate(per_class.items()):
        generator = np.random.default_rng(seed)
        for kind, name in enumerate(SHAPES):
            place = folder / part / name
            place.mkdir(parents=True)
            for number in range(count):
                shape(kind, generator, size).save(place / f"{number:03}.png")
    return folder


def flat_folder(folder: Path, count: int) -> Path:
    """Images without class folders."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(count):
        shape(number % len(SHAPES), generator).save(folder / f"{number:03}.png")
    return folder


def letters(per_class: int, seed: int, names: Sequence[str] = LETTERS) -> tuple[np.ndarray, np.ndarray]:
    """White letters in noise, uint8 [N, 28, 28], and their numbers [N]."""
    generator = np.random.default_rng(seed)
    font = ImageFont.load_default(22)
    labels = np.tile(np.arange(len(names)), per_class)
    images = generator.integers(0, 60, (len(labels), 28, 28), dtype=np.uint8)
    for place, label in enumerate(labels):
        image = Image.fromarray(images[place])
        middle = tuple(13.5 + generator.integers(-1, 2, 2))
        ImageDraw.Draw(image).text(middle, names[label], fill=255, font=font, anchor="mm")
        images[place] = np.asarray(image)
    return images, labels


def arrays_of_letters(
    path: Path, train: int, test: int, names: Sequence[str] = LETTERS, *, changed_pixel: int | None = None
) -> Path:
    """An .npz file of letters, so many of each class for training and for the test, named as Keras names them.

    Args:
        changed_pixel: Another value for the first pixel of the last test image.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    (x_train, y_train), (x_test, y_test) = letters(train, 0, names), letters(test, 1, names)
    if changed_pixel is not None:
        x_test[-1, 0, 0] = changed_pixel
    parts = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    np.savez_compressed(path, class_names=np.array(list(names)), **parts)
    return path
