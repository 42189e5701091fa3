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
    https://arxiv.org/abs/1411.1784): to the module it is only a wider input.

    Args:
        depth: Hidden layers. Each bends the noise once more: latents of different classes lie apart, and only a deep
            generator passes quickly between them.

    Raises:
        ValueError: There is no hidden layer.
    """

    def __init__(self, input_dim: int, latent_dim: int, width: int, depth: int = 2) -> None:
        if depth < 1:
            raise ValueError(f"`1 <= depth` must hold, but got {depth}")
        layers: list[nn.Module] = []
        for into in [input_dim, *[width] * (depth - 1)]:
            layers += [nn.Linear(into, width), nn.BatchNorm1d(width), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Linear(width, latent_dim))


class Critic(nn.Sequential):
    """Standardised latents [N, latent_dim (+ classes)] to one score each, [N, 1]; the vanilla GAN's discriminator
    reads it as a logit.

    Args:
        norm: BatchNorm in its hidden layers. It makes the score of one latent depend on the others in the batch, and is
            there for comparison.
    """

    def __init__(self, input_dim: int, width: int, *, norm: bool = False) -> None:
        layers: list[nn.Module] = []
        for into in (input_dim, width):
            layers += [nn.Linear(into, width), *([nn.BatchNorm1d(width)] if norm else []), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Linear(width, 1))


class ToneCurve(nn.Module):
    """A rising map of pixel values [0, 1] to [0, 1], straight between equidistant knots; at first the identity.

    `levels` [KNOTS] are its values at the knots, to be filled in (see `study.training.tone`).
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
    """The whole way from noise to images: generator, de-standardisation, frozen decoder, tone curve.

    Inputs are the noise [N, noise_dim], or noise and one-hot label side by side [N, noise_dim + classes]; outputs
    are images [N, C, S, S] in [0, 1]. `mean` and `std` [latent_dim] are those of the training latents, to be filled
    in like the decoder's weights and the tone curve's levels.

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
        """Latents [N, latent_dim] in the autoencoder's own scale."""
        return self.generator(inputs) * self.std + self.mean

    def forward(self, inputs: Tensor) -> Tensor:
        return self.tone(self.decoder(self.latents(inputs)))


def with_labels(vectors: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Vectors [N, D] and labels [N] in 0..classes - 1 side by side: [N, D + classes], the labels one-hot."""
    return torch.cat([vectors, nn.functional.one_hot(labels, classes).to(vectors.dtype)], dim=1)
