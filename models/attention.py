"""Multi-head self-attention over the pixels of an image, with scores that depend on positions alone.

Each pixel is a token at a position (row, column), as in Cordonnier, Loukas, Jaggi 2020 ("the paper" here),
https://arxiv.org/abs/1911.03584. Given convolutions (theorem 1 of the paper) and fully connected (FC) layers (the forms
are this project's own) become attention with the same outputs, up to rounding; `LearnedAttention` is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.autoencoder import Autoencoder, Sizes

ALPHA = 46.0
"""Sharpness at which the attention that a head pays beside its pixel, about 4 exp(-alpha), vanishes in float64."""


def positions(conv: nn.Conv2d, image_size: Sequence[int]) -> tuple[Tensor, Tensor, list[int]]:
    """Return the positions of a convolution's outputs and inputs: (row, column) from the upper left pixel.

    Args:
        image_size: Height and width of the convolution's input.

    Returns:
        Queries [Q, 2]; keys [K, 2], the pixels row by row, then, of a convolution with zero padding, a ring of
        zero-valued tokens around the image, as wide as the padding; height and width of the grid of queries.

    Raises:
        ValueError: The padding is neither of zeros nor "replicate", or the convolution has dilation or groups.
    """
    if conv.padding_mode not in ("zeros", "replicate") or conv.dilation != (1, 1) or conv.groups != 1:
        rule = "`padding_mode in ('zeros', 'replicate')` and `dilation == groups == 1` must hold"
        raise ValueError(f"{rule}, but got {conv.padding_mode!r}, {conv.dilation} and {conv.groups}")
    pads = [int(pad) for pad in conv.padding]
    sides = list(zip(image_size, pads, conv.kernel_size, conv.stride, strict=True))
    out_size = [(side + 2 * pad - kernel) // step + 1 for side, pad, kernel, step in sides]
    queries = grid(*map(range, out_size)) * torch.tensor(conv.stride)
    keys = grid(*map(range, image_size))
    if conv.padding_mode == "zeros":
        padded = grid(*(range(-pad, side + pad) for side, pad, *_ in sides))
        inside = ((padded >= 0) & (padded < torch.tensor(tuple(image_size)))).all(1)
        keys = torch.cat([keys, padded[~inside]])
    return queries, keys, out_size


def grid(rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Return all positions (row, column) of these rows and columns, row by row: [rows * columns, 2]."""
    return torch.cartesian_prod(torch.tensor(list(rows)), torch.tensor(list(columns))).view(-1, 2)


def offsets(conv: nn.Conv2d) -> Tensor:
    """Return the offset from the query of each weight of the kernel, row by row: [kernel height * width, 2]."""
    return grid(*map(range, conv.kernel_size)) - torch.tensor([int(pad) for pad in conv.padding])


def quadratic_scores(targets: Tensor, keys: Tensor, alpha: Tensor) -> Tensor:
    """Return -alpha |key - target|^2 (eq. 9 of the paper): [heads, Q, K]; a target is query + the head's centre.

    Args:
        targets: [heads, Q, 2].
        keys: [K, 2].
        alpha: One number, or [heads, 1, 1].
    """
    rows, columns = ((keys[:, axis] - targets[..., axis, None]).square() for axis in (0, 1))
    return -alpha * (rows + columns)


class QuadraticScores(nn.Module):
    """Scores of heads that look at one offset from the query each, the more sharply the larger alpha.

    Args:
        queries: [Q, 2].
        keys: [K, 2].
        centres: The heads' offsets in pixels, [heads, 2].
    """

    queries: Tensor
    keys: Tensor

    def __init__(self, queries: Tensor, keys: Tensor, centres: Tensor, alpha: float = ALPHA) -> None:
        super().__init__()
        dtype = torch.get_default_dtype()
        self.register_buffer("queries", queries.to(dtype))
        self.register_buffer("keys", keys.to(dtype))
        self.centres = nn.Parameter(centres.to(dtype))
        self.alpha = nn.Parameter(torch.tensor(float(alpha), dtype=dtype))

    def forward(self) -> Tensor:
        """Return scores [heads, Q, K]."""
        return quadratic_scores(self.queries + self.centres[:, None], self.keys, self.alpha)


