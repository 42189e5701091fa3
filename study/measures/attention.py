"""How exactly self-attention is a convolution or a fully connected (FC) layer, and how near trained attention comes."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from math import prod
from typing import TypeVar

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from models.attention import (
    LearnedAttention,
    TableScores,
    conv_as_attention,
    linear_as_attention,
    linear_by_rank,
    linear_to_image,
    offsets,
)
from study.data.dataset import to_float
from study.training.loops import EVAL_BATCH, eval_mode

LayerT = TypeVar("LayerT", nn.Conv2d, nn.Linear)
CHANNELS, KERNEL, SIDE = (3, 5), 3, 28  # of the random convolution; height and width of its image
OUTPUTS = 10  # of the random FC layer
INPUTS = 64  # random images
NOISE_IMAGES = 20


def tail(alpha: float) -> float:
    """Return the approximate attention beside a head's pixel: its four neighbours get exp(-alpha) each."""
    return 4 * torch.tensor(-alpha, dtype=torch.float64).exp().item()


def random_layer(layer: LayerT, generator: torch.Generator) -> LayerT:
    """Return a layer without bias in float64 with normal weights, so that outputs have the variance of the inputs."""
    weight = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
    layer.weight = nn.Parameter(weight / prod(weight.shape[1:]) ** 0.5)
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
    copies = (conv_as_attention(conv, (SIDE, SIDE), alpha=alpha).to(dtype) for alpha in alphas)
    return [largest_error(conv, copy, images) for copy in copies]


@torch.no_grad()
def border_errors(conv: nn.Conv2d, images: Tensor) -> dict[str, float]:
    """Return the largest errors of attention against a convolution with zero padding, on images [N, C, H, W].

    Returns:
        Without a ring of zero-valued keys, `inside`, where the kernel stays inside the image, and `border`, at the
        other outputs; `ring`, at all outputs with the ring.
    """
    size = images.shape[2:]
    bare = deepcopy(conv)
    bare.padding_mode = "replicate"  # what attention without the ring is
    copies = (conv_as_attention(each, size)(images) for each in (bare, conv))
    pixels, ring = ((copy - conv(images)).abs().amax((0, 1)).flatten() for copy in copies)
    probe = deepcopy(conv).requires_grad_(False)
    probe.weight.fill_(1.0)
    sums = probe(torch.ones(1, conv.in_channels, *size).to(conv.weight))[0, 0].flatten()
    border = sums < sums.max() - 0.5  # outputs that depend on padding
    return {"inside": float(pixels[~border].max()), "border": float(pixels[border].max()), "ring": float(ring.max())}


def shared_fraction(weight: Tensor) -> float:
    """Return the fraction of an FC layer's squared weights [D, C, positions] that shared weights can hold.

    This is the FC layer as a 1x1 convolution whose outputs are summed over the positions; its best weight is the mean.
    """
    mean = weight.mean(2, keepdim=True)
    return float((mean.square().sum() * weight.shape[2] / weight.square().sum()).double())


def linear_errors(seed: int) -> dict[str, float]:
    """Measure random FC layers 784 -> 10 and 784 -> 784 as attention, in float64, on inputs of unit variance.

    Returns:
        `shared`, the fraction of the squared weights that a 1x1 convolution with a sum holds; the largest errors
        `by_pixel`, `by_rank` and `to_image` of the forms of these names; `constant`, the std of the last form's output
        for a constant image without its zero-valued token.
    """
    generator, pixels, shape = torch.Generator().manual_seed(seed), SIDE * SIDE, (1, SIDE, SIDE)
    linear = random_layer(nn.Linear(pixels, OUTPUTS, bias=False), generator)
    square = random_layer(nn.Linear(pixels, pixels, bias=False), generator)
    inputs = torch.randn(INPUTS, pixels, generator=generator, dtype=torch.float64)
    bare = linear_to_image(square, shape[1:])
    bare.scores = TableScores(torch.randn(2, pixels, pixels, generator=generator, dtype=torch.float64))
    with torch.no_grad():
        bare.matrices.copy_(torch.randn(2, 1, 1, generator=generator, dtype=torch.float64))
        constant = float(bare(torch.ones(1, pixels, dtype=torch.float64)).std())
    return {
        "shared": shared_fraction(linear.weight.detach()[:, None]),
        "by_pixel": largest_error(linear, linear_as_attention(linear, shape), inputs),
        "by_rank": largest_error(linear, linear_by_rank(linear, shape), inputs),
        "to_image": largest_error(square, linear_to_image(square, shape[1:]), inputs),
        "constant": constant,
    }


def compare(
    original: nn.Module, copy: nn.Module, images: Tensor, *, dtype: torch.dtype, judge: nn.Module | None = None
) -> dict[str, float]:
    """Compare the reconstructions of images, uint8 [N, C, S, S], by both modules, computed in this type.

    Returns:
        `difference`, the largest one; `loss` and `copy_loss`, the MSE per pixel; with a judge `decisions`, the number
        of images whose two reconstructions the judge assigns to different classes.
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
    found = {"difference": float(torch.stack(differences).max()), "loss": loss, "copy_loss": copy_loss}
    return found if judge is None else {**found, "decisions": float(decisions)}


@torch.no_grad()
def relative_error(layer: LearnedAttention, conv: nn.Conv2d, images: Tensor) -> float:
    """Return the root of the mean squared error against the convolution over the root mean square of its outputs.

    Args:
        images: uint8, or floats for noise, [N, C, H, W].
    """
    squares = power = torch.zeros(len(layer.queries), dtype=torch.float64, device=images.device)
    for part in images.split(EVAL_BATCH):
        inputs = to_float(part) if part.dtype == torch.uint8 else part
        outputs = conv(inputs).flatten(2)
        squares = squares + (layer(inputs) - outputs).double().square().sum((0, 1))
        power = power + outputs.double().square().sum((0, 1))
    return float((squares.sum() / power.sum()).sqrt())


@torch.no_grad()
def centre_distance(layer: LearnedAttention, conv: nn.Conv2d) -> float:
    """Return the mean distance in pixels of the heads' centres to the kernel offsets, assigned one to one."""
    distances = torch.cdist(layer.centres, offsets(conv).to(layer.centres)).cpu().numpy()
    return float(distances[linear_sum_assignment(distances)].mean())
