"""A convolutional autoencoder of 28x28 images, with or without fully connected (FC) layers at the bottleneck."""

from __future__ import annotations

from math import prod
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Architecture = Literal["conv", "conv+fc"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

CHANNELS = (16, 48)  # of the two convolutions
FC_WIDTH = 512
MAP = CHANNELS[1], 7, 7  # what the convolutions end in
MAP_SIZE = prod(MAP)


def _conv_block(into: int, out: int) -> list[nn.Module]:
    """Halves the image: [N, into, 2s, 2s] -> [N, out, s, s]."""
    return [nn.Conv2d(into, out, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.SiLU()]


def _linear_block(into: int, out: int) -> list[nn.Module]:
    return [nn.Linear(into, out, bias=False), nn.BatchNorm1d(out), nn.SiLU()]


class Encoder(nn.Sequential):
    """Images [N, 1, 28, 28] in [0, 1] to latents [N, latent_dim].

    The last layer is linear, followed by a BatchNorm without affine parameters: each latent coordinate has
    mean 0 and variance 1 over the training images, whatever the size. Without FC layers that linear layer is
    a 7x7 convolution over the 7x7 map, the convolution's own way of reaching a vector.
    """

    def __init__(self, latent_dim: int, architecture: Architecture) -> None:
        super().__init__(*_conv_block(1, CHANNELS[0]), *_conv_block(*CHANNELS))  # [N, 48, 7, 7]
        if architecture == "conv+fc":
            self.extend([nn.Flatten(), *_linear_block(MAP_SIZE, FC_WIDTH), nn.Linear(FC_WIDTH, latent_dim)])
        else:
            self.extend([nn.Conv2d(CHANNELS[1], latent_dim, 7), nn.Flatten()])
        self.append(nn.BatchNorm1d(latent_dim, affine=False))


class Decoder(nn.Sequential):
    """Latents [N, latent_dim] to images [N, 1, 28, 28] in [0, 1], the encoder's layers in reverse."""

    def __init__(self, latent_dim: int, architecture: Architecture) -> None:
        if architecture == "conv+fc":
            expand = [
                *_linear_block(latent_dim, FC_WIDTH),
                *_linear_block(FC_WIDTH, MAP_SIZE),
                nn.Unflatten(1, MAP),
            ]
        else:
            expand = [
                nn.Unflatten(1, (latent_dim, 1, 1)),
                nn.ConvTranspose2d(latent_dim, CHANNELS[1], 7, bias=False),
                nn.BatchNorm2d(CHANNELS[1]),
                nn.SiLU(),
            ]
        super().__init__(
            *expand,  # [N, 48, 7, 7]
            nn.ConvTranspose2d(CHANNELS[1], CHANNELS[0], 4, stride=2, padding=1, bias=False),  # [N, 16, 14, 14]
            nn.BatchNorm2d(CHANNELS[0]),
            nn.SiLU(),
            nn.ConvTranspose2d(CHANNELS[0], 1, 4, stride=2, padding=1),  # [N, 1, 28, 28]
            nn.Sigmoid(),
        )


class Autoencoder(nn.Module):
    """Encoder and decoder; forward gives the reconstructions [N, 1, 28, 28] of images [N, 1, 28, 28] in [0, 1].

    Convolution, BatchNorm, SiLU (Elfwing et al. 2017, https://arxiv.org/abs/1702.03118), Flatten / Unflatten at
    the bottleneck.

    Raises:
        ValueError: `latent_dim` is below 1, or the architecture is unknown.
    """

    def __init__(self, latent_dim: int, architecture: Architecture = "conv+fc") -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"`1 <= latent_dim` must hold, but got {latent_dim}")
        if architecture not in ARCHITECTURES:
            raise ValueError(f"`architecture in {ARCHITECTURES}` must hold, but got {architecture!r}")
        self.encoder = Encoder(latent_dim, architecture)
        self.decoder = Decoder(latent_dim, architecture)

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
