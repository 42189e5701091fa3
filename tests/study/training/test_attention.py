"""Training attention to imitate: it learns, and its measures are those of known layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.attention import offsets
from models.learned_attention import LearnedAttention
from study.data.dataset import to_float
from study.training.attention import (
    ConvStack,
    ImitationSettings,
    Target,
    conv_target,
    count_parameters,
    head_measures,
    imitate,
    linear_target,
    mirror_target,
    noise_like,
    relative_errors,
)


def images(count: int, seed: int, side: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, side, side), generator=torch.Generator().manual_seed(seed)).byte()


@pytest.fixture
def conv() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(1, 4, 2, padding=1, bias=False).requires_grad_(False)


def quadratic(target: Target) -> LearnedAttention:
    torch.manual_seed(1)
    heads = 4 if target.offsets is None else len(target.offsets)
    return LearnedAttention("quadratic", heads, target.places, target.channels, content=False, reach=target.reach)


def exact(target: Target, conv: nn.Conv2d) -> LearnedAttention:
    """The layer that is the convolution, its heads in another order."""
    layer, order = quadratic(target), torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        layer.centres.copy_(offsets(conv)[order])
        layer.log_alpha.fill_(4.0)
        layer.matrices.copy_(conv.weight.flatten(2).permute(2, 1, 0)[order])
    return layer


def test_attention_learns_a_small_convolution(conv: nn.Conv2d) -> None:
    target, reported = conv_target(conv, (8, 8)), {}
    layer = quadratic(target)
    before = relative_errors(layer, target, images(50, 1))["error"]
    imitate(layer, target, images(1600, 0), ImitationSettings(4, 16, 16, 0.2), reported.__setitem__)
    assert list(reported) == [1, 2, 3, 4]
    assert reported[4]["train/loss"] < reported[1]["train/loss"] / 10
    assert relative_errors(layer, target, images(50, 1))["error"] < min(0.1, before / 5)
    again = quadratic(target)
    other: dict[int, object] = {}
    imitate(again, target, images(1600, 0), ImitationSettings(4, 16, 16, 0.2), other.__setitem__)
    assert other == reported


def test_errors_are_relative_and_add_up(conv: nn.Conv2d) -> None:
    target, shown = conv_target(conv, (8, 8)), images(30, 2)
    nothing = quadratic(target)
    with torch.no_grad():
        nothing.matrices.zero_()
    found = relative_errors(nothing, target, shown)
    assert found["error"] == pytest.approx(1)
    border = float(target.border.float().mean())
    parts = (1 - border) * found["error_inside"] ** 2 + border * found["error_border"] ** 2
    assert parts == pytest.approx(1)
    outputs = conv(to_float(shown)).flatten(2)
    wanted = outputs[:, :, target.border].square().mean() / outputs.square().mean()
    assert found["error_border"] == pytest.approx(float(wanted.sqrt()), rel=1e-5)
    right = relative_errors(exact(target, conv), target, noise_like(shown, 0))
    assert max(right.values()) < 1e-5


def test_heads_of_the_convolution_itself(conv: nn.Conv2d) -> None:
    target = conv_target(conv, (8, 8))
    layer, shown = exact(target, conv), images(5, 0)
    found = head_measures(layer, target, shown)
    assert found["centre_distance"] == pytest.approx(0, abs=1e-5)
    assert found["kernel_mass"] == pytest.approx(1, abs=1e-5)
    with torch.no_grad():
        layer.centres += torch.tensor([0.0, 3.0])  # beyond the kernel, the same for all heads
        layer.centres[:, 1].clamp_(max=3)
    moved = head_measures(layer, target, shown)
    assert moved["kernel_mass"] < 0.5
    assert moved["centre_distance"] > 1
    with torch.no_grad():
        layer.log_alpha.fill_(-20.0)  # all keys alike
    assert head_measures(layer, target, shown)["kernel_mass"] == pytest.approx(4 / len(target.places.keys), rel=1e-3)


def test_a_fully_connected_target_is_linear_and_has_one_output() -> None:
    target, shown = linear_target((1, 8, 8), 3), to_float(images(4, 0))
    outputs = target.layer(shown)
    assert outputs.shape == (4, 10, 1)
    torch.testing.assert_close(target.layer(2 * shown), 2 * outputs)
    assert quadratic(target)(shown).shape == outputs.shape
    torch.testing.assert_close(linear_target((1, 8, 8), 3).layer(shown), outputs)
    assert not torch.allclose(linear_target((1, 8, 8), 4).layer(shown), outputs, atol=0.1)
    assert set(relative_errors(quadratic(target), target, shown)) == {"error"}


def test_the_mirror_and_its_convolutions() -> None:
    target, shown = mirror_target((1, 8, 8)), to_float(images(4, 0))
    assert torch.equal(target.layer(shown).view(4, 8, 8), shown[:, 0].flip(2))
    stack = ConvStack(1, 5_000)
    narrow = ConvStack(1, 1)
    assert count_parameters(stack) >= 5_000 > count_parameters(narrow)
    chosen = torch.tensor([5, 63])
    assert torch.equal(stack(shown, chosen), stack(shown)[:, :, chosen])
    assert stack(shown).shape == (4, 1, 64)
