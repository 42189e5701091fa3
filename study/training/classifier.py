"""Training classifiers: judges on all labels, and transfer classifiers on a few."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.classifier import Judge
from study.data.dataset import Split, to_float
from study.training.loops import (
    Report,
    apply,
    autocast,
    batches,
    check_finite,
    eval_mode,
    one_cycle,
    steps_per_epoch,
)

HEAD_NOISE = 0.3  # standard deviation, of latents of variance 1
UNLABELLED, SURE, RISE = 7, 0.7, 0.2  # unlabelled latents a labelled one; probability; share of the steps
JUDGE_SHIFT = 14  # a judge's images move by up to this fraction of their side: 2 pixels of 28
JITTER_SIDE = 28  # the side of the images that `jitter` counts its pixels on


@dataclass(frozen=True)
class ClassifierSettings:
    """What a classifier is trained with."""

    epochs: int
    batch_size: int
    learning_rate: float  # peak of the one-cycle schedule
    passes: int = 1  # how often an epoch of `train_head` takes each image
    smoothing: float = 0.0  # share of the target that few labels spread over all classes


def shift(images: Tensor) -> Tensor:
    """Images [N, C, H, W] shifted by up to 1/14 of their side, all by the same shift."""
    reach = images.shape[-1] // JUDGE_SHIFT
    down, right = torch.randint(-reach, reach + 1, (2,)).tolist()
    return torch.roll(images, (down, right), dims=(2, 3))


def train_judge(
    model: Judge,
    train: Split,
    val: Split,
    settings: ClassifierSettings,
    report: Report,
    *,
    augment: Callable[[Tensor], Tensor] = shift,
) -> None:
    """Minimise the cross entropy of the images, each batch moved by `augment`: [N, C, H, W] to the same, floats.

    Reports `train/loss` and `val/accuracy`.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    steps = settings.epochs * steps_per_epoch(len(train), settings.batch_size)
    optimizer, step = one_cycle(model, settings.learning_rate, steps)
    model.train()
    for epoch in range(1, settings.epochs + 1):
        losses = []
        for index in batches(len(train), settings.batch_size, train.images.device):
            images = augment(to_float(train.images[index]))
            with autocast(images.device):
                logits = model(images)
            loss = F.cross_entropy(logits.float(), train.labels[index])
            optimizer.zero_grad()
            loss.backward()
            step()
            losses.append(loss.detach())
        metrics = {"train/loss": float(torch.stack(losses).mean()), "val/accuracy": accuracy(model, val)}
        check_finite(epoch, metrics)
        report(epoch, metrics)


