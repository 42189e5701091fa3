"""Can attention learn what it can be? Layers trained on images to imitate a convolution, an FC layer or a mirror."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from models.attention import Places, grid, offsets
from models.learned_attention import LearnedAttention
from study.data.dataset import to_float
from study.measures.attention import random_layer, reaches_out
from study.training.loops import EVAL_BATCH, Report, batches, check_finite, eval_mode, one_cycle

OUTPUTS = 10  # of the FC layer
NOISE_IMAGES = 20
MOST_WEIGHTS = 10_000_000  # of attention that are in memory at a time, where each image has its own
WATCHED = 20  # images whose attention is measured
BETA2 = 0.99


@dataclass(frozen=True)
class Target:
    """What is imitated.

    Attributes:
        layer: Images [N, C, H, W] in [0, 1] to [N, D, Q].
        places: Of the queries and keys that attention needs.
        channels: Of its images and outputs.
        border: [Q], the outputs that depend on padding.
        offsets: [heads, 2] of the kernel's weights; None: it is no convolution.
        reach: Pixels within which heads look first.
    """

    layer: Callable[[Tensor], Tensor]
    places: Places
    channels: tuple[int, int]
    border: Tensor
    offsets: Tensor | None
    reach: float


def conv_target(conv: nn.Conv2d, image_size: tuple[int, int]) -> Target:
    """A convolution; the keys have its zero padding as a ring."""
    return Target(
        lambda images: conv(images).flatten(2),
        Places.of_conv(conv, image_size),
        (conv.in_channels, conv.out_channels),
        reaches_out(conv, image_size),
        offsets(conv).float(),
        max(conv.kernel_size) / 4,
    )


def linear_target(shape: tuple[int, int, int], seed: int) -> Target:
    """A random FC layer on images (C, H, W); attention asks from one read-out token, which is a zero-valued key too."""
    channels, height, width = shape
    linear = random_layer(
        nn.Linear(channels * height * width, OUTPUTS, bias=False), torch.Generator().manual_seed(seed)
    )
    weight = next(linear.parameters()).detach().float()
    readout = torch.tensor([[(height - 1) / 2, (width - 1) / 2]])
    keys = torch.cat([grid(range(height), range(width)).float(), readout])
    return Target(
        lambda images: (images.flatten(1) @ weight.to(images).T)[:, :, None],
        Places(readout, keys, (1, 1)),
        (channels, OUTPUTS),
        torch.zeros(1, dtype=torch.bool),
        None,
        height / 4,
    )


def mirror_target(shape: tuple[int, int, int]) -> Target:
    """Each pixel takes the value of its mirror image, left to right."""
    channels, height, width = shape
    pixels = grid(range(height), range(width))
    places = Places(pixels, pixels, (height, width))
    border = torch.zeros(len(pixels), dtype=torch.bool)
    return Target(lambda images: images.flip(3).flatten(2), places, (channels, channels), border, None, height / 4)


class ConvStack(nn.Module):
    """Our convolutions (4x4, stride 2, and back) about two of 7x7, with SiLU between: images to outputs [N, C, q].

    As narrow as still gives at least so many parameters; what each output depends on is the whole image.
    """

    def __init__(self, channels: int, parameters: int) -> None:
        super().__init__()
        width = 1
        self.layers = _conv_stack(channels, width)
        while count_parameters(self) < parameters:
            width += 1
            self.layers = _conv_stack(channels, width)

    def forward(self, images: Tensor, chosen: Tensor | None = None) -> Tensor:
        made = self.layers(images).flatten(2)
        return made if chosen is None else made[:, :, chosen]


def _conv_stack(channels: int, width: int) -> nn.Sequential:
    wide = 2 * width
    layers = [
        nn.Conv2d(channels, width, 4, stride=2, padding=1),
        nn.Conv2d(width, wide, 4, stride=2, padding=1),
        nn.Conv2d(wide, wide, 7, padding=3),
        nn.Conv2d(wide, wide, 7, padding=3),
        nn.ConvTranspose2d(wide, width, 4, stride=2, padding=1),
    ]
    between = [part for layer in layers for part in (layer, nn.SiLU())]
    return nn.Sequential(*between, nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1))


def count_parameters(module: nn.Module) -> int:
    """How many numbers it learns."""
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class ImitationSettings:
    """How a layer is trained: each step takes `queries` of the outputs at random."""

    epochs: int
    batch_size: int
    queries: int
    learning_rate: float


def imitate(layer: nn.Module, target: Target, images: Tensor, settings: ImitationSettings, report: Report) -> None:
    """Train the layer to give the target's outputs on images, uint8 [N, C, H, W]; the loss is relative to their power.

    Raises:
        Diverged: The loss is not finite any more.
    """
    steps = settings.epochs * max(1, len(images) // settings.batch_size)
    _, step = one_cycle(layer, settings.learning_rate, steps, BETA2)
    count = len(target.places.queries)
    layer.train()
    for epoch in range(1, settings.epochs + 1):
        losses = []
        for index in batches(len(images), settings.batch_size, images.device):
            inputs = to_float(images[index])
            chosen = torch.randperm(count, device=images.device)[: settings.queries]
            with torch.no_grad():
                outputs = target.layer(inputs)
                power = outputs.square().mean()
            loss = (layer(inputs, chosen) - outputs[:, :, chosen]).square().mean() / power
            layer.zero_grad()
            loss.backward()
            step()
            losses.append(loss.detach())
        metrics = {"train/loss": float(torch.stack(losses).mean())}
        check_finite(epoch, metrics)
        report(epoch, metrics)
    layer.eval()


def relative_errors(layer: nn.Module, target: Target, images: Tensor) -> dict[str, float]:
    """Root of the mean squared error over that of the outputs: `error`, and its parts of the same denominator.

    Args:
        images: uint8, or floats for noise, [N, C, H, W].

    Returns:
        `error`, and where some outputs depend on padding `error_inside` and `error_border`, each over the mean square
        of all outputs.
    """
    squares = torch.zeros(len(target.places.queries), dtype=torch.float64, device=images.device)
    power = squares.clone()
    with eval_mode(layer):
        for part in images.split(_at_once(layer)):
            inputs = to_float(part) if part.dtype == torch.uint8 else part
            outputs = target.layer(inputs)
            squares += (layer(inputs) - outputs).double().square().sum((0, 1))
            power += outputs.double().square().sum((0, 1))
    found, border, mean = {"error": squares.sum() / power.sum()}, target.border.to(images.device), power.mean()
    if border.any():
        found |= {"error_inside": squares[~border].mean() / mean, "error_border": squares[border].mean() / mean}
    return {name: float(value.sqrt()) for name, value in found.items()}


def _at_once(layer: nn.Module) -> int:
    """How many images go through the layer together, where each may have attention weights of its own."""
    if not isinstance(layer, LearnedAttention) or not layer.content:
        return EVAL_BATCH
    return max(1, MOST_WEIGHTS // (layer.heads * layer.hidden.numel()))


def noise_like(images: Tensor, seed: int) -> Tensor:
    """Images of normal pixels, [NOISE_IMAGES, C, H, W]: whoever has found the layer is right on them too."""
    shape = NOISE_IMAGES, *images.shape[1:]
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(images.device)


@torch.no_grad()
def attention_of(layer: LearnedAttention, images: Tensor) -> Tensor:
    """The attention [heads, Q, K] that a layer pays on images, uint8 [N, C, H, W]; the mean over a few of them."""
    queries = torch.arange(len(layer.queries), device=images.device)
    parts = [layer.weights(layer.tokens(to_float(images[:WATCHED])), some).mean(0) for some in queries.split(32)]
    return torch.cat(parts, 1)


def head_measures(layer: LearnedAttention, target: Target, images: Tensor) -> dict[str, float]:
    """Where the heads look, inside the image: are they the offsets of the kernel?

    Returns:
        `centre_distance`: pixels from the mean offset of each head's attention to the kernel offset that it is
        assigned, one to one and as near as can be, mean over heads. `kernel_mass`: the share of attention that stays in
        the kernel.
    """
    assert target.offsets is not None
    inside = ~target.border.to(images.device)
    weights = attention_of(layer, images)[:, inside]
    relative = layer.keys - layer.queries[inside][:, None]  # [q, K, 2]
    centres = torch.einsum("hqk,qkc->hqc", weights, relative).mean(1)
    distances = torch.cdist(centres, target.offsets.to(centres)).cpu().numpy()
    low, high = target.offsets.to(relative).aminmax(dim=0)
    kernel = ((relative >= low) & (relative <= high)).all(2)
    return {
        "centre_distance": float(distances[linear_sum_assignment(distances)].mean()),
        "kernel_mass": float((weights * kernel).sum(2).mean()),
    }
