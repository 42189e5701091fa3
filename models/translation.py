"""Translators of images from one domain to another, and the discriminators that they are trained against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.autoencoder import check_image_shape

SLOPE = 0.2  # of LeakyReLU, in pix2pix and CycleGAN
WIDTH, BLOCKS = 16, 2  # channels of the first convolution; residual blocks


class Translator(nn.Module):
    """A small U-Net (pix2pix, Isola et al. 2017, https://arxiv.org/abs/1611.07004, section 3.2.1) with the residual
    blocks of CycleGAN (Zhu et al. 2017, https://arxiv.org/abs/1703.10593, section 4) in the middle.

    Images [N, C, S, S] in [0, 1] of one domain to images of the same shape, in [0, 1]. It takes no noise: pix2pix found
    that its generator ignores noise. Inside, pixels are from -1 to 1.

    Args:
        image_shape: (C, S, S); S is a multiple of 4 from 16 to 64.

    Raises:
        ValueError: `image_shape` is not supported.
    """

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        depth, _, _ = check_image_shape(image_shape)
        width, wide = WIDTH, 2 * WIDTH
        self.first = nn.Conv2d(depth, width, 4, stride=2, padding=1)  # [N, width, S / 2, S / 2]
        self.down = nn.Sequential(nn.LeakyReLU(SLOPE), *_normed(nn.Conv2d(width, wide, 4, stride=2, padding=1)))
        self.middle = nn.Sequential(*[_ResidualBlock(wide) for _ in range(BLOCKS)])  # [N, wide, S / 4, S / 4]
        self.up = nn.Sequential(nn.ReLU(), *_normed(nn.ConvTranspose2d(wide, width, 4, stride=2, padding=1)))
        # A sub-pixel convolution (Shi et al. 2016, https://arxiv.org/abs/1609.05158): faster than a transposed one.
        self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(wide, 4 * depth, 3, padding=1), nn.PixelShuffle(2), nn.Tanh())

    def features(self, images: Tensor) -> Tensor:
        """Return the inputs of the last layer, [N, 2 * WIDTH, S / 2, S / 2]."""
        first = self.first(2 * images - 1)
        return torch.cat([self.up(self.middle(self.down(first))), first], 1)

    def paint(self, features: Tensor) -> Tensor:
        """Return the images of these features."""
        return (self.last(features) + 1) / 2

    def forward(self, images: Tensor) -> Tensor:
        return self.paint(self.features(images))


class PatchDiscriminator(nn.Sequential):
    """Images [N, C, S, S] in [0, 1] to a score for each patch, [N, 1, S / 4, S / 4].

    A PatchGAN (Isola et al. 2017, section 3.2.2); each score sees 18 x 18 pixels. A score is a logit, or is compared
    with 0 and 1, as the loss has it.

    Args:
        channels: C; of a conditional discriminator the channels of both domains together.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, WIDTH, 4, stride=2, padding=1),
            nn.LeakyReLU(SLOPE),
            *_normed(nn.Conv2d(WIDTH, 2 * WIDTH, 4, stride=2, padding=1)),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * WIDTH, 1, 3, padding=1),
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
    """Return the layer and instance normalisation: independent of the batch, as with one image in both papers."""
    return [layer, nn.InstanceNorm2d(layer.out_channels)]
