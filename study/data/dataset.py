"""Data sets as tensors: one uint8 tensor of images and one of labels per split, on the device, no DataLoader."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from study.checks import UsageError

SPLIT_SEED = 0  # of every split that the study makes itself; fixed, so that results of different days compare
FEWEST_CLASSES, MOST_CLASSES = 2, 200
FEWEST_IMAGES, FEW_IMAGES = 2, 1_000  # of each split: a correlation of fewer is undefined; for training: warned of
NARROWEST, NARROW = 17, 128  # ranges of pixels: narrower ones are refused, warned of
log = logging.getLogger("study")


class DataError(UsageError):
    """A data set is missing or broken; the message is one sentence for the user."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, in the same order."""

    images: Tensor  # uint8 [N, C, S, S], C is 1 (grey) or 3 (colour)
    labels: Tensor  # int64 [N], 0 to classes - 1; all 0 where the images have no labels

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Split:
        return Split(self.images.to(device), self.labels.to(device))

    def take(self, index: Tensor) -> Split:
        """Return a copy of the images and labels at these positions, int64 [M]."""
        return Split(self.images[index].contiguous(), self.labels[index].contiguous())


@dataclass(frozen=True, eq=False)
class Dataset:
    """Train for training, val for every choice (selection, pruning), test to be reported only."""

    name: str  # in the names of experiments and models, see `data_name`
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]  # names by label; () where the images have no labels
    source: str = ""  # the `--data` that loads it again: a built-in name or an absolute path

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image: (C, S, S)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the three splits' shapes, images and labels, and of the classes."""
        sha = hashlib.sha256()
        for split in (self.train, self.val, self.test):
            for values, dtype in ((split.images, "|u1"), (split.labels, "<i8")):
                array = np.ascontiguousarray(values.cpu().numpy(), dtype=dtype)
                sha.update(f"{array.shape}".encode())
                sha.update(array.data)
        sha.update(json.dumps(self.classes).encode())
        return sha.hexdigest()[:16]

    def to(self, device: torch.device | str) -> Dataset:
        """Return the same data on a device; the digest is kept, not computed again."""
        moved = self.each(lambda split: split.to(device))
        moved.__dict__["digest"] = self.digest
        return moved

    def each(self, change: Callable[[Split], Split]) -> Dataset:
        """Return the data set with every split changed."""
        return replace(self, train=change(self.train), val=change(self.val), test=change(self.test))


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [0, 1], same shape."""
    return images.to(torch.float32) / 255


def to_pixels(images: Tensor) -> np.ndarray:
    """Return images [N, C, H, W], uint8 or float in [0, 1], as uint8 [N, H, W] (C = 1) or [N, H, W, 3]."""
    if images.dtype != torch.uint8:
        images = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = images.squeeze(1) if images.shape[1] == 1 else images.permute(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.cpu().numpy())


def stratified_split(labels: Tensor, fractions: Sequence[float], classes: Sequence[str] = ()) -> list[Tensor]:
    """Split the positions of labels [N] so that every part has its fraction of every class, at least one image.

    Returns:
        len(fractions) + 1 tensors of positions, int64, the rest first, each in a random order that never changes.

    Raises:
        DataError: A class has fewer images than there are parts; named by `classes`, the names by label.
    """
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    needed = len(fractions) + 1
    parts: list[list[Tensor]] = [[] for _ in range(needed)]
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        if len(members) < needed:
            what = f"class {classes[label]!r} has" if classes else "there are"
            raise DataError(f"a split needs {needed} or more images of each class, but {what} only {len(members)}")
        sizes = [max(1, round(fraction * len(members))) for fraction in fractions]
        members = members[torch.randperm(len(members), generator=generator)]
        for part, chosen in zip(parts, members.split([len(members) - sum(sizes), *sizes]), strict=True):
            part.append(chosen)
    together = [torch.cat(part) for part in parts]
    return [part[torch.randperm(len(part), generator=generator)] for part in together]


def shuffled(split: Split) -> Split:
    """Return the split in a random order that never changes, so that its first N images are of all classes."""
    return split.take(torch.randperm(len(split), generator=torch.Generator().manual_seed(SPLIT_SEED)))


def check_dataset(data: Dataset) -> None:
    """Check the rules for every data set; warn of few images and of a narrow range of pixels.

    Raises:
        DataError: A split lacks a class, a label is out of range, or pixels or images hardly differ.
    """
    classes, count = data.classes, len(data.classes)
    if classes and not FEWEST_CLASSES <= count <= MOST_CLASSES:
        rule = f"{data.name} must have from {FEWEST_CLASSES} to {MOST_CLASSES} classes"
        raise DataError(f"{rule}, but has {count}: {listed(classes)}")
    for number, each in enumerate(classes):
        if each in classes[:number] or not each.strip() or not each.isprintable():
            raise DataError(f"class names of {data.name} must be printable texts that differ, but one is {each!r}")
    for part, split in (("training", data.train), ("validation", data.val), ("test", data.test)):
        images, labels, what = split.images, split.labels.unique().tolist(), f"{part} images of {data.name}"
        if len(images) < FEWEST_IMAGES:
            raise DataError(f"there must be at least {FEWEST_IMAGES} {what}, but there are {len(images)}")
        wrong = [label for label in labels if not 0 <= label < max(count, 1)]
        if wrong:
            raise DataError(f"labels of the {what} must be from 0 to {count - 1}, but one is {wrong[0]}")
        absent = [name for label, name in enumerate(classes) if label not in labels]
        if absent:
            raise DataError(f"every class must be among the {what}, but there is no {listed(absent)}")
        low, high = int(images.min()), int(images.max())
        seen = f"pixels must use the range from 0 to 255, but those of the {what} are from {low} to {high}"
        if high - low < NARROWEST:
            raise DataError(f"{seen}: scale them first")
        if bool((images == images[:1]).all()):
            raise DataError(f"images must differ, but all {len(images)} {what} are the same")
        if high - low < NARROW and split is data.train:
            log.warning(f"{seen}: it may help to scale them first")
    train, val, test = len(data.train), len(data.val), len(data.test)
    if train < FEW_IMAGES:
        # Two standard errors of the difference of two accuracies p of 85 %: 2 sqrt(2 p (1 - p) / test).
        points = f"less than about {min(100, math.ceil(100 / math.sqrt(test)))} points of accuracy"
        worth = f"differences of {points} between figures mean nothing" if classes else "figures are rough hints"
        sizes = f"{train} training, {val} validation and {test} test images"
        log.warning(f"{data.name} has only {sizes}: {worth}, and batch sizes above the number of images are cut to it")


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return names in quotes, a few of them: "'cat', 'dog' and 3 more"."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
