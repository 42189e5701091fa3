"""Classifiers of 28x28 images: the judge that measures generated images, and the transfer classifier."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from models.autoencoder import Architecture, Encoder

CLASSES = 10


JudgeKind = Literal["conv", "mlp"]


class Judge(nn.Module):
    """A small classifier: images [N, 1, 28, 28] in [0, 1] to logits [N, 10].

    `features` gives [N, feature_dim] vectors, in which Frechet distance, precision and recall are measured, as
    Inception's last pooling layer does for photographs (Heusel et al. 2017, https://arxiv.org/abs/1706.08500).

    Args:
        kind: Three convolutional layers, the first of `width` channels, or two fully connected ones of 32 * `width`.
    """

    def __init__(self, kind: JudgeKind = "conv", width: int = 16, feature_dim: int = 64) -> None:
        super().__init__()
        if kind == "conv":
            layers: list[nn.Module] = []
            for into, out in [(1, width), (width, 2 * width), (2 * width, 2 * width)]:
                layers += [
                    nn.Conv2d(into, out, 3, padding=1, bias=False),
                    nn.BatchNorm2d(out),
                    nn.SiLU(),
                    nn.MaxPool2d(2),
                ]
            layers += [nn.Flatten()]  # [N, 2 * width * 3 * 3]
            last = 2 * width * 3 * 3
        else:
            last = 32 * width
            layers = [nn.Flatten()]
            for into, out in [(28 * 28, last), (last, last)]:
                layers += [nn.Linear(into, out, bias=False), nn.BatchNorm1d(out), nn.SiLU()]
        self.features = nn.Sequential(
            *layers,
            nn.Linear(last, feature_dim, bias=False),
            nn.BatchNorm1d(feature_dim),
            nn.SiLU(),
        )
        self.head = nn.Linear(feature_dim, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class TransferClassifier(nn.Module):
    """An encoder and a small MLP (one hidden layer, 128 neurons, ReLU): images to logits [N, 10]."""

    def __init__(self, latent_dim: int, architecture: Architecture, hidden: int = 128) -> None:
        super().__init__()
        self.encoder = Encoder(latent_dim, architecture)
        self.head = nn.Sequential(nn.Linear(latent_dim, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))
