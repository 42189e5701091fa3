"""A convolutional autoencoder of square images, with or without fully connected (FC) layers at the bottleneck."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Architecture = Literal["conv", "conv+fc"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""
Sizes = Sequence[int]
"""A tuple, or a list read from JSON."""

SIDES = range(16, 65, 4)  # two convolutions halve the side, and the judge's three poolings leave at least 2 of 16
CHANNELS = (16, 48)  # of the two convolutions
FC_WIDTH = 512


def check_image_shape(image_shape: Sizes) -> Shape:
    """Return the shape as a tuple.

    Raises:
        ValueError: The images are not square, or the networks here do not support their size.
    """
    shape = tuple(image_shape)
    if len(shape) != 3 or shape[0] < 1 or shape[1] != shape[2] or shape[1] not in SIDES:
        raise ValueError(f"`image_shape == (channels, side, side), side in {list(SIDES)}` must hold, but got {shape}")
    return shape


def _conv_block(into: int, out: int) -> list[nn.Module]:
    """Return layers that halve an image: [N, into, 2s, 2s] -> [N, out, s, s]."""
    return [nn.Conv2d(into, out, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.SiLU()]


def _linear_block(into: int, out: int) -> list[nn.Module]:
    return [nn.Linear(into, out, bias=False), nn.BatchNorm1d(out), nn.SiLU()]


def _smallest(latent_dim: int, architecture: Architecture, image_shape: Sizes) -> Shape:
    """Return the shape (channels, S / 4, S / 4) between convolutions and bottleneck; raise as `Encoder` does."""
    if latent_dim < 1:
        raise ValueError(f"`1 <= latent_dim` must hold, but got {latent_dim}")
    if architecture not in ARCHITECTURES:
        raise ValueError(f"`architecture in {ARCHITECTURES}` must hold, but got {architecture!r}")
    _, side, _ = check_image_shape(image_shape)
    return CHANNELS[1], side // 4, side // 4


class Encoder(nn.Sequential):
    """Images [N, C, S, S] in [0, 1] to latents [N, latent_dim].

    The last layer is linear, followed by a BatchNorm without affine parameters: each latent coordinate has mean 0 and
    variance 1 over the training images. Without FC layers the linear layer is a convolution as large as its input.

    Args:
        image_shape: (C, S, S).

    Raises:
        ValueError: `latent_dim` is below 1, the architecture is unknown, or images of this shape are not supported.
    """

    def __init__(self, latent_dim: int, architecture: Architecture, image_shape: Sizes) -> None:
        first, second = CHANNELS
        _, side, _ = smallest = _smallest(latent_dim, architecture, image_shape)
        super().__init__(*_conv_block(image_shape[0], first), *_conv_block(first, second))
        if architecture == "conv+fc":
            self.extend([nn.Flatten(), *_linear_block(prod(smallest), FC_WIDTH), nn.Linear(FC_WIDTH, latent_dim)])
        else:
            self.extend([nn.Conv2d(second, latent_dim, side), nn.Flatten()])
        self.append(nn.BatchNorm1d(latent_dim, affine=False))


class Decoder(nn.Sequential):
    """Latents [N, latent_dim] to images [N, C, S, S] in [0, 1]: the encoder's layers in reverse order.

    Takes the arguments of `Encoder` and raises the same errors.
    """

    def __init__(self, latent_dim: int, architecture: Architecture, image_shape: Sizes) -> None:
        first, second = CHANNELS
        _, side, _ = smallest = _smallest(latent_dim, architecture, image_shape)
        if architecture == "conv+fc":
            blocks = [*_linear_block(latent_dim, FC_WIDTH), *_linear_block(FC_WIDTH, prod(smallest))]
            expand = [*blocks, nn.Unflatten(1, smallest)]
        else:
            grow = nn.ConvTranspose2d(latent_dim, second, side, bias=False)
            expand = [nn.Unflatten(1, (latent_dim, 1, 1)), grow, nn.BatchNorm2d(second), nn.SiLU()]
        super().__init__(
            *expand,  # [N, second, S / 4, S / 4]
            nn.ConvTranspose2d(second, first, 4, stride=2, padding=1, bias=False),  # [N, first, S / 2, S / 2]
            nn.BatchNorm2d(first),
            nn.SiLU(),
            nn.ConvTranspose2d(first, image_shape[0], 4, stride=2, padding=1),  # [N, C, S, S]
            nn.Sigmoid(),
        )


class Autoencoder(nn.Module):
    """Encoder and decoder: images [N, C, S, S] in [0, 1] to reconstructions of the same shape.

    Convolution, BatchNorm, SiLU (Elfwing et al. 2017, https://arxiv.org/abs/1702.03118), Flatten / Unflatten at the
    bottleneck. Takes the arguments of `Encoder` and raises the same errors.
    """

    def __init__(self, latent_dim: int, architecture: Architecture, image_shape: Sizes) -> None:
        super().__init__()
        self.encoder = Encoder(latent_dim, architecture, image_shape)
        self.decoder = Decoder(latent_dim, architecture, image_shape)

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))

    @torch.no_grad()
    def rotate_latents(self, axes: Tensor) -> None:
        """Rotate the latent space: latents z [N, latent_dim] become z @ axes, and no reconstruction changes.

        The rotation is folded into the encoder's last and the decoder's first layer, which are linear in the latents.
        It holds in evaluation mode: in training mode the encoder's BatchNorm would standardise the new coordinates.

        Args:
            axes: Orthonormal columns [latent_dim, latent_dim], such as the principal axes of the latents.

        Raises:
            ValueError: The columns are not orthonormal.
        """
        axes = axes.double()
        norm: Any = self.encoder[-1]  # BatchNorm
        identity = torch.eye(norm.num_features).to(axes)
        if axes.shape != identity.shape or not torch.allclose(axes.T @ axes, identity, atol=1e-5):
            raise ValueError(f"`axes.T @ axes == identity` must hold, but got axes of shape {tuple(axes.shape)}")
        last: Any = next(layer for layer in reversed(self.encoder) if isinstance(layer, (nn.Linear, nn.Conv2d)))
        first = next(layer for layer in self.decoder if isinstance(layer, (nn.Linear, nn.ConvTranspose2d)))
        # BatchNorm in evaluation mode is (h - mean) * scale: it goes into the linear layer and is then the identity.
        scale = (norm.running_var + norm.eps).double().rsqrt()
        last.weight.copy_((axes.T @ (scale[:, None] * last.weight.flatten(1))).view_as(last.weight))
        last.bias.copy_(axes.T @ (scale * (last.bias - norm.running_mean)))
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
        if isinstance(first, nn.Linear):  # weight [out, latent_dim]
            first.weight.copy_(first.weight @ axes.to(first.weight))
        else:  # weight [latent_dim, out, height, width]
            first.weight.copy_((axes.T @ first.weight.flatten(1).double()).view_as(first.weight))
