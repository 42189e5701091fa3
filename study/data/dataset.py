"""Data sets as tensors: one uint8 tensor of images and one of labels a split, on the device, no DataLoader."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

SPLIT_SEED = 0
VALIDATION_SHARE = 0.1  # of images that come without a validation part
"""Seed of every split that we make ourselves: it never changes, or results of different days could not be compared."""


class DataError(Exception):
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
        """The images and labels at these positions, int64 [M], copied."""
        return Split(self.images[index].contiguous(), self.labels[index].contiguous())


@dataclass(frozen=True, eq=False)
class Dataset:
    """Train for training, val for every choice (selection, pruning), test to be reported only."""

    name: str
    """The name that stands in the names of experiments and models, see `data_name`."""
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    """The names of the classes by label; () where the images have no labels."""
    source: str = ""
    """What `--data` takes to load it again: a built-in name or an absolute path."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image: (C, S, S)."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of all the data.

        Shapes, images and labels of the training, validation and test images, in this order, then the names of
        the classes; where it lies and what it is called do not count.
        """
        sha = hashlib.sha256()
        for split in (self.train, self.val, self.test):
            for values, dtype in ((split.images, "|u1"), (split.labels, "<i8")):
                array = np.ascontiguousarray(values.cpu().numpy(), dtype=dtype)
                sha.update(f"{array.shape}".encode())
                sha.update(array.data)
        sha.update(json.dumps(self.classes).encode())
        return sha.hexdigest()[:16]

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on a device; the digest is kept, not computed again."""
        train, val, test = (split.to(device) for split in (self.train, self.val, self.test))
        moved = Dataset(self.name, train, val, test, classes=self.classes, source=self.source)
        moved.__dict__["digest"] = self.digest
        return moved


def to_float(images: Tensor) -> Tensor:
    """uint8 images to float32 in [0, 1], same shape."""
    return images.to(torch.float32) / 255


def to_pixels(images: Tensor) -> np.ndarray:
    """Images [N, C, H, W], uint8 or float in [0, 1], as a uint8 array for a picture.

    Returns:
        [N, H, W] for grey images (C = 1), [N, H, W, 3] for colour (C = 3).
    """
    if images.dtype != torch.uint8:
        images = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = images.squeeze(1) if images.shape[1] == 1 else images.permute(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.cpu().numpy())


def stratified_split(
    labels: Tensor, shares: Sequence[float], seed: int = SPLIT_SEED, *, classes: Sequence[str] = ()
) -> list[Tensor]:
    """Positions split so that every class has its share, at least one image, in each part.

    Args:
        labels: int64 [N].
        shares: The share of each part after the first, which gets what is left; each above 0, less than 1 together.
        classes: The names of the classes by label, for the error only.

    Returns:
        len(shares) + 1 tensors of positions, int64, the rest first; each in a random order that the seed decides.

    Raises:
        DataError: A class has fewer images than there are parts.
    """
    if not all(share > 0 for share in shares) or sum(shares) >= 1:
        raise ValueError(f"shares must be above 0 and less than 1 together, but got {list(shares)}")
    generator = torch.Generator().manual_seed(seed)
    needed = len(shares) + 1
    parts: list[list[Tensor]] = [[] for _ in range(needed)]
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        if len(members) < needed:
            what = f"class {classes[label]!r} has" if classes else "there are"
            raise DataError(f"a split needs {needed} or more images of each class, but {what} only {len(members)}")
        sizes = [max(1, round(share * len(members))) for share in shares]
        while sum(sizes) >= len(members):  # few images and large shares: rounding up must leave one for the rest
            sizes[sizes.index(max(sizes))] -= 1
        members = members[torch.randperm(len(members), generator=generator)]
        for part, chosen in zip(parts, members.split([len(members) - sum(sizes), *sizes]), strict=True):
            part.append(chosen)
    together = [torch.cat(part) for part in parts]
    return [part[torch.randperm(len(part), generator=generator)] for part in together]


def shuffled(split: Split, seed: int = SPLIT_SEED) -> Split:
    """The split in a random order that the seed decides, so that its first N images are of all classes."""
    return split.take(torch.randperm(len(split), generator=torch.Generator().manual_seed(seed)))
