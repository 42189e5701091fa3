"""Multi-head self-attention over the pixels of an image, whose scores come from places alone.

Each pixel is a token with its place (row, column), as in Cordonnier, Loukas, Jaggi 2020 ("the paper" here),
https://arxiv.org/abs/1911.03584. `models.attention_forms` makes convolutions and other layers of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ALPHA = 46.0
"""Sharpness at which what a head sees beside its pixel, about 4 exp(-alpha), vanishes in float64."""


@dataclass(frozen=True)
class Places:
    """Where the tokens of a layer are, (row, column) in pixels; the image's upper left pixel is at (0, 0).

    Attributes:
        queries: [Q, 2].
        keys: [K, 2], the pixels row by row, then tokens whose value is zero.
        out_size: Height and width of the queries' grid.
    """

    queries: Tensor
    keys: Tensor
    out_size: tuple[int, int]

    @classmethod
    def of_conv(cls, conv: nn.Conv2d, image_size: Sequence[int]) -> Places:
        """A query for each output of the convolution; keys: the pixels, and a ring of zeros where it pads with zeros.

        Args:
            image_size: Height and width of its input.

        Raises:
            ValueError: The padding is neither of zeros nor "replicate", or the kernel is larger than the padded image.
        """
        if conv.padding_mode not in ("zeros", "replicate"):
            raise ValueError(f"`padding_mode in ('zeros', 'replicate')` must hold, but got {conv.padding_mode!r}")
        margins = padding_of(conv)
        reach = [step * (size - 1) for step, size in zip(conv.dilation, conv.kernel_size, strict=True)]
        room = [side + sum(pad) - far for side, pad, far in zip(image_size, margins, reach, strict=True)]
        if min(room) < 1:
            size = f"a kernel {conv.kernel_size} of dilation {conv.dilation} on {tuple(image_size)}"
            raise ValueError(f"`kernel <= padded image` must hold, but got {size}")
        height, width = ((far - 1) // step + 1 for far, step in zip(room, conv.stride, strict=True))
        queries = grid(range(height), range(width)) * torch.tensor(conv.stride)
        keys = pixels = grid(range(image_size[0]), range(image_size[1]))
        if conv.padding_mode == "zeros":
            sides = zip(margins, image_size, strict=True)
            padded = grid(*(range(-before, side + after) for (before, after), side in sides))
            inside = ((padded >= 0) & (padded < torch.tensor(tuple(image_size)))).all(1)
            keys = torch.cat([pixels, padded[~inside]])
        return cls(queries, keys, (height, width))


def grid(rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """All places (row, column) of these rows and columns, row by row: [rows * columns, 2]."""
    return torch.cartesian_prod(torch.tensor(list(rows)), torch.tensor(list(columns))).view(-1, 2)


def offsets(conv: nn.Conv2d) -> Tensor:
    """Where a query looks for each weight of the kernel, row by row: [kernel height * kernel width, 2]."""
    taps = grid(range(conv.kernel_size[0]), range(conv.kernel_size[1])) * torch.tensor(conv.dilation)
    return taps - torch.tensor([before for before, _ in padding_of(conv)])


def padding_of(conv: nn.Conv2d) -> list[tuple[int, int]]:
    """Pixels of padding before and after the rows, then the columns."""
    if conv.padding == "valid":
        return [(0, 0), (0, 0)]
    if conv.padding == "same":  # of an odd number, the larger half comes after
        reach = [step * (size - 1) for step, size in zip(conv.dilation, conv.kernel_size, strict=True)]
        return [(far // 2, far - far // 2) for far in reach]
    return [(int(pad), int(pad)) for pad in conv.padding]


def relative_scores(targets: Tensor, keys: Tensor, alpha: Tensor) -> Tensor:
    """-alpha |key - target|^2, the quadratic encoding (eq. 9 of the paper); a target is query + the head's offset.

    Args:
        targets: [heads, Q, 2].
        keys: [K, 2].
        alpha: One, or [heads, 1, 1].

    Returns:
        [heads, Q, K].
    """
    rows, columns = ((keys[:, axis] - targets[..., axis, None]).square() for axis in (0, 1))
    return -alpha * (rows + columns)


def absolute_scores(targets: Tensor, keys: Tensor, alpha: Tensor) -> Tensor:
    """The same up to a constant a query, as products of encodings of size D_k = 3: softmax gives the same weights.

    Queries are (target, 1), keys (2 alpha key, -alpha |key|^2): an encoding of the absolute place is enough.
    Arguments and result are those of `relative_scores`.
    """
    queries = torch.cat([targets, torch.ones_like(targets[..., :1])], -1)  # [heads, Q, 3]
    encoded = torch.cat([2 * keys, -keys.square().sum(1, keepdim=True)], 1)  # [K, 3]
    return alpha * (queries @ encoded.T)


class QuadraticScores(nn.Module):
    """Each head looks about one offset from the query, its centre, the more sharply the larger alpha.

    Args:
        queries: [Q, 2].
        keys: [K, 2].
        centres: [heads, 2], offsets in pixels.
        absolute: Whether scores are products of encodings of absolute places, else functions of the distance.
    """

    queries: Tensor
    keys: Tensor

    def __init__(
        self, queries: Tensor, keys: Tensor, centres: Tensor, alpha: float = ALPHA, *, absolute: bool = False
    ) -> None:
        super().__init__()
        dtype = torch.get_default_dtype()
        self.register_buffer("queries", queries.to(dtype))
        self.register_buffer("keys", keys.to(dtype))
        self.centres = nn.Parameter(centres.to(dtype))
        self.alpha = nn.Parameter(torch.tensor(float(alpha), dtype=dtype))
        self._scores = absolute_scores if absolute else relative_scores

    def forward(self) -> Tensor:
        """[heads, Q, K]."""
        return self._scores(self.queries + self.centres[:, None], self.keys, self.alpha)


class TableScores(nn.Module):
    """A score of its own for each head, query and key: table [heads, Q, K]."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self) -> Tensor:
        return self.table


