"""Self-attention that is trained: where its heads look is learned, from three encodings of places."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import Places, relative_scores

Encoding = Literal["quadratic", "added", "separate"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
WIDTH, HEAD_WIDTH = 32, 8  # of tokens; of a head's queries and keys


class LearnedAttention(nn.Module):
    """Multi-head self-attention, its attention sublayer alone: no LayerNorm, no residual connection.

    Encodings of places:
        quadratic: relative, -alpha |key - query - centre|^2, with a learned centre and alpha for each head
            (Cordonnier et al. 2020, https://arxiv.org/abs/1911.03584, section 3).
        added: a learned vector for each place, added to the token's content as BERT does (Devlin et al. 2018,
            https://arxiv.org/abs/1810.04805): values see it too.
        separate: the same vectors in coordinates of their own; values see the content alone.

    Args:
        places: Of its queries and keys; keys beyond the pixels are tokens of content zero.
        channels: Of the image and of the outputs.
        content: Whether scores see the tokens' contents, else their places alone.
        window: Keys further than window // 2 pixels from the query, in rows or columns, get no attention; 0: all do.
        reach: Pixels, the standard deviation of the quadratic centres as training begins, and the heads' width.

    Raises:
        ValueError: The encoding is unknown, or a query's window has no key.
    """

    queries: Tensor  # [Q, 2]
    keys: Tensor  # [K, 2]
    asking: Tensor  # [Q], the key whose token asks
    hidden: Tensor  # [Q, K], outside the window

    def __init__(
        self,
        encoding: Encoding,
        heads: int,
        places: Places,
        channels: tuple[int, int],
        *,
        content: bool,
        window: int = 0,
        reach: float = 2.0,
    ) -> None:
        super().__init__()
        if encoding not in ENCODINGS:
            raise ValueError(f"`encoding in {ENCODINGS}` must hold, but got {encoding!r}")
        self.encoding, self.content, self.heads = encoding, content, heads
        into, out = channels
        distance = (places.keys - places.queries[:, None]).abs().amax(2)  # [Q, K]
        hidden = distance > window // 2 if window else torch.zeros_like(distance, dtype=torch.bool)
        if hidden.all(1).any():
            raise ValueError(f"`window` must reach a key from every query, but got {window}")
        self.register_buffer("queries", places.queries.float())
        self.register_buffer("keys", places.keys.float())
        self.register_buffer("asking", distance.argmin(1))
        self.register_buffer("hidden", hidden)
        if encoding == "quadratic":
            self.centres = nn.Parameter(reach * torch.randn(heads, 2))
            self.log_alpha = nn.Parameter(torch.full((heads,), 1 / reach**2).log())
        else:
            self.position = nn.Parameter(torch.randn(len(places.keys), WIDTH))
        if content or encoding == "added":
            self.embed = nn.Linear(into, WIDTH, bias=False)
        if content or encoding != "quadratic":
            width = 2 * WIDTH if content and encoding == "separate" else WIDTH
            self.ask = nn.Linear(width, heads * HEAD_WIDTH)
            self.answer = nn.Linear(width, heads * HEAD_WIDTH, bias=False)
        valued = WIDTH if encoding == "added" else into
        self.matrices = nn.Parameter(torch.randn(heads, valued, out) / (heads * valued) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(out))

    def tokens(self, images: Tensor) -> Tensor:
        """Contents [N, K, C] of images [N, C, H, W]."""
        pixels = images.flatten(2)
        return F.pad(pixels, (0, len(self.keys) - pixels.shape[2])).transpose(1, 2)

    def weights(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """How much attention the heads of these queries [q] pay to each key: [N or 1, heads, q, K].

        One for all images where scores see places alone.
        """
        scores: Tensor = torch.zeros((), device=tokens.device)
        seen = self._seen_by_scores(tokens)
        if seen is not None:  # [N or 1, K, width]
            asked = self.ask(seen[:, self.asking[chosen]]).unflatten(2, (self.heads, -1)).transpose(1, 2)
            answers = self.answer(seen).unflatten(2, (self.heads, -1)).permute(0, 2, 3, 1)
            scores = asked @ answers / HEAD_WIDTH**0.5
        if self.encoding == "quadratic":
            targets = self.queries[chosen] + self.centres[:, None]
            scores = scores + relative_scores(targets, self.keys, self.log_alpha.exp()[:, None, None])[None]
        return scores.masked_fill(self.hidden[chosen], -torch.inf).softmax(-1)

    def _seen_by_scores(self, tokens: Tensor) -> Tensor | None:
        content = self.embed(tokens) if self.content else None
        if self.encoding == "quadratic":
            return content
        if content is None:
            return self.position[None]
        if self.encoding == "added":
            return content + self.position
        return torch.cat([content, self.position.expand_as(content)], 2)

    def forward(self, images: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Outputs of these queries, of all by default: images [N, C, H, W] to [N, D, q]."""
        tokens = self.tokens(images)
        chosen = torch.arange(len(self.queries), device=images.device) if chosen is None else chosen
        weights = self.weights(tokens, chosen)
        alike = len(weights) == 1  # for all images: one large product
        seen = torch.einsum("hqk,nkc->nhqc", weights[0], tokens) if alike else weights @ tokens[:, None]
        if self.encoding == "added":  # what a head sees of content + place, by parts: the places are few
            seen = self.embed(seen) + weights @ self.position
        return torch.einsum("nhqc,hcd->ndq", seen, self.matrices) + self.bias[:, None]
