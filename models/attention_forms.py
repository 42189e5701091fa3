"""Convolutions and fully connected (FC) layers as self-attention with the same outputs, up to rounding.

Convolutions follow theorem 1 of Cordonnier, Loukas, Jaggi 2020 ("the paper" here, https://arxiv.org/abs/1911.03584);
the forms of FC layers are this project's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from models.attention import ALPHA, PositionalAttention, Positions, QuadraticScores, TableScores, grid, offsets
from models.autoencoder import Autoencoder


def conv_as_attention(conv: nn.Conv2d, image_size: Sequence[int], *, alpha: float = ALPHA) -> PositionalAttention:
    """Return a convolution as attention with one head for each offset of its kernel (theorem 1 of the paper).

    A stride means fewer queries. Without zero-valued keys, queries that look outside see the nearest pixel, which is
    padding "replicate"; a ring of zero-valued keys gives zero padding.

    Raises:
        ValueError: See `Positions.of_conv`.
    """
    positions = Positions.of_conv(conv, image_size)
    weight = conv.weight.detach()  # [D, C, height, width]
    scores = QuadraticScores(positions.queries, positions.keys, offsets(conv), alpha).to(weight)
    matrices = weight.flatten(2).permute(2, 1, 0)  # [heads, C, D]
    return PositionalAttention(scores, matrices, _column(conv.bias), (conv.out_channels, *positions.out_size))


def _column(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias[:, None]


def _weight_of(linear: nn.Linear, shape: Sequence[int]) -> Tensor:
    """Return the weight [D, C, H * W] of an FC layer on feature maps of this shape (C, H, W).

    Raises:
        ValueError: The layer takes vectors of another length.
    """
    channels, height, width = shape
    if linear.in_features != channels * height * width:
        raise ValueError(f"`in_features == C * H * W` must hold, but got {linear.in_features} and {tuple(shape)}")
    return linear.weight.detach().view(-1, channels, height * width)


def linear_as_attention(linear: nn.Linear, shape: Sequence[int], *, alpha: float = ALPHA) -> PositionalAttention:
    """Return an FC layer on feature maps (C, H, W) as attention of one read-out token, with one head per pixel: [N, D].

    It is the convolution whose kernel is as large as the map.

    Raises:
        ValueError: The layer takes vectors of another length than C * H * W.
    """
    weight = _weight_of(linear, shape)  # [D, C, H * W]
    pixels = grid(range(shape[1]), range(shape[2]))
    scores = QuadraticScores(pixels[:1], pixels, pixels, alpha).to(weight)
    return PositionalAttention(scores, weight.permute(2, 1, 0), _column(linear.bias), (linear.out_features,))


def linear_by_rank(linear: nn.Linear, shape: Sequence[int]) -> PositionalAttention:
    """Return the same FC layer with rank + 1 heads, of the rank of the weight [D * C, H * W]: [N, D].

    One head is uniform. Each other head is uniform plus a small multiple of a direction that sums to zero, so that all
    weights are positive and all scores finite. At least as many heads as the rank are needed.

    Raises:
        ValueError: The layer takes vectors of another length than C * H * W.
    """
    weight = _weight_of(linear, shape).double()
    count = weight.shape[2]
    left, size, right = torch.linalg.svd(weight.flatten(0, 1), full_matrices=False)
    rank = int(torch.linalg.matrix_rank(weight.flatten(0, 1)))
    left, right = left[:, :rank] * size[:rank], right[:rank]  # weight = left @ right
    uneven = right - right.mean(1, keepdim=True)
    step = 0.5 / (count * uneven.abs().amax(1).clamp_min(torch.finfo(weight.dtype).tiny))
    weights = torch.cat([torch.ones(1, count).to(weight), 1 + count * step[:, None] * uneven]) / count
    parts = left / step  # [D * C, rank]
    even = left @ right.sum(1) - parts.sum(1)
    matrices = torch.cat([even[:, None], parts], 1).T.unflatten(1, weight.shape[:2]).transpose(1, 2)
    dtype = linear.weight.dtype
    scores = TableScores(weights.log()[:, None].to(dtype))
    return PositionalAttention(scores, matrices.to(dtype), _column(linear.bias), (linear.out_features,))


def linear_to_image(linear: nn.Linear, out_size: Sequence[int]) -> PositionalAttention:
    """Return an FC layer from grey images to grey images [N, 1, *out_size] as two heads and one zero-valued token.

    W = c (A+ - A-): the heads hold the positive and the negative weights, and the zero-valued token takes what a row
    lacks to one. Without it rows of attention sum to one, and a constant image always gives a constant image.

    Raises:
        ValueError: The layer returns another number of pixels.
    """
    if linear.out_features != out_size[0] * out_size[1]:
        raise ValueError(f"`out_features == H * W` must hold, but got {linear.out_features} and {tuple(out_size)}")
    weight = linear.weight.detach().double()
    least = 1e-3 * weight.abs().max().clamp_min(torch.finfo(weight.dtype).tiny)  # keeps scores finite; cancels out
    parts = torch.stack([weight.clamp_min(0), (-weight).clamp_min(0)]) + least  # [2, D, K]
    scale = 1.01 * parts.sum(2).max()
    parts = parts / scale
    table = torch.cat([parts, 1 - parts.sum(2, keepdim=True)], 2).log()
    dtype = linear.weight.dtype
    bias = None if linear.bias is None else linear.bias[None]
    matrices = torch.stack([scale, -scale]).view(2, 1, 1)
    return PositionalAttention(TableScores(table.to(dtype)), matrices.to(dtype), bias, (1, *out_size))


def as_attention(layers: nn.Sequential, shape: Sequence[int], *, alpha: float = ALPHA) -> nn.Sequential:
    """Return the layers with attention in place of every convolution and FC layer; other layers are shared.

    Args:
        layers: On images (C, H, W); in evaluation mode.
        shape: (C, H, W).

    Raises:
        ValueError: A convolution has no form as attention, see `Positions.of_conv`.
    """
    maps = torch.zeros(1, *shape).to(next(layers.parameters()))
    turned: list[nn.Module] = []
    last = tuple(shape)  # of the last feature map, before it was flattened
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            turned.append(conv_as_attention(layer, maps.shape[2:], alpha=alpha))
        elif isinstance(layer, nn.Linear):
            size = last if layer.in_features == prod(last) else (layer.in_features, 1, 1)
            turned.append(linear_as_attention(layer, size, alpha=alpha))
        else:
            turned.append(layer)
        with torch.no_grad():
            maps = layer(maps)
        last = tuple(maps.shape[1:]) if maps.dim() == 4 else last
    return nn.Sequential(*turned)


class AttentionAutoencoder(nn.Module):
    """An autoencoder whose encoder has self-attention in place of each convolution and FC layer.

    The constructor makes random weights; `copy_of` takes those of a trained autoencoder, with the same reconstructions.

    Args:
        alpha: Sharpness of the heads.
        arguments: Those of `models.autoencoder.Autoencoder`, with the same errors.
    """

    def __init__(self, *, alpha: float = ALPHA, **arguments: Any) -> None:
        super().__init__()
        self._take(Autoencoder(**arguments).eval(), arguments["image_shape"], alpha)

    @classmethod
    def copy_of(cls, autoencoder: Autoencoder, alpha: float = ALPHA, **arguments: Any) -> AttentionAutoencoder:
        """Return the copy of an autoencoder in evaluation mode that was built with these arguments."""
        made = cls(alpha=alpha, **arguments)
        made._take(deepcopy(autoencoder), arguments["image_shape"], alpha)
        return made.eval()

    def _take(self, autoencoder: Autoencoder, shape: Sequence[int], alpha: float) -> None:
        self.encoder = as_attention(autoencoder.encoder, shape, alpha=alpha)
        self.decoder = autoencoder.decoder

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))
