"""Attention that learns: it can be a convolution, and it is what its docstring says, written out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from models.attention import Places, grid, offsets
from models.learned_attention import ENCODINGS, HEAD_WIDTH, Encoding, LearnedAttention

CONV = nn.Conv2d(2, 3, 4, stride=2, padding=1, bias=False)
PLACES = Places.of_conv(CONV, (8, 6))
CASES = [(encoding, content) for encoding in ENCODINGS for content in (False, True)]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def build(encoding: Encoding, content: bool, window: int = 0, heads: int = 4) -> LearnedAttention:
    return LearnedAttention(encoding, heads, PLACES, (2, 3), content=content, window=window)


def test_quadratic_attention_can_be_the_convolution() -> None:
    layer, images = build("quadratic", False, heads=16), torch.randn(5, 2, 8, 6)
    layer.centres.copy_(offsets(CONV))
    layer.log_alpha.fill_(4.0)
    layer.matrices.copy_(CONV.weight.flatten(2).permute(2, 1, 0))
    torch.testing.assert_close(layer(images), CONV(images).flatten(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("encoding", "content"), CASES)
def test_attention_is_shared_out_within_the_window(encoding: Encoding, content: bool) -> None:
    layer, images = build(encoding, content, window=3), torch.rand(5, 2, 8, 6)
    weights = layer.weights(layer.tokens(images), torch.arange(12))
    assert weights.shape == (5 if content else 1, 4, 12, len(PLACES.keys))
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    near = (PLACES.keys - PLACES.queries[:, None]).abs().amax(2) <= 1
    assert (weights.sum((0, 1))[~near] == 0).all()
    assert (weights.sum((0, 1))[near] > 0).all()
    if content:
        assert not torch.allclose(weights[0], weights[1], atol=1e-4)


@pytest.mark.parametrize(("encoding", "content"), CASES)
def test_some_queries_are_a_part_of_all(encoding: Encoding, content: bool) -> None:
    layer, images = build(encoding, content), torch.rand(5, 2, 8, 6)
    chosen = torch.tensor([7, 0, 11])
    torch.testing.assert_close(layer(images, chosen), layer(images)[:, :, chosen])


@pytest.mark.parametrize("encoding", ["added", "separate"])
def test_it_is_attention_written_out(encoding: Encoding) -> None:
    """Token by token and head by head, for one image."""
    layer, image = build(encoding, True), torch.rand(1, 2, 8, 6)
    pixels = torch.cat([image[0].flatten(1).T, torch.zeros(len(PLACES.keys) - 48, 2)])
    content = layer.embed(pixels)
    tokens = content + layer.position if encoding == "added" else torch.cat([content, layer.position], 1)
    wanted = torch.zeros(12, 3)
    for query, (row, column) in enumerate(PLACES.queries.tolist()):
        for head in range(4):
            part = slice(HEAD_WIDTH * head, HEAD_WIDTH * (head + 1))
            asked = layer.ask(tokens[6 * row + column])[part]
            scores = torch.stack([asked @ layer.answer(token)[part] for token in tokens]) / HEAD_WIDTH**0.5
            weights = scores.exp() / scores.exp().sum()
            seen = weights @ (tokens if encoding == "added" else pixels)
            wanted[query] += seen @ layer.matrices[head]
    torch.testing.assert_close(layer(image)[0].T, wanted, atol=1e-5, rtol=1e-4)


def test_what_it_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold, but got 'cubic'"):
        build("cubic", False)  # type: ignore[arg-type]
    far = Places(grid([0], [9]), grid([0], [0, 1]), (1, 1))
    with pytest.raises(ValueError, match="`window` must reach a key from every query, but got 5"):
        LearnedAttention("quadratic", 1, far, (1, 1), content=False, window=5)
