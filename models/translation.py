"""Translators of images from one domain to another, and the discriminators that they are trained against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.autoencoder import check_image_shape

SLOPE = 0.2  # of LeakyReLU, in pix2pix and CycleGAN alike


class Translator(nn.Module):
    """A small U-Net (pix2pix, Isola et al. 2017, https://arxiv.org/abs/1611.07004, section 3.2.1) with the residual
    blocks of CycleGAN (Zhu et al. 2017, https://arxiv.org/abs/1703.10593, section 4) in its middle.

    Images [N, C, S, S] in [0, 1] of one domain to images of the same shape, in [0, 1] too. It takes no noise: pix2pix
    found that its generator ignores it. Inside, pixels are from -1 to 1.

    Args:
        image_shape: (C, S, S); S is a multiple of 4 from 16 to 64.
        width: Channels at half the side; twice as many at a quarter of it.
        blocks: Residual blocks at a quarter of the side.

    Raises:
        ValueError: Images of this shape are not taken, or width or blocks are below 1.
    """

    def __init__(self, image_shape: Sequence[int], *, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        _check_sizes(width=width, blocks=blocks)
        depth, _, _ = check_image_shape(image_shape)
        self.first = nn.Conv2d(depth, width, 4, stride=2, padding=1)  # [N, width, S / 2, S / 2]
        self.down = nn.Sequential(nn.LeakyReLU(SLOPE), *_normed(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)))
        self.middle = nn.Sequential(*[_ResidualBlock(2 * width) for _ in range(blocks)])  # [N, 2 width, S / 4, S / 4]
        self.up = nn.Sequential(nn.ReLU(), *_normed(nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1)))
        # A sub-pixel convolution (Shi et al. 2016, https://arxiv.org/abs/1609.05158): faster than a transposed one.
        self.last = nn.Sequential(
            nn.ReLU(), nn.Conv2d(2 * width, 4 * depth, 3, padding=1), nn.PixelShuffle(2), nn.Tanh()
        )

    def features(self, images: Tensor) -> Tensor:
        """What the last layer paints from, [N, 2 * width, S / 2, S / 2]."""
        first = self.first(2 * images - 1)
        return torch.cat([self.up(self.middle(self.down(first))), first], 1)

    def paint(self, features: Tensor) -> Tensor:
        """The images of such features."""
        return (self.last(features) + 1) / 2

    def forward(self, images: Tensor) -> Tensor:
        return self.paint(self.features(images))


class PatchDiscriminator(nn.Sequential):
    """Images [N, C, S, S] in [0, 1] to a score for each patch, [N, 1, S / 4, S / 4], which is read as a logit or held
    against 0 and 1: a PatchGAN (Isola et al. 2017, section 3.2.2), each of whose scores sees 18 x 18 pixels.

    Args:
        channels: C; of a conditional discriminator those of both domains' images side by side.
        width: Of the first layer; the second has twice as many channels.

    Raises:
        ValueError: Channels or width are below 1.
    """

    def __init__(self, channels: int, *, width: int = 16) -> None:
        _check_sizes(channels=channels, width=width)
        super().__init__(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(SLOPE),
            *_normed(nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(2 * images - 1)


class _ResidualBlock(nn.Module):
    """x + f(x) of two convolutions (He et al. 2015, https://arxiv.org/abs/1512.03385)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = (_normed(nn.Conv2d(width, width, 3, padding=1)) for _ in range(2))
        self.residual = nn.Sequential(*first, nn.ReLU(), *second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


def _normed(layer: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    """The layer, then instance normalisation: as with batches of one image in both papers, whatever the batch."""
    return [layer, nn.InstanceNorm2d(layer.out_channels)]


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"`1 <= {name}` must hold, but got {size}")