class PositionalAttention(nn.Module):
    """Multi-head self-attention whose scores come from places alone: feature maps [N, C, H, W] to [N, *out_shape].

    Feature maps may come flattened, [N, C * H * W]. Each head weighs the pixels by the softmax of its scores; what it
    sees goes through its matrix, the product of its value and output matrices (eq. 6 of the paper); the heads are added
    up. Keys beyond the pixels are tokens of value zero: they take attention, and give nothing.

    Args:
        scores: Gives [heads, Q, K].
        matrices: [heads, C, D].
        bias: [D, 1], or [1, Q] for one a place; None: zero.
        out_shape: (D, height, width) with height * width == Q, or (D,) for one query.
    """

    def __init__(
        self,
        scores: QuadraticScores | TableScores,
        matrices: Tensor,
        bias: Tensor | None,
        out_shape: Sequence[int],
    ) -> None:
        super().__init__()
        self.scores = scores
        self.matrices = nn.Parameter(matrices.detach().clone(memory_format=torch.contiguous_format))
        self.bias = nn.Parameter(matrices.new_zeros(matrices.shape[2], 1) if bias is None else bias.detach().clone())
        self.out_shape = tuple(out_shape)

    def weights(self) -> Tensor:
        """How much attention each head's query pays to each key: [heads, Q, K], rows sum to one."""
        return self.scores().softmax(-1)

    def forward(self, maps: Tensor) -> Tensor:
        heads, channels, _ = self.matrices.shape
        tokens = maps.flatten(1).unflatten(1, (channels, -1))  # [N, C, H * W]
        weights = self.weights()[..., : tokens.shape[2]]
        seen = tokens.flatten(0, 1) @ weights.flatten(0, 1).T  # [N * C, heads * Q]
        seen = seen.view(-1, channels, heads, weights.shape[1])
        out = torch.einsum("nchq,hcd->ndq", seen, self.matrices) + self.bias
        return out.reshape(-1, *self.out_shape)
