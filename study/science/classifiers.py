"""Training classifiers: judges on all labels, and transfer classifiers on a few."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.classifier import Judge
from study.data.dataset import Split, to_float
from study.science.loops import (
    Report,
    apply,
    autocast,
    batches,
    check_finite,
    eval_mode,
    one_cycle,
    steps_per_epoch,
)

HEAD_NOISE = 0.5  # standard deviation, of latents of variance 1
JUDGE_SHIFT = 14  # a judge's images move by up to this fraction of their side: 2 pixels of 28
JITTER_SIDE = 28  # the side of the images that `jitter` counts its pixels on


@dataclass(frozen=True)
class ClassifierSettings:
    """What a classifier is trained with."""

    epochs: int
    batch_size: int
    learning_rate: float  # peak of the one-cycle schedule
    passes: int = 1  # how often an epoch of `train_head` takes each image


def train_judge(model: Judge, train: Split, val: Split, settings: ClassifierSettings, report: Report) -> None:
    """Minimise the cross entropy of images shifted by up to 1/14 of their side, each batch by the same shift.

    Reports `train/loss` and `val/accuracy`.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    reach = train.images.shape[-1] // JUDGE_SHIFT
    steps = settings.epochs * steps_per_epoch(len(train), settings.batch_size)
    optimizer, step = one_cycle(model, settings.learning_rate, steps)
    model.train()
    for epoch in range(1, settings.epochs + 1):
        losses = []
        for index in batches(len(train), settings.batch_size, train.images.device):
            down, right = torch.randint(-reach, reach + 1, (2,)).tolist()
            images = torch.roll(to_float(train.images[index]), (down, right), dims=(2, 3))
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


def train_classifier(model: nn.Module, few: Split, settings: ClassifierSettings, report: Report) -> None:
    """Minimise the cross entropy of a few labelled images, each jittered anew each time.

    Reports `train/loss` and `train/accuracy`, both of the jittered images.

    Args:
        model: Images to logits [N, classes]; left in the mode it comes in, so that BatchNorm can keep its statistics.
        few: The labelled images; each is used once an epoch but for an incomplete last batch.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    steps = settings.epochs * steps_per_epoch(len(few), settings.batch_size)
    optimizer, step = one_cycle(model, settings.learning_rate, steps)
    images = to_float(few.images)
    for epoch in range(1, settings.epochs + 1):
        losses, right = [], []
        for index in batches(len(few), settings.batch_size, images.device):
            logits = model(jitter(images[index]))
            loss = F.cross_entropy(logits, few.labels[index])
            optimizer.zero_grad()
            loss.backward()
            step()
            losses.append(loss.detach())
            right.append((logits.argmax(1) == few.labels[index]).float().mean())
        _report_epoch(epoch, losses, right, report)


def train_head(head: nn.Module, copies: Tensor, labels: Tensor, settings: ClassifierSettings, report: Report) -> None:
    """Minimise the cross entropy of a head on a frozen encoder's latents, under noise and mixup.

    Mixup: Zhang et al. 2018, https://arxiv.org/abs/1710.09412, with Beta(1, 1) and the larger share first.
    Reports `train/loss` and `train/accuracy`, both of the mixed latents.

    Args:
        head: Latents to logits [N, classes].
        copies: The latents [K, N, D] of K jittered copies of N images; each time, one of an image's copies is drawn.
        labels: [N].

    Raises:
        FloatingPointError: A loss is not finite.
    """
    count = copies.shape[1]
    steps = settings.epochs * settings.passes * steps_per_epoch(count, settings.batch_size)
    optimizer, step = one_cycle(head, settings.learning_rate, steps)
    for epoch in range(1, settings.epochs + 1):
        losses, right = [], []
        for _ in range(settings.passes):
            for index in batches(count, settings.batch_size, labels.device):
                size = len(index)
                latents = copies[torch.randint(len(copies), (size,), device=index.device), index]
                latents = latents + HEAD_NOISE * torch.randn_like(latents)
                share = torch.rand(size, 1, device=index.device)
                share = torch.maximum(share, 1 - share)
                other = torch.randperm(size, device=index.device)
                logits = head(share * latents + (1 - share) * latents[other])
                targets = F.one_hot(labels[index], logits.shape[1]).float()
                loss = F.cross_entropy(logits, share * targets + (1 - share) * targets[other])
                optimizer.zero_grad()
                loss.backward()
                step()
                losses.append(loss.detach())
                right.append((logits.argmax(1) == labels[index]).float().mean())
        _report_epoch(epoch, losses, right, report)


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


def jitter(images: Tensor, degrees: float = 15, pixels: float = 2.5, scale: float = 0.15) -> Tensor:
    """Images [N, C, H, W], each turned, shifted and scaled by a random amount, up to these in either direction.

    Args:
        pixels: Of an image 28 wide; images of another size move by the same share of their side.
        scale: Share of the size.
    """
    angle, stretch, down, right = torch.rand(4, len(images), device=images.device).mul_(2).sub_(1)
    angle, stretch = angle * math.radians(degrees), 1 + stretch * scale
    shift = 2 * pixels / JITTER_SIDE  # grid_sample's images are 2 wide
    cos, sin = stretch * angle.cos(), stretch * angle.sin()
    rows = [torch.stack([cos, -sin, shift * right], 1), torch.stack([sin, cos, shift * down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


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
