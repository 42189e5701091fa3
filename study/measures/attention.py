"""How exactly self-attention is a convolution or a fully connected (FC) layer, and how near trained attention comes."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import prod

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from models.attention import LearnedAttention, TableScores, offsets
from models.attention_forms import conv_as_attention, linear_as_attention, linear_by_rank, linear_to_image
from study.data.dataset import to_float
from study.training.loops import EVAL_BATCH, eval_mode

CHANNELS, KERNEL, SIDE = (3, 5), 3, 28  # of the random convolution; height and width of its image
OUTPUTS = 10  # of the random FC layer
INPUTS = 64  # random images
NOISE_IMAGES = 20


def tail(alpha: float) -> float:
    """Return the approximate attention beside a head's pixel: its four neighbours get exp(-alpha) each."""
    return 4 * torch.tensor(-alpha, dtype=torch.float64).exp().item()


def random_layer(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return the layer in float64 with normal weights, so that outputs have the variance of the inputs; no bias."""
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            fan_in = prod(parameter.shape[1:])
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / fan_in**0.5)
    return layer


def noise_like(images: Tensor, seed: int) -> Tensor:
    """Return images of normal pixels, [NOISE_IMAGES, C, H, W]: a layer that equals another is right on them too."""
    shape = NOISE_IMAGES, *images.shape[1:]
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(images.device)


@torch.no_grad()
def largest_error(layer: nn.Module, copy: nn.Module, inputs: Tensor) -> float:
    """Return the largest error of the copy's outputs, in its own type, against the layer in float64."""
    found = copy(inputs.to(next(copy.parameters()).dtype)).double().flatten(1)
    return float((found - deepcopy(layer).double()(inputs.double()).flatten(1)).abs().max())


def alpha_errors(alphas: Sequence[float], dtype: torch.dtype, seed: int) -> list[float]:
    """Return the largest error of a random 3x3 convolution as attention, for each sharpness; all of unit variance."""
    generator = torch.Generator().manual_seed(seed)
    conv = random_layer(nn.Conv2d(*CHANNELS, KERNEL, padding=1, bias=False), generator)
    images = torch.randn(1, CHANNELS[0], SIDE, SIDE, generator=generator, dtype=torch.float64)
    assert isinstance(conv, nn.Conv2d)
    return [
        largest_error(conv, conv_as_attention(conv, (SIDE, SIDE), alpha=alpha).to(dtype), images) for alpha in alphas
    ]


@dataclass(frozen=True)
class BorderErrors:
    """Largest errors of attention against a zero-padded convolution."""

    inside: float  # without a ring of zero-valued keys, where the kernel stays inside the image
    border: float  # without the ring, at the other outputs
    with_ring: float  # at all outputs


@torch.no_grad()
def border_errors(conv: nn.Conv2d, images: Tensor) -> BorderErrors:
    """Measure a convolution with zero padding as attention, on images [N, C, H, W] of its type."""
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
    """Return which outputs [Q] of a convolution depend on padding, found with an image of ones."""
    probe = deepcopy(conv)
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.fill_(0.0)
        probe.weight.fill_(1.0)
        sums = probe(torch.ones(1, conv.in_channels, *size).to(conv.weight))[0, 0].flatten()
    return sums < sums.max() - 0.5


def shared_fraction(weight: Tensor) -> float:
    """Return the fraction of an FC layer's squared weights that is left if all positions share their weights.

    This is the FC layer as a 1x1 convolution whose outputs are summed over the image; its best weight is the mean.

    Args:
        weight: [D, C, positions].
    """
    mean = weight.mean(2, keepdim=True)
    return float((mean.square().sum() * weight.shape[2] / weight.square().sum()).double())


@dataclass(frozen=True)
class LinearErrors:
    """Errors of random FC layers in float64, one entry per draw."""

    shared: list[float]  # fraction of the squared weights that a 1x1 convolution with a sum holds
    by_pixel: list[float]  # largest error of one head per pixel
    by_rank: list[float]  # of as many heads as the rank, and one more
    to_image: list[float]  # of two heads and a zero-valued token, image to image
    constant: list[float]  # std of a constant image's output without that token


def linear_errors(draws: int, seed: int) -> LinearErrors:
    """Measure FC layers 784 -> 10 and 784 -> 784 as attention, on inputs of unit variance."""
    pixels, found = SIDE * SIDE, LinearErrors([], [], [], [], [])
    for draw in range(draws):
        generator = torch.Generator().manual_seed(seed + draw)
        linear = random_layer(nn.Linear(pixels, OUTPUTS, bias=False), generator)
        square = random_layer(nn.Linear(pixels, pixels, bias=False), generator)
        inputs = torch.randn(INPUTS, pixels, generator=generator, dtype=torch.float64)
        assert isinstance(linear, nn.Linear)
        assert isinstance(square, nn.Linear)
        shape = (1, SIDE, SIDE)
        found.shared.append(shared_fraction(linear.weight.detach()[:, None]))
        found.by_pixel.append(largest_error(linear, linear_as_attention(linear, shape), inputs))
        found.by_rank.append(largest_error(linear, linear_by_rank(linear, shape), inputs))
        found.to_image.append(largest_error(square, linear_to_image(square, shape[1:]), inputs))
        bare = linear_to_image(square, shape[1:])
        bare.scores = TableScores(torch.randn(2, pixels, pixels, generator=generator, dtype=torch.float64))
        with torch.no_grad():
            bare.matrices.copy_(torch.randn(2, 1, 1, generator=generator, dtype=torch.float64))
            found.constant.append(float(bare(torch.ones(1, pixels, dtype=torch.float64)).std()))
    return found


@dataclass(frozen=True)
class Compared:
    """An autoencoder and its copy on the same images."""

    difference: float  # the largest of the reconstructions
    loss: float  # MSE per pixel of the original
    copy_loss: float
    decisions: int  # images of which the judge sees the copy's reconstruction as another class


def compare(
    original: nn.Module, copy: nn.Module, images: Tensor, *, dtype: torch.dtype, judge: nn.Module | None = None
) -> Compared:
    """Compare the reconstructions of images, uint8 [N, C, S, S], by both modules, computed in this type.

    Args:
        judge: Classifies the reconstructions; None: no decisions are compared.
    """
    models = [deepcopy(model).to(dtype) for model in (original, copy)]
    sums, differences, decisions = torch.zeros(2, dtype=torch.float64), [], 0
    with eval_mode(*models, *filter(None, [judge])):
        for part in images.split(EVAL_BATCH):
            wanted = to_float(part).to(dtype)
            first, second = (model(wanted) for model in models)
            differences.append((first - second).abs().max())
            sums += torch.stack([(made - wanted).double().square().sum().cpu() for made in (first, second)])
            if judge is not None:
                decisions += int((judge(first.float()).argmax(1) != judge(second.float()).argmax(1)).sum())
    loss, copy_loss = (sums / images.numel()).tolist()
    return Compared(float(torch.stack(differences).max()), loss, copy_loss, decisions)


@torch.no_grad()
def relative_errors(layer: LearnedAttention, conv: nn.Conv2d, images: Tensor) -> dict[str, float]:
    """Return the root of the mean squared error against the convolution over the root mean square of its outputs.

    Args:
        images: uint8, or floats for noise, [N, C, H, W].

    Returns:
        `error`, and with the same denominator `error_inside` and `error_border`, of the outputs that do not and that do
        depend on padding.
    """
    border = reaches_out(conv, images.shape[2:]).to(images.device)
    squares = torch.zeros(len(border), dtype=torch.float64, device=images.device)
    power = squares.clone()
    for part in images.split(EVAL_BATCH):
        inputs = to_float(part) if part.dtype == torch.uint8 else part
        outputs = conv(inputs).flatten(2)
        squares += (layer(inputs) - outputs).double().square().sum((0, 1))
        power += outputs.double().square().sum((0, 1))
    found, mean = {"error": squares.sum() / power.sum()}, power.mean()
    found |= {"error_inside": squares[~border].mean() / mean, "error_border": squares[border].mean() / mean}
    return {name: float(value.sqrt()) for name, value in found.items()}


@torch.no_grad()
def head_measures(layer: LearnedAttention, conv: nn.Conv2d, image_size: Sequence[int]) -> dict[str, float]:
    """Measure where the heads look inside the image.

    Returns:
        `centre_distance`: pixels between the mean offset of a head's attention and the kernel offset that it is
        assigned, one to one and as near as possible, mean over heads. `kernel_mass`: the fraction of the attention that
        falls within the kernel.
    """
    inside, kernel = ~reaches_out(conv, image_size).to(layer.queries.device), offsets(conv).to(layer.queries)
    weights = layer.weights()[:, inside]
    relative = layer.keys - layer.queries[inside][:, None]  # [q, K, 2]
    centres = torch.einsum("hqk,qkc->hqc", weights, relative).mean(1)
    distances = torch.cdist(centres, kernel).cpu().numpy()
    within = ((relative >= kernel.amin(0)) & (relative <= kernel.amax(0))).all(2)
    return {
        "centre_distance": float(distances[linear_sum_assignment(distances)].mean()),
        "kernel_mass": float((weights * within).sum(2).mean()),
    }
