"""Classifiers of images: the judge that measures generated images, and the transfer classifier."""

from __future__ import annotations

from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from models.autoencoder import Architecture, Encoder, Shape, Sizes, check_image_shape

JudgeKind = Literal["conv", "mlp", "residual"]
JUDGE_KINDS: tuple[JudgeKind, ...] = get_args(JudgeKind)
HIDDEN = 128  # neurons of the transfer classifier


class Judge(nn.Module):
    """A small classifier: images [N, C, S, S] in [0, 1] to logits [N, classes].

    Frechet distance, precision and recall of generated images are measured on `features` [N, feature_dim], as on
    Inception's last pooling layer for photographs (Heusel et al. 2017, https://arxiv.org/abs/1706.08500).

    Args:
        kind: "conv": three convolutions with pooling, the first with `width` channels. "mlp": two fully connected
            layers of 32 * `width` neurons. "residual": two strided convolutions, each followed by a residual block.
        image_shape: (C, S, S), see `models.autoencoder.Encoder`.

    Raises:
        ValueError: The kind is unknown, or images of this shape are not supported.
    """

    def __init__(
        self, kind: JudgeKind, *, image_shape: Sizes, classes: int, width: int = 16, feature_dim: int = 64
    ) -> None:
        super().__init__()
        if kind not in JUDGE_KINDS:
            raise ValueError(f"`kind in {JUDGE_KINDS}` must hold, but got {kind!r}")
        layers, last = _judge_layers(kind, check_image_shape(image_shape), width)
        self.features = nn.Sequential(
            *layers,  # [N, last]
            nn.Linear(last, feature_dim, bias=False),
            nn.BatchNorm1d(feature_dim),
            nn.SiLU(),
        )
        self.head = nn.Linear(feature_dim, classes)
        self.to(memory_format=torch.channels_last)  # on a CPU, pooling 28 x 28 pixels is then six times as fast

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class _ResidualBlock(nn.Module):
    """x + f(x) of two convolutions, as in He et al. 2016 (https://arxiv.org/abs/1603.05027)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        self.residual = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


def _judge_layers(kind: JudgeKind, shape: Shape, width: int) -> tuple[list[nn.Module], int]:
    """Return layers from images [N, C, S, S] to vectors, and the length of these vectors."""
    layers: list[nn.Module] = []
    if kind == "mlp":
        layers.append(nn.Flatten())
        for into, out in [(prod(shape), 32 * width), (32 * width, 32 * width)]:
            layers += [nn.Linear(into, out, bias=False), nn.BatchNorm1d(out), nn.SiLU()]
        return layers, 32 * width
    if kind == "conv":
        for into, out in [(shape[0], width), (width, 2 * width), (2 * width, 2 * width)]:
            layers += [nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.SiLU(), nn.MaxPool2d(2)]
        return [*layers, nn.Flatten()], 2 * width * (shape[1] // 8) ** 2  # each pooling rounds down: 28, 14, 7, 3
    for into, out in [(shape[0], width), (width, 2 * width)]:
        layers += [nn.Conv2d(into, out, 4, stride=2, padding=1, bias=False), _ResidualBlock(out)]
    return [*layers, nn.BatchNorm2d(2 * width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()], 2 * width


class TransferClassifier(nn.Module):
    """An encoder and a small MLP (one hidden layer, ReLU): images [N, C, S, S] in [0, 1] to logits [N, classes].

    Raises the errors of `models.autoencoder.Encoder`.
    """

    def __init__(self, latent_dim: int, architecture: Architecture, *, image_shape: Sizes, classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(latent_dim, architecture, image_shape)
        self.head = nn.Sequential(nn.Linear(latent_dim, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))
