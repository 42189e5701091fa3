"""Errors of exact attention, against torch's convolutions and closed forms."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.attention import LearnedAttention, offsets
from study.data.dataset import to_float
from study.measures import attention as measures


def test_the_error_falls_with_the_tail_until_rounding() -> None:
    assert measures.tail(10) == pytest.approx(4 * math.exp(-10))
    double, single = (measures.alpha_errors((10, 46), dtype, 0) for dtype in (torch.float64, torch.float32))
    assert 1 < double[0] / measures.tail(10) < 30
    assert single[0] == pytest.approx(double[0], rel=1e-2)
    assert double[1] < 1e-14 < 1e-8 < single[1] < 2e-6


def test_errors_inside_and_at_the_borders() -> None:
    conv, images = nn.Conv2d(2, 3, 3, padding=1, bias=False).double(), torch.randn(4, 2, 9, 9, dtype=torch.float64)
    found = measures.border_errors(conv, images)
    replicate = F.conv2d(F.pad(images, (1, 1, 1, 1), "replicate"), conv.weight)
    wanted = float((replicate - conv(images)).detach().abs().max())
    assert found["border"] == pytest.approx(wanted, rel=1e-9)
    assert max(found["inside"], found["ring"]) < 1e-12 < 0.1 < found["border"]


def test_what_a_layer_that_shares_its_weights_holds() -> None:
    """The best shared weights by least squares, against the formula."""
    weight = torch.randn(5, 2, 30, dtype=torch.float64)
    best = torch.linalg.lstsq(torch.ones(30, 1, dtype=torch.float64), weight.flatten(0, 1).T).solution
    left = weight - best.T.reshape(5, 2, 1)
    assert measures.shared_fraction(weight) == pytest.approx(1 - float(left.square().sum() / weight.square().sum()))


def test_fully_connected_layers() -> None:
    found = measures.linear_errors(seed=0)
    assert 0 < found.pop("shared") < 0.005  # 1 / 784 is to be expected
    assert found.keys() == {"by_pixel", "by_rank", "to_image", "constant"}
    assert max(found.values()) < 1e-12
    assert measures.linear_errors(seed=1) != measures.linear_errors(seed=0)


def test_a_copy_is_compared_image_by_image() -> None:
    def bright_first(images: torch.Tensor) -> torch.Tensor:  # logits of two classes
        return torch.stack([torch.full_like(images[:, 0, 0, 0], 0.5), images[:, 0, 0, 0]], 1)

    def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
        module = nn.Identity()
        module.forward = change  # type: ignore[method-assign]
        return module

    images = torch.randint(0, 256, (450, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    judge, same = changed(bright_first), nn.Identity()
    found = measures.compare(same, same, images, dtype=torch.float64, judge=judge)
    assert found == {"difference": 0, "loss": 0, "copy_loss": 0, "decisions": 0}
    found = measures.compare(same, changed(lambda images: images + 0.25), images, dtype=torch.float64, judge=judge)
    assert (found["difference"], found["copy_loss"]) == (pytest.approx(0.25), pytest.approx(0.25**2))
    first = to_float(images)[:, 0, 0, 0]
    assert found["decisions"] == int(((first <= 0.5) & (first + 0.25 > 0.5)).sum()) > 0
    images[0] = 255
    broken = changed(lambda images: torch.where(images == 1, torch.nan, images))
    found = measures.compare(same, broken, images, dtype=torch.float64)
    assert math.isnan(found["difference"]), "a NaN in an early batch is not lost"
    assert "decisions" not in found


@torch.no_grad()
def test_trained_attention_against_its_convolution() -> None:
    """A layer that is the convolution, its heads in another order; then one whose heads look elsewhere."""
    torch.manual_seed(0)
    conv, order = nn.Conv2d(1, 4, 2, padding=1, bias=False), torch.tensor([2, 0, 3, 1])
    layer = LearnedAttention((1, 4), (8, 8), (2, 1, 1))
    layer.centres.copy_(offsets(conv)[order])
    layer.log_alpha.fill_(4.0)
    layer.matrices.copy_(conv.weight.flatten(2).permute(2, 1, 0)[order])
    shown = torch.randint(0, 256, (30, 1, 8, 8), generator=torch.Generator().manual_seed(2)).byte()
    assert measures.relative_error(layer, conv, shown) < 1e-5
    assert measures.relative_error(layer, conv, measures.noise_like(shown, 0)) < 1e-5
    assert measures.centre_distance(layer, conv) == 0
    layer.centres += torch.tensor([0.0, 3.0])
    assert measures.centre_distance(layer, conv) == pytest.approx(3)
    layer.matrices.zero_()
    assert measures.relative_error(layer, conv, shown) == pytest.approx(1), "as bad as giving nothing"