class TableScores(nn.Module):
    """A free score for each head, query and key: table [heads, Q, K]."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self) -> Tensor:
        return self.table


class PositionalAttention(nn.Module):
    """Multi-head self-attention with given scores: feature maps [N, C, H, W] to [N, *out_shape].

    Feature maps may come flattened, [N, C * H * W]. Each head averages the pixels by the softmax of its scores and
    multiplies by its matrix, the product of its value and output matrices (eq. 6 of the paper); the heads are summed.
    Keys beyond the pixels are zero-valued tokens: they take attention and add nothing.

    Args:
        scores: Module that returns [heads, Q, K].
        matrices: [heads, C, D].
        bias: [D], or [1, Q] for one per query; None: zero.
        out_shape: (D, height, width) with height * width == Q, or (D,) for one query.
    """

    def __init__(self, scores: nn.Module, matrices: Tensor, bias: Tensor | None, out_shape: Sequence[int]) -> None:
        super().__init__()
        self.scores = scores
        self.matrices = nn.Parameter(matrices.detach().clone(memory_format=torch.contiguous_format))
        bias = matrices.new_zeros(matrices.shape[2]) if bias is None else bias.detach().clone()
        self.bias = nn.Parameter(bias[:, None] if bias.dim() == 1 else bias)
        self.out_shape = tuple(out_shape)

    def weights(self) -> Tensor:
        """Return the attention of each head's queries: [heads, Q, K], rows sum to one."""
        return self.scores().softmax(-1)

    def forward(self, maps: Tensor) -> Tensor:
        heads, channels, _ = self.matrices.shape
        tokens = maps.flatten(1).unflatten(1, (channels, -1))  # [N, C, H * W]
        weights = self.weights()[..., : tokens.shape[2]]
        seen = tokens.flatten(0, 1) @ weights.flatten(0, 1).T  # [N * C, heads * Q]
        seen = seen.view(-1, channels, heads, weights.shape[1])
        out = torch.einsum("nchq,hcd->ndq", seen, self.matrices) + self.bias
        return out.reshape(-1, *self.out_shape)


def conv_as_attention(conv: nn.Conv2d, image_size: Sequence[int], *, alpha: float = ALPHA) -> PositionalAttention:
    """Return a convolution as attention with one head for each offset of its kernel (theorem 1 of the paper).

    A stride means fewer queries. Without zero-valued keys, queries that look outside see the nearest pixel, which is
    padding "replicate"; a ring of zero-valued keys gives zero padding.

    Raises:
        ValueError: See `positions`.
    """
    queries, keys, out_size = positions(conv, image_size)
    weight = conv.weight.detach()  # [D, C, height, width]
    scores = QuadraticScores(queries, keys, offsets(conv), alpha).to(weight)
    matrices = weight.flatten(2).permute(2, 1, 0)  # [heads, C, D]
    return PositionalAttention(scores, matrices, conv.bias, (conv.out_channels, *out_size))


def linear_as_attention(linear: nn.Linear, shape: Sequence[int], *, alpha: float = ALPHA) -> PositionalAttention:
    """Return an FC layer on feature maps (C, H, W) as attention of one read-out token, with one head per pixel: [N, D].

    It is the convolution whose kernel is as large as the map.
    """
    weight = linear.weight.detach().unflatten(1, (shape[0], shape[1] * shape[2]))  # [D, C, H * W]
    pixels = grid(range(shape[1]), range(shape[2]))
    scores = QuadraticScores(pixels[:1], pixels, pixels, alpha).to(weight)
    return PositionalAttention(scores, weight.permute(2, 1, 0), linear.bias, (linear.out_features,))


