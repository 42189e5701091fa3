"""Training attention to imitate a convolution."""

from typing import Any

import torch
from torch import nn

from models.attention import LearnedAttention
from study.measures.attention import relative_error
from study.training import attention


def images(count: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(seed)).byte()


def test_attention_learns_a_small_convolution_and_fixed_heads_do_not(monkeypatch) -> None:
    monkeypatch.setattr(attention, "BATCH_SIZE", 16)
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 2, padding=1, bias=False).requires_grad_(False)

    def errors(learn_positions: bool) -> tuple[float, float, dict[int, Any]]:
        """Before and after training, and what was reported."""
        torch.manual_seed(1)
        layer = LearnedAttention(**attention.imitation_of(conv, (8, 8), learn_positions=learn_positions))
        before, reported = relative_error(layer, conv, images(50, 1)), {}
        attention.imitate(layer, conv, images(1600, 0), 4, reported.__setitem__)
        return before, relative_error(layer, conv, images(50, 1)), reported

    before, error, reported = errors(learn_positions=True)
    assert list(reported) == [1, 2, 3, 4]
    assert reported[4]["train/loss"] < reported[1]["train/loss"] / 10
    assert error < min(0.1, before / 5)
    assert errors(learn_positions=True) == (before, error, reported), "the same seed gives the same training"
    assert errors(learn_positions=False)[1] > 2 * error
