"""Two domains of images, A and B, between which the true translation is known, and how images of both are paired."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from study.data.dataset import Split, to_float
from study.training.loops import batches
from study.training.translation_settings import Pairing, Task, check_level

CHUNK = 5_000  # images at a time, whose float copies stay small
LEAST_SHARE = 0.2  # of the last class's images that `shifted` keeps, where it keeps all of the first class's


def dilate(images: Tensor) -> Tensor:
    """The largest value in each pixel's 3 x 3 neighbourhood, of images uint8 [N, C, S, S]."""
    return torch.cat([F.max_pool2d(part.float(), 3, 1, 1).to(torch.uint8) for part in images.split(CHUNK)])


def domains(task: Task, images: Tensor) -> tuple[Tensor, Tensor]:
    """The images of domain A and what they are in domain B, both uint8 [N, C, S, S].

    outline: from an image's outline (the outer morphological gradient, dilation minus image) back to the image, as from
    edges to photographs in pix2pix. thicken: from an image to its dilation. rotate: by 90 degrees, counterclockwise.
    """
    if task == "outline":
        return dilate(images) - images, images
    if task == "thicken":
        return images, dilate(images)
    return images, images.rot90(1, (2, 3)).contiguous()


def affine(images: Tensor, degrees: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Images [N, C, S, S], each turned about its centre (counterclockwise), scaled and then shifted.

    Args:
        degrees: [N].
        shift: To the right and down, as a share of the side, [N, 2].
        scale: Above 1 makes larger, [N].
    """
    angle = degrees * (math.pi / 180)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)  # from where a pixel comes
    back = -turn @ (2 * shift[:, :, None])  # grid_sample's images are 2 wide
    grid = F.affine_grid(torch.cat([turn, back], 2), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def misalign(images: Tensor, level: int) -> Tensor:
    """Images [N, C, S, S], each by a random affine map: up to `level` degrees, 2 `level` % of the side in either
    direction, and scaled by 1 +- 2 `level` % (RegGAN, https://arxiv.org/abs/2110.06465).

    Raises:
        ValueError: The level is outside 1 to 5.
    """
    check_level(level)
    degrees, right, down, scale = torch.rand(4, len(images), device=images.device) * 2 - 1
    return affine(images, level * degrees, 0.02 * level * torch.stack([right, down], 1), 1 + 0.02 * level * scale)


def class_partners(labels: Tensor) -> Tensor:
    """For each of the labels [N] the place of another one of the same class, drawn at random; each is drawn once.

    A class's only image is its own partner.
    """
    order = torch.randperm(len(labels), device=labels.device)
    order = order[labels[order].argsort(stable=True)]  # by class, in random order within
    sizes = labels.bincount()
    ends = sizes.cumsum(0)
    following = torch.arange(1, len(labels) + 1, device=labels.device)
    present = sizes > 0
    following[ends[present] - 1] = (ends - sizes)[present]  # a class's last one comes before its first
    partners = torch.empty_like(order)
    partners[order] = order[following]
    return partners


def shifted_shares(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Places of a part of the labels [N] in which class shares are others: from all of the first class's images falling
    in equal steps to a fifth of the last class's.
    """
    kept = torch.linspace(1, LEAST_SHARE, classes)
    order = torch.randperm(len(labels), generator=generator)
    places = [(of := order[labels.cpu()[order] == each])[: math.ceil(len(of) * kept[each])] for each in range(classes)]
    return torch.cat(places).to(labels.device)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Training images of both domains, in pairs as good as the pairing says.

    Attributes:
        a: uint8 [N, C, S, S].
        b: uint8 [M, C, S, S]; without a pairing, of other images than `a`, else a[i] belongs to b[i].
        labels: Of `a`, [N].
        level: Of misalignment; 0: none.
    """

    a: Tensor
    b: Tensor
    labels: Tensor
    pairing: Pairing
    level: int = 0

    def epoch(self, count: int) -> tuple[Tensor, Tensor]:
        """Places in a and in b of so many pairs [count], in a new order; without a pairing, of random ones."""
        chosen = torch.randperm(len(self.a), device=self.a.device)[:count]
        if self.pairing == "class":
            return chosen, class_partners(self.labels)[chosen]
        if self.pairing in ("paired", "loosely paired"):
            return chosen, chosen
        more = math.ceil(count / len(self.b))
        return chosen, torch.cat([torch.randperm(len(self.b), device=self.a.device) for _ in range(more)])[:count]

    def batches(self, count: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch of `count` pairs: floats [size, C, S, S] of A and of B, in [0, 1]."""
        in_a, in_b = self.epoch(count)
        for index in batches(len(in_a), size, self.a.device):
            a, b = to_float(self.a[in_a[index]]), to_float(self.b[in_b[index]])
            yield (misalign(a, self.level), misalign(b, self.level)) if self.level else (a, b)


def make_pairs(task: Task, split: Split, pairing: Pairing, *, level: int, seed: int) -> Pairs:
    """Pairs from a split's images.

    paired: b = T(a). loosely paired: both moved by random affine maps of their own, anew each time. class: b is of
    another image of a's class. unpaired: A and B are of disjoint halves. shifted: the same, with other class shares.

    Args:
        level: Of misalignment, of "loosely paired" only.
        seed: Of the halves.

    Raises:
        ValueError: The level of loosely paired images is outside 1 to 5.
    """
    a, b = domains(task, split.images)
    if pairing == "loosely paired":
        check_level(level)
        return Pairs(a, b, split.labels, pairing, level)
    if pairing in ("paired", "class"):
        return Pairs(a, b, split.labels, pairing)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(split), generator=generator).to(a.device)
    ours, theirs = order[: len(order) // 2], order[len(order) // 2 :]
    if pairing == "shifted":
        classes = int(split.labels.max()) + 1
        theirs = theirs[shifted_shares(split.labels[theirs], classes, generator)]
    return Pairs(a[ours], b[theirs], split.labels[ours], pairing)
