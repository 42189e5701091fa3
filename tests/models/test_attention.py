"""Attention against torch's own convolutions and linear layers, and the figures that are known beforehand."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import attention
from models.autoencoder import ARCHITECTURES, Architecture, Autoencoder

CONVOLUTIONS = [
    nn.Conv2d(1, 4, 4, 2, 1),
    nn.Conv2d(4, 2, 1, padding=2),
    nn.Conv2d(3, 5, (2, 5), (3, 1), (0, 2), bias=False),
    nn.Conv2d(2, 1, (5, 3), (1, 2), (3, 1), padding_mode="replicate"),
    nn.Conv2d(5, 3, 3, 3, (0, 1), padding_mode="replicate", bias=False),
]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


EXACT = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("conv", CONVOLUTIONS)
def test_attention_is_any_convolution(conv: nn.Conv2d, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    conv, images = deepcopy(conv).to(dtype), torch.randn(3, conv.in_channels, 9, 6, dtype=dtype)
    found = attention.conv_as_attention(conv, images.shape[2:])
    torch.testing.assert_close(found(images), conv(images), atol=EXACT[dtype], rtol=0)
    assert len(found.matrices) == conv.kernel_size[0] * conv.kernel_size[1]


@pytest.mark.parametrize("options", [{"padding_mode": "reflect"}, {"dilation": 2}, {"groups": 2}])
def test_other_convolutions_are_refused(options: dict[str, Any]) -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1, **options)
    with pytest.raises(ValueError, match="must hold, but got"):
        attention.as_attention(nn.Sequential(conv, nn.Flatten()), (2, 8, 8))


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("shape", [(1, 5, 4), (3, 4, 6), (7, 1, 1)])
def test_fully_connected_layers_at_one_token(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    maps = torch.randn(8, *shape).to(dtype)
    linear = nn.Linear(maps[0].numel(), 6).to(dtype)
    wanted = F.linear(maps.flatten(1), linear.weight, linear.bias)
    for turn in (attention.linear_as_attention, attention.linear_by_rank):
        for given in (maps, maps.flatten(1)):
            torch.testing.assert_close(turn(linear, shape)(given), wanted, atol=20 * EXACT[dtype], rtol=0)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_rank_and_one_heads_are_enough(rank: int) -> None:
    linear = nn.Linear(30, 6).double()
    weight = torch.randn(6, rank, dtype=torch.float64) @ torch.randn(rank, 30, dtype=torch.float64)
    linear.weight = nn.Parameter(weight)
    layer, inputs = attention.linear_by_rank(linear, (1, 5, 6)), torch.randn(9, 30, dtype=torch.float64)
    assert len(layer.matrices) == rank + 1
    assert (layer.weights() > 0).all()
    torch.testing.assert_close(layer(inputs), linear(inputs), atol=1e-11, rtol=0)


def test_image_to_image_needs_the_zero_valued_token() -> None:
    linear = nn.Linear(20, 12).double()
    layer, inputs = attention.linear_to_image(linear, (3, 4)), torch.randn(9, 20, dtype=torch.float64)
    assert layer.weights().shape == (2, 12, 21)
    torch.testing.assert_close(layer(inputs).flatten(1), linear(inputs), atol=1e-12, rtol=0)
    constant = torch.ones(1, 20, dtype=torch.float64)
    assert layer(constant).std() > 0.05
    layer.scores = attention.TableScores(torch.randn(2, 12, 20, dtype=torch.float64))  # whatever they are
    layer.bias.zero_()
    assert layer(constant).std() < 1e-12


@pytest.mark.parametrize(("alpha", "known"), [(1, 3.2), (5, 1.4e-1), (10, 1.0e-3), (20, 4.5e-8), (46, 0.0)])
def test_known_errors_against_the_sharpness(alpha: float, known: float) -> None:
    """The images and weights are those of the figures that were computed beforehand."""
    random = np.random.default_rng(0)
    images, weight = random.standard_normal((28, 28, 3)), random.standard_normal((3, 3, 3, 5)) / np.sqrt(27)
    conv = nn.Conv2d(3, 5, 3, padding=1, padding_mode="replicate", bias=False).double()
    conv.weight.copy_(torch.from_numpy(weight).permute(3, 2, 0, 1))
    inputs = torch.from_numpy(images).permute(2, 0, 1)[None]
    layer = attention.conv_as_attention(conv, (28, 28), alpha=alpha)
    for dtype, rounding in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        error = float((layer.to(dtype)(inputs.to(dtype)).double() - conv(inputs)).abs().max())
        assert error == pytest.approx(known, rel=0.05, abs=rounding)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 16, 16)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_copy_of_the_autoencoder_gives_its_images(architecture: Architecture, shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    arguments = {"latent_dim": 5, "architecture": architecture, "image_shape": shape}
    original = Autoencoder(5, architecture, shape)
    original(torch.rand(64, *shape))  # so that BatchNorm has seen something
    original.eval()
    copy, images = attention.AttentionAutoencoder(original, **arguments), torch.rand(10, *shape)
    assert not any(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in copy.encoder)
    torch.testing.assert_close(copy(images), original(images), atol=1e-5, rtol=0)
    exact = copy.double()(images.double()), original.double()(images.double())
    torch.testing.assert_close(*exact, atol=1e-10, rtol=0)
    rebuilt = attention.AttentionAutoencoder(**arguments).eval()
    rebuilt.load_state_dict(copy.state_dict())
    assert torch.equal(rebuilt(images), copy.float()(images))
    before = original(images.double())
    for parameter in copy.parameters():
        parameter.zero_()
    assert torch.equal(original(images.double()), before), "the copy has weights of its own"


def learned(**options: Any) -> attention.LearnedAttention:
    torch.manual_seed(0)
    return attention.LearnedAttention((2, 3), (8, 6), (4, 2, 1), **options)


def test_learned_attention_is_the_given_form_of_its_parameters() -> None:
    layer, images = learned(), torch.rand(5, 2, 8, 6)
    layer.log_alpha.fill_(1.0)
    scores = attention.QuadraticScores(layer.queries, layer.keys, layer.centres, float(layer.log_alpha[0].exp()))
    given = attention.PositionalAttention(scores, layer.matrices, layer.bias[:, None], (3, 4, 3))
    torch.testing.assert_close(layer(images), given(images).flatten(2), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer.weights().sum(-1), torch.ones(16, 12))
    chosen = torch.tensor([7, 0, 11])
    torch.testing.assert_close(layer(images, chosen), layer(images)[:, :, chosen])
    free, fixed = learned(), learned(learn_positions=False)  # begin alike
    assert all(torch.equal(a, b) for a, b in zip(free.parameters(), fixed.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in free.parameters())
    assert {name for name, each in fixed.named_parameters() if each.requires_grad} == {"matrices", "bias"}
