"""Training attention to imitate a convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.attention import LearnedAttention
from study.measures.attention import relative_error
from study.training import attention
from study.training.attention import imitate, imitation_of


def images(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(seed)).byte()


def trained(conv: nn.Conv2d, learn_positions: bool) -> tuple[LearnedAttention, dict[int, dict[str, float]], float]:
    """The layer, what it reported, and its error before."""
    torch.manual_seed(1)
    layer = LearnedAttention(**imitation_of(conv, (8, 8), learn_positions=learn_positions))
    before, reported = relative_error(layer, conv, images(50, 1)), {}
    imitate(layer, conv, images(1600, 0), 4, lambda epoch, found: reported.update({epoch: dict(found)}))
    return layer, reported, before


def test_attention_learns_a_small_convolution_and_fixed_heads_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BATCH_SIZE", 16)
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 2, padding=1, bias=False).requires_grad_(False)
    layer, reported, before = trained(conv, learn_positions=True)
    assert list(reported) == [1, 2, 3, 4]
    assert reported[4]["train/loss"] < reported[1]["train/loss"] / 10
    error = relative_error(layer, conv, images(50, 1))
    assert error < min(0.1, before / 5)
    assert trained(conv, learn_positions=True)[1] == reported, "the same seed gives the same training"
    fixed = trained(conv, learn_positions=False)[0]
    assert relative_error(fixed, conv, images(50, 1)) > 2 * error
