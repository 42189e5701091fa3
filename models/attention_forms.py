"""Convolutions and fully connected (FC) layers as self-attention: the same outputs, up to rounding.

Cordonnier, Loukas, Jaggi 2020 ("the paper" here, https://arxiv.org/abs/1911.03584), theorem 1, for convolutions; the
forms of FC layers are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from models.attention import ALPHA, Places, PositionalAttention, QuadraticScores, TableScores, grid, offsets
from models.autoencoder import Autoencoder


def conv_as_attention(
    conv: nn.Conv2d, image_size: Sequence[int], *, alpha: float = ALPHA, absolute: bool = False
) -> PositionalAttention:
    """The convolution as attention, a head for each offset of its kernel (theorem 1 of the paper).

    Any stride (fewer queries), dilation, groups (matrices with zeros), and padding: without zero-valued keys, queries
    that look outside see the nearest pixel, which is padding "replicate"; with a ring of them around, that of zeros.

    Raises:
        ValueError: The layer is no `nn.Conv2d`, its padding is neither of zeros nor "replicate", or its kernel does not
            fit the image.
    """
    if not isinstance(conv, nn.Conv2d):
        raise ValueError(f"the layer must be an nn.Conv2d, but got {type(conv).__name__}")
    places = Places.of_conv(conv, image_size)
    weight = conv.weight.detach()
    full = weight.new_zeros(conv.out_channels, conv.in_channels, *conv.kernel_size)
    for out, into in zip(
        torch.arange(conv.out_channels).chunk(conv.groups),
        torch.arange(conv.in_channels).chunk(conv.groups),
        strict=True,
    ):
        full[out[:, None], into] = weight[out]
    matrices = full.flatten(2).permute(2, 1, 0)  # [kernel height * width, C, D]
    scores = QuadraticScores(places.queries, places.keys, offsets(conv), alpha, absolute=absolute).to(weight)
    return PositionalAttention(scores, matrices, _column(conv.bias), (conv.out_channels, *places.out_size))


def _column(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias[:, None]


def _weight_of(linear: nn.Linear, shape: Sequence[int]) -> Tensor:
    """The weight of an FC layer on feature maps of this shape (C, H, W): [D, C, H * W].

    Raises:
        ValueError: It takes vectors of another length.
    """
    channels, height, width = shape
    if linear.in_features != channels * height * width:
        raise ValueError(f"`in_features == C * H * W` must hold, but got {linear.in_features} and {tuple(shape)}")
    return linear.weight.detach().view(-1, channels, height * width)


def linear_as_attention(linear: nn.Linear, shape: Sequence[int], *, alpha: float = ALPHA) -> PositionalAttention:
    """An FC layer on feature maps (C, H, W) as attention of one read-out token, a head for each pixel: [N, D].

    It is the convolution whose kernel is as large as the map.

    Raises:
        ValueError: The layer takes vectors of another length than C * H * W.
    """
    weight = _weight_of(linear, shape)  # [D, C, H * W]
    places = grid(range(shape[1]), range(shape[2]))
    scores = QuadraticScores(places[:1], places, places, alpha).to(weight)
    return PositionalAttention(scores, weight.permute(2, 1, 0), _column(linear.bias), (linear.out_features,))


def linear_by_rank(linear: nn.Linear, shape: Sequence[int]) -> PositionalAttention:
    """The same with as few heads as the rank of the weight [D * C, H * W], and one more: [N, D].

    One head is uniform; each other one is uniform plus a small multiple of a direction that sums to zero, so that all
    weights are positive and all scores finite. Fewer heads than the rank cannot do.

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
    """An FC layer from grey images to grey images [N, 1, *out_size]: two heads and one zero-valued token.

    W = c (A+ - A-): the heads hold the positive and the negative weights, the zero-valued token takes what a row lacks
    to one. Without it rows of attention sum to one, and a constant image always gives a constant image.

    Raises:
        ValueError: The layer gives another number of pixels.
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


def mirror(shape: Sequence[int], *, alpha: float = ALPHA) -> PositionalAttention:
    """Attention of one head that turns feature maps (C, H, W) left to right: [N, C, H, W]; no convolution can.

    In the absolute encoding the query of place (r, c) is a linear map of its encoding, to (r, W - 1 - c).
    """
    channels, height, width = shape
    keys = grid(range(height), range(width))
    queries = torch.stack([keys[:, 0], width - 1 - keys[:, 1]], 1)
    scores = QuadraticScores(queries, keys, torch.zeros(1, 2), alpha, absolute=True)
    return PositionalAttention(scores, torch.eye(channels)[None], None, (channels, height, width))


def as_attention(layers: nn.Sequential, shape: Sequence[int], *, alpha: float = ALPHA) -> nn.Sequential:
    """The same layers, with attention in place of every convolution and FC layer; the others are shared.

    Args:
        layers: On images (C, H, W); in evaluation mode.
        shape: (C, H, W).

    Raises:
        ValueError: A convolution cannot be turned, see `conv_as_attention`.
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

    Built with random weights, and `copy_of` with those of a trained one, whose reconstructions it then gives.

    Args:
        alpha: Sharpness of the heads.
        arguments: As `models.autoencoder.Autoencoder` takes them; so are the errors.
    """

    def __init__(self, *, alpha: float = ALPHA, **arguments: Any) -> None:
        super().__init__()
        self._take(Autoencoder(**arguments).eval(), arguments["image_shape"], alpha)

    @classmethod
    def copy_of(cls, autoencoder: Autoencoder, alpha: float = ALPHA, **arguments: Any) -> AttentionAutoencoder:
        """That of a trained autoencoder in evaluation mode, and of its constructor's arguments."""
        made = cls(alpha=alpha, **arguments)
        made._take(deepcopy(autoencoder), arguments["image_shape"], alpha)
        return made.eval()

    def _take(self, autoencoder: Autoencoder, shape: Sequence[int], alpha: float) -> None:
        self.encoder = as_attention(autoencoder.encoder, shape, alpha=alpha)
        self.decoder = autoencoder.decoder

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))