def linear_by_rank(linear: nn.Linear, shape: Sequence[int]) -> PositionalAttention:
    """Return the same FC layer with rank + 1 heads, of the rank of the weight [D * C, H * W]: [N, D].

    One head is uniform. Each other head is uniform plus a small multiple of a direction that sums to zero, so that all
    weights are positive and all scores finite. At least as many heads as the rank are needed.
    """
    weight = linear.weight.detach().double().unflatten(1, (shape[0], shape[1] * shape[2]))  # [D, C, H * W]
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
    return PositionalAttention(scores, matrices.to(dtype), linear.bias, (linear.out_features,))


def linear_to_image(linear: nn.Linear, out_size: Sequence[int]) -> PositionalAttention:
    """Return an FC layer from grey images to grey images [N, 1, *out_size] as two heads and one zero-valued token.

    W = c (A+ - A-): the heads hold the positive and the negative weights, and the zero-valued token takes what a row
    lacks to one. Without it rows of attention sum to one, and a constant image always gives a constant image.
    """
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
        ValueError: A convolution has no form as attention, see `positions`.
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

    Args:
        original: A trained autoencoder in evaluation mode, whose reconstructions it then has; None: weights are random.
        alpha: Sharpness of the heads.
        arguments: Those of `models.autoencoder.Autoencoder`, with the same errors.
    """

    def __init__(self, original: Autoencoder | None = None, *, alpha: float = ALPHA, **arguments: Any) -> None:
        super().__init__()
        autoencoder = Autoencoder(**arguments).eval() if original is None else deepcopy(original)
        self.encoder = as_attention(autoencoder.encoder, arguments["image_shape"], alpha=alpha)
        self.decoder = autoencoder.decoder

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images))


class LearnedAttention(nn.Module):
    """Quadratic attention with trainable centres and sharpness, of the size of a convolution (section 3 of the paper).

    It has as many heads as the kernel has weights per channel, and a ring of zero-valued keys as wide as the padding.

    Args:
        channels: Of the images and of the outputs.
        image_size: Height and width of the images.
        window: Kernel size, stride and padding of the convolution.
        learn_positions: Whether centres and sharpness are trained; else only the matrices and the bias are.
    """

    queries: Tensor  # [Q, 2]
    keys: Tensor  # [K, 2]

    def __init__(self, channels: Sizes, image_size: Sizes, window: Sizes, *, learn_positions: bool = True) -> None:
        super().__init__()
        kernel, stride, padding = window
        conv = nn.Conv2d(channels[0], channels[1], kernel, stride, padding, device="meta")
        queries, keys, _ = positions(conv, image_size)
        self.register_buffer("queries", queries.float())
        self.register_buffer("keys", keys.float())
        heads, reach = kernel**2, kernel / 4  # centres begin with a standard deviation of `reach` pixels
        self.centres = nn.Parameter(reach * torch.randn(heads, 2), requires_grad=learn_positions)
        self.log_alpha = nn.Parameter(torch.full((heads,), 1 / reach**2).log(), requires_grad=learn_positions)
        self.matrices = nn.Parameter(torch.randn(heads, *channels) / (heads * channels[0]) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(channels[1]))

    def weights(self, chosen: Tensor | None = None) -> Tensor:
        """Return the attention of the heads' queries, of those at the places `chosen` [q] or all: [heads, q, K]."""
        queries = self.queries if chosen is None else self.queries[chosen]
        alpha = self.log_alpha.exp()[:, None, None]
        return quadratic_scores(queries + self.centres[:, None], self.keys, alpha).softmax(-1)

    def forward(self, images: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Return the outputs [N, D, q] of the queries `chosen` [q], or of all, on images [N, C, H, W]."""
        pixels = images.flatten(2)
        tokens = F.pad(pixels, (0, len(self.keys) - pixels.shape[2])).transpose(1, 2)  # [N, K, C]
        seen = torch.einsum("hqk,nkc->nhqc", self.weights(chosen), tokens)
        return torch.einsum("nhqc,hcd->ndq", seen, self.matrices) + self.bias[:, None]
