"""Attention that is trained to imitate a convolution: can it learn what it can be?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.attention import LearnedAttention
from study.data.dataset import to_float
from study.training.loops import Report, Schedule, fit

RATE = 0.2  # peak; the centres are in pixels
BETA2 = 0.99
BATCH_SIZE, QUERIES = 64, 32  # images of a step, and outputs of each, drawn at random


def imitation_of(conv: nn.Conv2d, image_size: tuple[int, int], *, learn_positions: bool) -> dict[str, Any]:
    """Return the arguments of an untrained `LearnedAttention` of the convolution's size."""
    return {
        "channels": [conv.in_channels, conv.out_channels],
        "image_size": list(image_size),
        "window": [conv.kernel_size[0], conv.stride[0], int(conv.padding[0])],
        "learn_positions": learn_positions,
    }


def imitate(layer: LearnedAttention, conv: nn.Conv2d, images: Tensor, epochs: int, report: Report) -> None:
    """Train attention to give the convolution's outputs on images, uint8 [N, C, H, W].

    The loss, `train/loss`, is the mean squared error relative to the mean square of the outputs.

    Raises:
        Diverged: The loss is not finite.
    """

    def losses_of(index: Tensor) -> list[Tensor]:
        inputs = to_float(images[index])
        chosen = torch.randperm(len(layer.queries), device=images.device)[:QUERIES]
        with torch.no_grad():
            outputs = conv(inputs).flatten(2)
            power = outputs.square().mean()
        return [(layer(inputs, chosen) - outputs[:, :, chosen]).square().mean() / power]

    fit(layer.train(), losses_of, ["train/loss"], images, Schedule(epochs, BATCH_SIZE, RATE), report, beta2=BETA2)
    layer.eval()
