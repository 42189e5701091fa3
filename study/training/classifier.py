"""Training classifiers: judges on all labels, transfer classifiers on a few.

A training raises `FloatingPointError` when its loss is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.classifier import Judge
from study.data.dataset import Split, to_float
from study.training.loops import Report, Schedule, apply, autocast, eval_mode, fit

Augment = Callable[[Tensor], Tensor]
"""Images [N, C, H, W] in [0, 1] to the same shape, each image moved at random."""

NAMES = ["train/loss", "train/accuracy"]
HEAD_NOISE = 0.3  # standard deviation, on latents of variance 1
JUDGE_SHIFT = 14  # a judge's images move by up to 1/14 of their side: 2 pixels of 28
JITTER_SIDE = 28  # side of the images that `jitter` counts its pixels on


@dataclass(frozen=True)
class ClassifierSettings(Schedule):
    """What a classifier is trained with."""

    smoothing: float = 0.0  # fraction of the target that few labels spread over all classes


def shift(images: Tensor) -> Tensor:
    """Return images [N, C, H, W] shifted by up to 1/14 of their side, all by the same shift."""
    reach = images.shape[-1] // JUDGE_SHIFT
    down, right = torch.randint(-reach, reach + 1, (2,)).tolist()
    return torch.roll(images, (down, right), dims=(2, 3))


def train_judge(
    model: Judge, train: Split, val: Split, settings: ClassifierSettings, report: Report, *, augment: Augment = shift
) -> None:
    """Minimise the cross entropy of the augmented images; report `train/loss` and `val/accuracy`."""

    def logits(index: Tensor) -> Tensor:
        images = augment(to_float(train.images[index]))
        with autocast(images.device):
            return model(images)

    def val_accuracy(_: int) -> dict[str, float]:
        return {"val/accuracy": accuracy(model, val)}

    losses_of = _losses(train.labels, logits, settings)
    fit(model.train(), losses_of, NAMES[:1], train.labels, settings, report, after_epoch=val_accuracy)


def jitter(
    images: Tensor, degrees: float = 15, pixels: float = 2.5, scale: float = 0.15, *, shear: float = 0, ratio: float = 0
) -> Tensor:
    """Return images [N, C, H, W], each rotated, shifted and scaled at random, up to these amounts in both directions.

    Args:
        pixels: On an image 28 wide; images of another size move by the same fraction of their side.
        scale: Fraction of the size.
        shear: Sideways shift of a row for each row between it and the middle.
        ratio: Fraction by which an image becomes wider and less high, or the reverse.
    """

    def directions(count: int) -> Tensor:  # [count, N], from -1 to 1
        return torch.rand(count, len(images), device=images.device).mul_(2).sub_(1)

    angle, stretch, down, right = directions(4)
    angle, stretch = angle * math.radians(degrees), 1 + stretch * scale
    shift = 2 * pixels / JITTER_SIDE  # grid_sample's images are 2 wide
    cos, sin = stretch * angle.cos(), stretch * angle.sin()
    wide, high, slant = torch.ones_like(cos), torch.ones_like(cos), torch.zeros_like(cos)
    if shear or ratio:
        slant, flat = directions(2)
        wide, high, slant = 1 + flat * ratio, 1 - flat * ratio, slant * shear
    across = torch.stack([wide * cos, slant * wide * cos - high * sin, shift * right], 1)
    along = torch.stack([wide * sin, slant * wide * sin + high * cos, shift * down], 1)
    grid = F.affine_grid(torch.stack([across, along], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def train_classifier(
    model: nn.Module, few: Split, settings: ClassifierSettings, report: Report, *, augment: Augment = jitter
) -> None:
    """Minimise the cross entropy of a few labelled images, augmented again in each step.

    Reports `train/loss` and `train/accuracy` on the augmented images.

    Args:
        model: Images to logits [N, classes]; keeps its mode, so that BatchNorm can keep its statistics.
    """
    images = to_float(few.images)
    losses_of = _losses(few.labels, lambda index: model(augment(images[index])), settings)
    fit(model, losses_of, NAMES, few.labels, settings, report)


def train_head(head: nn.Module, copies: Tensor, labels: Tensor, settings: ClassifierSettings, report: Report) -> None:
    """Minimise the cross entropy of a head on a frozen encoder's latents, under noise.

    Reports `train/loss` and `train/accuracy` on the latents under noise.

    Args:
        head: Latents to logits [N, classes].
        copies: Latents [K, N, D] of K jittered copies of N images; each step draws one of the copies of an image.
        labels: [N].
    """

    def logits(index: Tensor) -> Tensor:
        latents = copies[torch.randint(len(copies), (len(index),), device=index.device), index]
        return head(latents + HEAD_NOISE * torch.randn_like(latents))

    fit(head, _losses(labels, logits, settings), NAMES, labels, settings, report)


def _losses(
    labels: Tensor, logits_of: Callable[[Tensor], Tensor], settings: ClassifierSettings
) -> Callable[[Tensor], list[Tensor]]:
    """Return a function of a batch's indices [B] to cross entropy and accuracy of its logits against labels [N].

    Label smoothing: Szegedy et al. 2016, https://arxiv.org/abs/1512.00567.
    """

    def losses_of(index: Tensor) -> list[Tensor]:
        logits, wanted = logits_of(index).float(), labels[index]
        loss = F.cross_entropy(logits, wanted, label_smoothing=settings.smoothing)
        return [loss, (logits.argmax(1) == wanted).float().mean()]

    return losses_of


def accuracy(classifier: nn.Module, split: Split) -> float:
    """Return the fraction of the images whose largest logit is the one of their label."""
    with eval_mode(classifier):
        return float((apply(classifier, split.images).argmax(1) == split.labels).float().mean())


def draw_labelled(labels: Tensor, per_class: int, seed: int, *, classes: int) -> Tensor:
    """Return the indices [classes * per_class] of images drawn at random, the same number from each class.

    Raises:
        ValueError: A class has fewer images than that.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    chosen = [order[labels[order] == each][:per_class] for each in range(classes)]
    if min(map(len, chosen)) < per_class:
        raise ValueError(f"`labels_per_class <= images of each class` must hold, but got {per_class}")
    return torch.cat(chosen)
