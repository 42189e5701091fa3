"""How exactly self-attention is a convolution or a fully connected (FC) layer: errors on random layers and on ours."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from models.attention import TableScores
from models.attention_forms import conv_as_attention, linear_as_attention, linear_by_rank, linear_to_image
from study.data.dataset import to_float
from study.training.loops import EVAL_BATCH, eval_mode

CHANNELS, KERNEL, SIDE = (3, 5), 3, 28  # of the random convolution; height and width of its image
OUTPUTS = 10  # of the random FC layer
INPUTS = 64  # random images


def tail(alpha: float) -> float:
    """About how much attention of a head goes beside its pixel: its four neighbours get exp(-alpha) each."""
    return 4 * torch.tensor(-alpha, dtype=torch.float64).exp().item()


def random_layer(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    """A layer without bias, in float64 with normal weights under which outputs have the variance of the inputs."""
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            fan_in = prod(parameter.shape[1:])
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / fan_in**0.5)
    return layer


@torch.no_grad()
def largest_error(layer: nn.Module, copy: nn.Module, inputs: Tensor) -> float:
    """Of the copy's outputs, in the type of its weights, against those of the layer in float64."""
    found = copy(inputs.to(next(copy.parameters()).dtype)).double().flatten(1)
    return float((found - deepcopy(layer).double()(inputs.double()).flatten(1)).abs().max())


def alpha_errors(alphas: Sequence[float], dtype: torch.dtype, seed: int) -> list[float]:
    """Largest error of a random 3x3 convolution as attention, for each sharpness; all of unit variance."""
    generator = torch.Generator().manual_seed(seed)
    conv = random_layer(nn.Conv2d(*CHANNELS, KERNEL, padding=1, bias=False), generator)
    images = torch.randn(1, CHANNELS[0], SIDE, SIDE, generator=generator, dtype=torch.float64)
    assert isinstance(conv, nn.Conv2d)
    return [
        largest_error(conv, conv_as_attention(conv, (SIDE, SIDE), alpha=alpha).to(dtype), images) for alpha in alphas
    ]


@dataclass(frozen=True)
class BorderErrors:
    """Largest errors against a zero-padded convolution: of attention over the pixels, and with a ring of zeros too."""

    inside: float
    border: float  # outputs whose kernel reaches beyond the image
    with_ring: float  # everywhere


@torch.no_grad()
def border_errors(conv: nn.Conv2d, images: Tensor) -> BorderErrors:
    """Of a convolution with zero padding, as attention, on images [N, C, H, W] of its type."""
    size = images.shape[2:]
    bare = deepcopy(conv)
    bare.padding_mode = "replicate"  # what attention without the ring is
    wanted = conv(images)
    pixels, ringed = (
        (conv_as_attention(each, size)(images) - wanted).abs().amax((0, 1)).flatten() for each in (bare, conv)
    )
    border = reaches_out(conv, size)
    return BorderErrors(float(pixels[~border].max()), float(pixels[border].max()), float(ringed.max()))


def reaches_out(conv: nn.Conv2d, size: Sequence[int]) -> Tensor:
    """Which outputs [Q] of a convolution depend on padding, found by what they make of an image of ones."""
    probe = deepcopy(conv)
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.fill_(0.0)
        probe.weight.fill_(1.0)
        sums = probe(torch.ones(1, conv.in_channels, *size).to(conv.weight))[0, 0].flatten()
    return sums < sums.max() - 0.5


def shared_share(weight: Tensor) -> float:
    """What share of an FC layer's squared weights is left if all positions share theirs: weight [D, C, positions].

    That is the FC layer as a 1x1 convolution whose outputs are summed over the image: its best weight is the mean.
    """
    mean = weight.mean(2, keepdim=True)
    return float((mean.square().sum() * weight.shape[2] / weight.square().sum()).double())


@dataclass(frozen=True)
class LinearErrors:
    """Of random FC layers in float64, one entry a draw."""

    shared: list[float]  # share of the squared weights that a 1x1 convolution with a sum holds
    by_pixel: list[float]  # largest error of one head a pixel
    by_rank: list[float]  # of as many heads as the rank and one more
    heads: int  # so many
    to_image: list[float]  # of two heads and a zero-valued token, image to image
    uneven: list[float]  # standard deviation of what that layer makes of a constant image of ones
    even: list[float]  # of what two heads with random scores make of it, without that token


def linear_errors(draws: int, seed: int) -> LinearErrors:
    """FC layers of 784 -> 10 and 784 -> 784 as attention, on inputs of unit variance."""
    pixels, found = SIDE * SIDE, LinearErrors([], [], [], OUTPUTS + 1, [], [], [])
    for draw in range(draws):
        generator = torch.Generator().manual_seed(seed + draw)
        linear = random_layer(nn.Linear(pixels, OUTPUTS, bias=False), generator)
        square = random_layer(nn.Linear(pixels, pixels, bias=False), generator)
        inputs = torch.randn(INPUTS, pixels, generator=generator, dtype=torch.float64)
        assert isinstance(linear, nn.Linear)
        assert isinstance(square, nn.Linear)
        shape = (1, SIDE, SIDE)
        found.shared.append(shared_share(linear.weight.detach()[:, None]))
        found.by_pixel.append(largest_error(linear, linear_as_attention(linear, shape), inputs))
        found.by_rank.append(largest_error(linear, linear_by_rank(linear, shape), inputs))
        found.to_image.append(largest_error(square, linear_to_image(square, shape[1:]), inputs))
        found.uneven.append(float(square.weight.detach().sum(1).std()))
        bare = linear_to_image(square, shape[1:])
        bare.scores = TableScores(torch.randn(2, pixels, pixels, generator=generator, dtype=torch.float64))
        with torch.no_grad():
            bare.matrices.copy_(torch.randn(2, 1, 1, generator=generator, dtype=torch.float64))
            found.even.append(float(bare(torch.ones(1, pixels, dtype=torch.float64)).std()))
    return found


@dataclass(frozen=True)
class Compared:
    """A copy of an autoencoder held against it, on the same images."""

    differences: list[float]  # the largest of each batch's reconstructions
    loss: float  # MSE per pixel of the original
    copy_loss: float
    decisions: int  # images of which the judge sees the copy's reconstruction as another class


def compare(
    original: nn.Module, copy: nn.Module, images: Tensor, *, dtype: torch.dtype, judge: nn.Module | None = None
) -> Compared:
    """Reconstructions of images, uint8 [N, C, S, S], by both, computed in this type.

    Args:
        judge: Classifies the reconstructions; None: no decisions are compared.
    """
    models = [deepcopy(model).to(dtype) for model in (original, copy)]
    sums, differences, decisions = torch.zeros(2, dtype=torch.float64), [], 0
    with eval_mode(*models, *filter(None, [judge])):
        for part in images.split(EVAL_BATCH):
            wanted = to_float(part).to(dtype)
            first, second = (model(wanted) for model in models)
            differences.append(float((first - second).abs().max()))
            sums += torch.stack([(made - wanted).double().square().sum().cpu() for made in (first, second)])
            if judge is not None:
                decisions += int((judge(first.float()).argmax(1) != judge(second.float()).argmax(1)).sum())
    loss, copy_loss = (sums / images.numel()).tolist()
    return Compared(differences, loss, copy_loss, decisions)
