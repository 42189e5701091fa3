"""Two domains of images, A and B, with a known translation from A to B, and how training images are paired."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from study.data.dataset import to_float
from study.training.loops import batches

Pairing = Literal["paired", "loosely paired", "unpaired"]
PAIRINGS: tuple[Pairing, ...] = get_args(Pairing)
PAIRED, LOOSE, UNPAIRED = PAIRINGS

CHUNK = 5_000  # images that are floats at a time
LEVEL = 3
"""Misalignment of loosely paired images: the middle of the five levels of RegGAN (Kong et al. 2021,
https://arxiv.org/abs/2110.06465)."""


def dilate(images: Tensor) -> Tensor:
    """Return the largest value in each pixel's 3 x 3 neighbourhood, of images uint8 [N, C, S, S]."""
    return torch.cat([F.max_pool2d(part.float(), 3, 1, 1).to(torch.uint8) for part in images.split(CHUNK)])


TASKS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "outline": lambda images: dilate(images) - images,
    "thicken": dilate,
    "rotate": lambda images: images.rot90(1, (2, 3)).contiguous(),
}
"""What turns images of domain B, uint8 [N, C, S, S], into their counterparts in A; a translator learns the way back.
The outline is the outer morphological gradient; its translation is like edges to photographs in pix2pix."""


def affine(images: Tensor, degrees: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return images [N, C, S, S], each rotated about its centre (counterclockwise), scaled and then shifted.

    Args:
        degrees: [N].
        shift: To the right and down, as a fraction of the side, [N, 2].
        scale: Above 1 enlarges, [N].
    """
    angle = degrees * (math.pi / 180)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # from output to input pixels
    back = -turn @ (2 * shift[:, :, None])  # grid_sample's images are 2 wide
    grid = F.affine_grid(torch.cat([turn, back], 2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def misalign(images: Tensor) -> Tensor:
    """Return images [N, C, S, S], each moved by a random affine map.

    Up to LEVEL degrees, 2 LEVEL % of the side in either direction, and a scale of 1 +- 2 LEVEL %.
    """
    degrees, right, down, scale = torch.rand(4, len(images), device=images.device) * 2 - 1
    return affine(images, LEVEL * degrees, 0.02 * LEVEL * torch.stack([right, down], 1), 1 + 0.02 * LEVEL * scale)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Training images of both domains.

    Attributes:
        a: uint8 [N, C, S, S].
        b: uint8 [N or N + 1, C, S, S]; b[i] belongs to a[i], unless they are unpaired.
    """

    a: Tensor
    b: Tensor
    pairing: Pairing

    def batches(self, count: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch of `count` pairs, at most N, in random order: floats [size, C, S, S] of A and B in [0, 1]."""
        in_a = in_b = torch.randperm(len(self.a), device=self.a.device)[:count]
        if self.pairing == UNPAIRED:
            in_b = torch.randperm(len(self.b), device=self.b.device)[: len(in_a)]
        for index in batches(len(in_a), size, self.a.device):
            a, b = to_float(self.a[in_a[index]]), to_float(self.b[in_b[index]])
            yield (misalign(a), misalign(b)) if self.pairing == LOOSE else (a, b)


def make_pairs(task: str, images: Tensor, pairing: Pairing, seed: int) -> Pairs:
    """Return pairs from the images of domain B, uint8 [N, C, S, S].

    paired: b is the true translation of a. loosely paired: both are moved by random affine maps of their own, anew in
    each epoch. unpaired: A and B are of disjoint halves of the images.

    Args:
        seed: Of the halves.
    """
    a = TASKS[task](images)
    if pairing != UNPAIRED:
        return Pairs(a, images, pairing)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).to(a.device)
    half = len(order) // 2
    return Pairs(a[order[:half]], images[order[half:]], pairing)
