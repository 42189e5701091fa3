"""Data of other shapes and class counts than the digits'."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, sqrt

import pytest
import torch

from study.data.dataset import Dataset, Split

MakeDataset = Callable[[tuple[int, int, int], int, int], Dataset]


@pytest.fixture
def make_dataset() -> MakeDataset:
    """Makes an easy data set of an image shape, a number of classes, and training images a class; two of each class
    are for validation, two for the test.
    """

    def make(image_shape: tuple[int, int, int], classes: int, per_class: int) -> Dataset:
        parts = [squares(image_shape, classes, count, seed) for seed, count in enumerate((per_class, 2, 2))]
        return Dataset("easy", *parts, classes=tuple(f"class {number}" for number in range(classes)))

    return make


def squares(image_shape: tuple[int, int, int], classes: int, per_class: int, seed: int) -> Split:
    """Noise with a bright square, at a place of its own for each class."""
    labels = torch.arange(classes).repeat(per_class)
    images = torch.randint(0, 60, (len(labels), *image_shape), generator=torch.Generator().manual_seed(seed))
    places = ceil(sqrt(classes))
    side = image_shape[1] // places
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = side * (label // places), side * (label % places)
        image[:, top : top + side, left : left + side] += 180
    return Split(images.to(torch.uint8), labels)