def train_classifier(
    model: nn.Module,
    few: Split,
    settings: ClassifierSettings,
    report: Report,
    *,
    augment: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Minimise the cross entropy of a few labelled images, each moved anew by `augment` each time.

    Label smoothing: Szegedy et al. 2016, https://arxiv.org/abs/1512.00567.
    Reports `train/loss` and `train/accuracy`, both of the moved images.

    Args:
        model: Images to logits [N, classes]; left in the mode it comes in, so that BatchNorm can keep its statistics.
        few: The labelled images; each is used once an epoch but for an incomplete last batch.
        augment: Images [N, C, H, W] to the same, floats; None: `jitter`.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    steps = settings.epochs * steps_per_epoch(len(few), settings.batch_size)
    optimizer, step = one_cycle(model, settings.learning_rate, steps)
    images, moved = to_float(few.images), augment or jitter
    for epoch in range(1, settings.epochs + 1):
        losses, right = [], []
        for index in batches(len(few), settings.batch_size, images.device):
            logits = model(moved(images[index]))
            loss = F.cross_entropy(logits, few.labels[index], label_smoothing=settings.smoothing)
            optimizer.zero_grad()
            loss.backward()
            step()
            losses.append(loss.detach())
            right.append((logits.argmax(1) == few.labels[index]).float().mean())
        _report_epoch(epoch, losses, right, report)


def train_head(
    head: nn.Module,
    copies: Tensor,
    labels: Tensor,
    settings: ClassifierSettings,
    report: Report,
    *,
    unlabelled: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Minimise the cross entropy of a head on a frozen encoder's latents, under noise.

    With unlabelled images, consistency as in FixMatch (Sohn et al. 2020, https://arxiv.org/abs/2001.07685): of an image
    whose latent the head is sure enough of, the jittered copy shall have the same class. Its weight rises from 0 to 1
    during the first fifth of the steps.
    Reports `train/loss` and `train/accuracy`, both of the labelled latents under noise.

    Args:
        head: Latents to logits [N, classes].
        copies: The latents [K, N, D] of K jittered copies of N images; each time, one of an image's copies is drawn.
        labels: [N].
        unlabelled: Latents [M, D] of images and of a jittered copy of each.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    count = copies.shape[1]
    steps = settings.epochs * settings.passes * steps_per_epoch(count, settings.batch_size)
    optimizer, step = one_cycle(head, settings.learning_rate, steps)
    taken = 0
    for epoch in range(1, settings.epochs + 1):
        losses, right = [], []
        for _ in range(settings.passes):
            for index in batches(count, settings.batch_size, labels.device):
                latents = copies[torch.randint(len(copies), (len(index),), device=index.device), index]
                logits = head(latents + HEAD_NOISE * torch.randn_like(latents))
                loss = F.cross_entropy(logits, labels[index], label_smoothing=settings.smoothing)
                losses.append(loss.detach())
                right.append((logits.argmax(1) == labels[index]).float().mean())
                if unlabelled is not None:
                    drawn = torch.randint(len(unlabelled[0]), (UNLABELLED * len(index),), device=index.device)
                    weight = min(1.0, taken / (RISE * steps))
                    loss = loss + weight * _inconsistency(head, *(latents[drawn] for latents in unlabelled))
                optimizer.zero_grad()
                loss.backward()
                step()
                taken += 1
        _report_epoch(epoch, losses, right, report)


def _inconsistency(head: nn.Module, latents: Tensor, copies: Tensor) -> Tensor:
    """Cross entropy of copies [N, D] and the classes of those latents [N, D] that the head is sure of, mean of N."""
    with torch.no_grad():
        sure, classes = head(latents).softmax(1).max(1)
    losses = F.cross_entropy(head(copies + HEAD_NOISE * torch.randn_like(copies)), classes, reduction="none")
    return (losses * (sure >= SURE)).mean()


def _report_epoch(epoch: int, losses: list[Tensor], right: list[Tensor], report: Report) -> None:
    metrics = {
        "train/loss": float(torch.stack(losses).mean()),
        "train/accuracy": float(torch.stack(right).mean()),
    }
    check_finite(epoch, metrics)
    report(epoch, metrics)


def accuracy(classifier: nn.Module, split: Split) -> float:
    """Share of the images whose largest logit is their label's."""
    with eval_mode(classifier):
        return float((apply(classifier, split.images).argmax(1) == split.labels).float().mean())


def jitter(
    images: Tensor,
    degrees: float = 15,
    pixels: float = 2.5,
    scale: float = 0.15,
    *,
    shear: float = 0.0,
    ratio: float = 0.0,
) -> Tensor:
    """Images [N, C, H, W], each turned, shifted and scaled by a random amount, up to these in either direction.

    Args:
        pixels: Of an image 28 wide; images of another size move by the same share of their side.
        scale: Share of the size.
        shear: How far a row moves sideways for each row that it is away from the middle.
        ratio: Share by which an image becomes wider and less high, or the other way round.
    """
    angle, stretch, down, right = _directions(4, images)
    angle, stretch = angle * math.radians(degrees), 1 + stretch * scale
    shift = 2 * pixels / JITTER_SIDE  # grid_sample's images are 2 wide
    cos, sin = stretch * angle.cos(), stretch * angle.sin()
    wide, high, slant = torch.ones_like(cos), torch.ones_like(cos), torch.zeros_like(cos)
    if shear or ratio:
        slant, flat = _directions(2, images)
        wide, high, slant = 1 + flat * ratio, 1 - flat * ratio, slant * shear
    across = torch.stack([wide * cos, slant * wide * cos - high * sin, shift * right], 1)
    along = torch.stack([wide * sin, slant * wide * sin + high * cos, shift * down], 1)
    grid = F.affine_grid(torch.stack([across, along], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _directions(count: int, images: Tensor) -> Tensor:
    """Random numbers [count, N] from -1 to 1."""
    return torch.rand(count, len(images), device=images.device).mul_(2).sub_(1)


def draw_labelled(labels: Tensor, per_class: int, seed: int, *, classes: int) -> Tensor:
    """Indices [classes * per_class] of images drawn at random, as many of each class.

    Raises:
        ValueError: A class has fewer images than that.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    chosen = [order[labels[order] == each][:per_class] for each in range(classes)]
    if min(map(len, chosen)) < per_class:
        raise ValueError(f"`labels_per_class <= images of each class` must hold, but got {per_class}")
    return torch.cat(chosen)


def classification_accuracy_score(
    draw: Split, judge: Judge, settings: ClassifierSettings, val: Split, test: Split
) -> float:
    """Accuracy on the real test images of a classifier that has seen generated images only.

    Ravuri & Vinyals 2019, https://arxiv.org/abs/1905.10887.

    Args:
        draw: Generated images, uint8, and the labels that they were asked for.
        judge: Untrained; trained here on `draw`.
        val: Real images; they have no influence on the result.
    """
    train_judge(judge, draw, val, settings, lambda *_: None)
    return accuracy(judge, test)
