"""Generator and critic of a GAN in the autoencoder's latent space, unconditional or conditional on a label."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.autoencoder import Architecture, Decoder

KNOTS = 257  # of a tone curve


class Generator(nn.Sequential):
    """Inputs [N, noise_dim (+ classes)] to standardised latents [N, latent_dim].

    A conditional generator's input is the noise followed by the one-hot label (Mirza & Osindero 2014,
    https://arxiv.org/abs/1411.1784).

    Args:
        depth: Hidden layers, at least 1. Latents of different classes lie apart, and only a deep generator passes
            quickly between them.

    Raises:
        ValueError: `depth` is below 1.
    """

    def __init__(self, input_dim: int, latent_dim: int, width: int, depth: int = 2) -> None:
        if depth < 1:
            raise ValueError(f"`1 <= depth` must hold, but got {depth}")
        layers: list[nn.Module] = []
        for into in [input_dim, *[width] * (depth - 1)]:
            layers += [nn.Linear(into, width), nn.BatchNorm1d(width), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Linear(width, latent_dim))


class Critic(nn.Sequential):
    """Standardised latents [N, latent_dim (+ classes)] to scores [N, 1]; a vanilla GAN takes them for logits.

    Args:
        norm: BatchNorm in the hidden layers, for comparison: one latent's score then depends on the whole batch.
    """

    def __init__(self, input_dim: int, width: int, *, norm: bool = False) -> None:
        layers: list[nn.Module] = []
        for into in (input_dim, width):
            layers += [nn.Linear(into, width), *([nn.BatchNorm1d(width)] if norm else []), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Linear(width, 1))


class ToneCurve(nn.Module):
    """A map of pixel values [0, 1] to [0, 1], linear between equidistant knots; at first the identity.

    `levels` [KNOTS] are its values at the knots, to be filled in (see `study.training.autoencoder`).
    """

    levels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("levels", torch.linspace(0, 1, KNOTS))

    def forward(self, images: Tensor) -> Tensor:
        place = images * (KNOTS - 1)
        below = place.floor().clamp(0, KNOTS - 2)
        index = below.long()
        return torch.lerp(self.levels[index], self.levels[index + 1], place - below)


class LatentGenerator(nn.Module):
    """From inputs [N, noise_dim (+ classes)] to images [N, C, S, S] in [0, 1]: generator, de-standardisation, frozen
    decoder, tone curve.

    The training latents' `mean` and `std` [latent_dim], the decoder's weights and the tone curve are to be filled in.

    Raises:
        ValueError: As `Generator` and `models.autoencoder.Decoder`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        input_dim: int,
        latent_dim: int,
        *,
        architecture: Architecture,
        image_shape: Sequence[int],
        width: int,
        depth: int = 2,
    ) -> None:
        super().__init__()
        self.generator = Generator(input_dim, latent_dim, width, depth)
        self.decoder = Decoder(latent_dim, architecture, image_shape).requires_grad_(False)
        self.tone = ToneCurve()
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("std", torch.ones(latent_dim))

    def latents(self, inputs: Tensor) -> Tensor:
        """Return latents [N, latent_dim] in the autoencoder's own scale."""
        return self.generator(inputs) * self.std + self.mean

    def forward(self, inputs: Tensor) -> Tensor:
        return self.tone(self.decoder(self.latents(inputs)))


def with_labels(vectors: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return vectors [N, D] and one-hot labels [N] side by side: [N, D + classes]."""
    return torch.cat([vectors, nn.functional.one_hot(labels, classes).to(vectors.dtype)], dim=1)
