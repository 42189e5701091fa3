"""A convolutional autoencoder of square images, with or without fully connected (FC) layers at the bottleneck."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Architecture = Literal["conv", "conv+fc"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""

SIDES = range(16, 65, 4)  # two convolutions halve the side, and the judge's three poolings leave at least 2 of 16
CHANNELS = (16, 48)  # of the two convolutions
FC_WIDTH = 512


def check_image_shape(image_shape: Sequence[int]) -> Shape:
    """The shape as a tuple; as a list it comes from JSON.

    Raises:
        ValueError: The images are not square, or of a size that the networks here do not take.
    """
    shape = tuple(image_shape)
    if len(shape) != 3:
        raise ValueError(f"`image_shape == (channels, height, width)` must hold, but got {shape}")
    channels, height, width = shape
    if channels < 1:
        raise ValueError(f"`1 <= channels` must hold, but got {channels}")
    if height != width:
        raise ValueError(f"`height == width` must hold, but got {height} and {width}")
    if height not in SIDES:
        raise ValueError(f"`side in {list(SIDES)}` must hold, but got {height}")
    return channels, height, width


def _conv_block(into: int, out: int) -> list[nn.Module]:
    """Halves the image: [N, into, 2s, 2s] -> [N, out, s, s]."""
    return [nn.Conv2d(into, out, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.SiLU()]


def _linear_block(into: int, out: int) -> list[nn.Module]:
    return [nn.Linear(into, out, bias=False), nn.BatchNorm1d(out), nn.SiLU()]


def _check(latent_dim: int, architecture: Architecture) -> None:
    if latent_dim < 1:
        raise ValueError(f"`1 <= latent_dim` must hold, but got {latent_dim}")
    if architecture not in ARCHITECTURES:
        raise ValueError(f"`architecture in {ARCHITECTURES}` must hold, but got {architecture!r}")


class Encoder(nn.Sequential):
    """Images [N, C, S, S] in [0, 1] to latents [N, latent_dim].

    The last layer is linear, followed by a BatchNorm without affine parameters: each latent coordinate has
    mean 0 and variance 1 over the training images, whatever the size. Without FC layers that linear layer is
    a convolution with a kernel as large as its input, the convolution's own way of reaching a vector.

    Args:
        image_shape: (C, S, S).
        channels: Of the two convolutions.
        fc_width: Of the hidden layer of "conv+fc".

    Raises:
        ValueError: `latent_dim` is below 1, the architecture is unknown, or images of this shape are not taken.
    """

    def __init__(
        self,
        latent_dim: int,
        architecture: Architecture,
        image_shape: Sequence[int],
        *,
        channels: Sequence[int] = CHANNELS,
        fc_width: int = FC_WIDTH,
    ) -> None:
        _check(latent_dim, architecture)
        depth, side, _ = check_image_shape(image_shape)
        first, second = channels
        super().__init__(*_conv_block(depth, first), *_conv_block(first, second))  # [N, second, S / 4, S / 4]
        if architecture == "conv+fc":
            flat = second * (side // 4) ** 2
            self.extend([nn.Flatten(), *_linear_block(flat, fc_width), nn.Linear(fc_width, latent_dim)])
        else:
            self.extend([nn.Conv2d(second, latent_dim, side // 4), nn.Flatten()])
        self.append(nn.BatchNorm1d(latent_dim, affine=False))


class Decoder(nn.Sequential):
    """Latents [N, latent_dim] to images [N, C, S, S] in [0, 1], the encoder's layers in reverse.

    Arguments and errors are those of `Encoder`.
    """

    def __init__(
        self,
        latent_dim: int,
        architecture: Architecture,
        image_shape: Sequence[int],
        *,
        channels: Sequence[int] = CHANNELS,
        fc_width: int = FC_WIDTH,
    ) -> None:
        _check(latent_dim, architecture)
        depth, side, _ = check_image_shape(image_shape)
        first, second = channels
        smallest = second, side // 4, side // 4
        if architecture == "conv+fc":
            expand = [
                *_linear_block(latent_dim, fc_width),
                *_linear_block(fc_width, prod(smallest)),
                nn.Unflatten(1, smallest),
            ]
        else:
            expand = [
                nn.Unflatten(1, (latent_dim, 1, 1)),
                nn.ConvTranspose2d(latent_dim, second, side // 4, bias=False),
                nn.BatchNorm2d(second),
                nn.SiLU(),
            ]
        super().__init__(
            *expand,  # [N, second, S / 4, S / 4]
            nn.ConvTranspose2d(second, first, 4, stride=2, padding=1, bias=False),  # [N, first, S / 2, S / 2]
            nn.BatchNorm2d(first),
            nn.SiLU(),
            nn.ConvTranspose2d(first, depth, 4, stride=2, padding=1),  # [N, C, S, S]
            nn.Sigmoid(),
        )


class Autoencoder(nn.Module):
    """Encoder and decoder; forward gives the reconstructions [N, C, S, S] of images [N, C, S, S] in [0, 1].

    Convolution, BatchNorm, SiLU (Elfwing et al. 2017, https://arxiv.org/abs/1702.03118), Flatten / Unflatten at
    the bottleneck. Arguments and errors are those of `Encoder`.
    """

    def __init__(
        self,
        latent_dim: int,
        architecture: Architecture,
        image_shape: Sequence[int],
        *,
        channels: Sequence[int] = CHANNELS,
        fc_width: int = FC_WIDTH,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(latent_dim, architecture, image_shape, channels=channels, fc_width=fc_width)
        self.decoder = Decoder(latent_dim, architecture, image_shape, channels=channels, fc_width=fc_width)

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))

    @torch.no_grad()
    def rotate_latents(self, axes: Tensor) -> None:
        """Turn the latent space, so that the latents z [N, latent_dim] become z @ axes, and no reconstruction changes.

        The encoder's last and the decoder's first layer are linear in the latents and take the rotation up. That
        holds in evaluation mode: in training mode the encoder's BatchNorm would standardise the new coordinates.

        Args:
            axes: Orthonormal columns [latent_dim, latent_dim], the principal axes of the latents, say.

        Raises:
            ValueError: The columns are not orthonormal.
        """
        axes = axes.double()
        norm = self.encoder[-1]
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        identity = torch.eye(norm.num_features).to(axes)
        if axes.shape != identity.shape or not torch.allclose(axes.T @ axes, identity, atol=1e-5):
            raise ValueError(f"`axes.T @ axes == identity` must hold, but got axes of shape {tuple(axes.shape)}")
        last = next(layer for layer in reversed(self.encoder) if isinstance(layer, (nn.Linear, nn.Conv2d)))
        first = next(layer for layer in self.decoder if isinstance(layer, (nn.Linear, nn.ConvTranspose2d)))
        # BatchNorm in evaluation mode is (h - mean) * scale: it goes into the linear layer and is then the identity.
        scale = (norm.running_var + norm.eps).double().rsqrt()
        last.weight.copy_((axes.T @ (scale[:, None] * last.weight.flatten(1))).view_as(last.weight))
        assert last.bias is not None
        last.bias.copy_(axes.T @ (scale * (last.bias - norm.running_mean)))
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
        if isinstance(first, nn.Linear):  # weight [out, latent_dim]
            first.weight.copy_(first.weight @ axes.to(first.weight))
        else:  # weight [latent_dim, out, height, width]
            first.weight.copy_((axes.T @ first.weight.flatten(1).double()).view_as(first.weight))
