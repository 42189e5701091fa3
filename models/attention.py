"""Multi-head self-attention over the pixels of an image, with scores that depend on positions alone.

Each pixel is a token at a position (row, column), as in Cordonnier, Loukas, Jaggi 2020 ("the paper" here),
https://arxiv.org/abs/1911.03584. `models.attention_forms` turns given layers into attention; `LearnedAttention` is
trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ALPHA = 46.0
"""Sharpness at which the attention that a head pays beside its pixel, about 4 exp(-alpha), vanishes in float64."""


@dataclass(frozen=True)
class Positions:
    """The positions of a layer's tokens, (row, column) in pixels; the image's upper left pixel is at (0, 0).

    Attributes:
        queries: [Q, 2].
        keys: [K, 2], the pixels row by row, then zero-valued tokens.
        out_size: Height and width of the grid of queries.
    """

    queries: Tensor
    keys: Tensor
    out_size: tuple[int, int]

    @classmethod
    def of_conv(cls, conv: nn.Conv2d, image_size: Sequence[int]) -> Positions:
        """Return a query for each output of a convolution, and the pixels as keys.

        A convolution with zero padding gets a ring of zero-valued keys around the image, as wide as the padding.

        Args:
            image_size: Height and width of the convolution's input.

        Raises:
            ValueError: The padding is neither of zeros nor "replicate", the convolution has dilation or groups, or the
                kernel is larger than the padded image.
        """
        if conv.padding_mode not in ("zeros", "replicate"):
            raise ValueError(f"`padding_mode in ('zeros', 'replicate')` must hold, but got {conv.padding_mode!r}")
        if conv.dilation != (1, 1) or conv.groups != 1:
            raise ValueError(f"`dilation == groups == 1` must hold, but got {conv.dilation} and {conv.groups}")
        pads = [int(pad) for pad in conv.padding]
        # Positions of the kernel, less one.
        free = [side + 2 * pad - size for side, pad, size in zip(image_size, pads, conv.kernel_size, strict=True)]
        if min(free) < 0:
            raise ValueError(f"`kernel <= padded image` must hold, but got {conv.kernel_size} on {tuple(image_size)}")
        height, width = (left // step + 1 for left, step in zip(free, conv.stride, strict=True))
        queries = grid(range(height), range(width)) * torch.tensor(conv.stride)
        keys = pixels = grid(*map(range, image_size))
        if conv.padding_mode == "zeros":
            padded = grid(*(range(-pad, side + pad) for pad, side in zip(pads, image_size, strict=True)))
            inside = ((padded >= 0) & (padded < torch.tensor(tuple(image_size)))).all(1)
            keys = torch.cat([pixels, padded[~inside]])
        return cls(queries, keys, (height, width))


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
        bias: [D, 1], or [1, Q] for one per query; None: zero.
        out_shape: (D, height, width) with height * width == Q, or (D,) for one query.
    """

    def __init__(
        self, scores: QuadraticScores | TableScores, matrices: Tensor, bias: Tensor | None, out_shape: Sequence[int]
    ) -> None:
        super().__init__()
        self.scores = scores
        self.matrices = nn.Parameter(matrices.detach().clone(memory_format=torch.contiguous_format))
        self.bias = nn.Parameter(matrices.new_zeros(matrices.shape[2], 1) if bias is None else bias.detach().clone())
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


class LearnedAttention(nn.Module):
    """Quadratic attention with trainable centres and sharpness, of the size of a convolution (section 3 of the paper).

    It has as many heads as the kernel has weights per channel, and a ring of zero-valued keys as wide as the padding.

    Args:
        channels: Of the images and of the outputs.
        kernel_size, stride, padding: Of the convolution.
        image_size: Height and width of the images.
        learn_positions: Whether centres and sharpness are trained; else only the matrices and the bias are.
    """

    queries: Tensor  # [Q, 2]
    keys: Tensor  # [K, 2]

    def __init__(
        self,
        channels: Sequence[int],
        image_size: Sequence[int],
        *,
        kernel_size: int,
        stride: int,
        padding: int,
        learn_positions: bool = True,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(channels[0], channels[1], kernel_size, stride, padding, device="meta")
        positions = Positions.of_conv(conv, image_size)
        self.register_buffer("queries", positions.queries.float())
        self.register_buffer("keys", positions.keys.float())
        heads, reach = kernel_size**2, kernel_size / 4  # centres begin with a standard deviation of `reach` pixels
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
