"""The rules for every data set, wherever it comes from."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from study.data.dataset import DataError, Dataset

FEWEST_CLASSES, MOST_CLASSES = 2, 200
FEWEST_IMAGES = 2
"""Of each part: a correlation of fewer is undefined."""
FEW_IMAGES = 1_000
"""With fewer training images than this a data set is loaded with a warning."""
NAMED = 5
"""How many names a message lists at most."""


def check_image_size(size: int) -> None:
    """Raises DataError unless the size, in pixels, is a multiple of 4 (the models halve it twice) from 16 to 64."""
    if size % 4 or not 16 <= size <= 64:
        raise DataError(f"--image-size must be a multiple of 4 from 16 to 64, but is {size}")


def check_classes(name: str, classes: Sequence[str]) -> None:
    """Raises DataError unless there are 2 to 200 classes, each with a name of its own that can be written."""
    if not FEWEST_CLASSES <= len(classes) <= MOST_CLASSES:
        which = f" ({listed(classes)})" if classes else ""
        raise DataError(
            f"{name} must have from {FEWEST_CLASSES} to {MOST_CLASSES} classes, but has {len(classes)}{which}"
        )
    twice = [each for each, count in Counter(classes).items() if count > 1]
    if twice:
        raise DataError(f"the class names of {name} must all differ, but {twice[0]!r} is there more than once")
    for each in classes:
        if not each.strip() or not each.isprintable():
            raise DataError(f"the class names of {name} must be printable text, but one is {each!r}")


def check_dataset(dataset: Dataset) -> None:
    """Raises DataError if a part is empty, or a class is missing from one."""
    if dataset.classes:
        check_classes(dataset.name, dataset.classes)
    for part, split in (("training", dataset.train), ("validation", dataset.val), ("test", dataset.test)):
        if len(split) < FEWEST_IMAGES:
            raise DataError(f"{dataset.name} must have at least {FEWEST_IMAGES} {part} images, but has {len(split)}")
        there = set(split.labels.unique().tolist())
        missing = [each for label, each in enumerate(dataset.classes) if label not in there]
        if missing:
            raise DataError(
                f"every class must be among the {part} images of {dataset.name}, but there is no {listed(missing)}"
            )


def warn_of_few_images(dataset: Dataset) -> None:
    """Says once what figures from so few images are worth."""
    train, val, test = len(dataset.train), len(dataset.val), len(dataset.test)
    if train >= FEW_IMAGES:
        return
    worth = "take its figures as a rough hint only"
    if dataset.classes:
        # Two standard errors of the difference of two accuracies p: 2 sqrt(2 p (1 - p) / test), p about 85 %.
        points = min(100, math.ceil(100 / math.sqrt(test)))
        worth = f"differences of less than about {points} points of accuracy between figures mean nothing"
    logging.getLogger("study").warning(
        f"{dataset.name} has only {train} training, {val} validation and {test} test images: {worth},"
        " and batch sizes above the number of images are cut to it"
    )


def listed(names: Iterable[str]) -> str:
    """Names in quotes, a few of them: "'cat', 'dog' and 3 more"."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:NAMED])
    return shown if len(names) <= NAMED else f"{shown} and {len(names) - NAMED} more"
