"""One trial of a layer that learns: train it to imitate, measure it, keep pictures of where its heads look."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from models.autoencoder import Autoencoder
from models.learned_attention import LearnedAttention
from study import plots
from study.data.dataset import to_float, to_pixels
from study.engine.search import Params, Trial
from study.engine.stage import Context
from study.stages.attention.exact import first_convolution
from study.stages.attention.searches import ALL, ATTENTION, CONVOLUTION, CONVOLUTIONS, LINEAR
from study.training.attention import (
    ConvStack,
    ImitationSettings,
    Target,
    attention_of,
    conv_target,
    count_parameters,
    head_measures,
    imitate,
    linear_target,
    mirror_target,
    noise_like,
    relative_errors,
)
from study.training.loops import eval_mode

RATES = {"quadratic": 0.2, "added": 1e-2, "separate": 1e-2}  # peaks; quadratic centres are in pixels
MIRROR_RATES = {ATTENTION: 5e-2, CONVOLUTIONS: 1e-2}  # of each, the best of those tried on validation images
BATCH_SIZE, QUERIES, MIRROR_QUERIES = 64, 32, 64 * 64  # the mirror: all, of the largest images
CONTENT_BATCH_SIZE, CONTENT_QUERIES, CONTENT_SHARE = 16, 4, 8  # where each image has its own attention
TEST_IMAGES, CONTENT_TEST_IMAGES = 1000, 40
MAP_SIDE = 28  # pixels of a head's map, at most
SHOWN = 10
MAPS, OUTPUTS = "heads", "outputs"  # names of the pictures that are kept with a trial's run


class LearnedTargets:
    """What is imitated, by part; each is made when it is first needed."""

    def __init__(self, context: Context) -> None:
        self.context = context

    @cached_property
    def convolution(self) -> Target:
        conv = first_convolution(self.context.module("autoencoder", Autoencoder))
        for parameter in conv.parameters():
            parameter.requires_grad_(False)
        return conv_target(conv, self.context.dataset.image_shape[1:])

    def of(self, part: str) -> Target:
        shape = self.context.dataset.image_shape
        if part == CONVOLUTION:
            return self.convolution
        return linear_target(shape, self.context.seed_for(0)) if part == LINEAR else mirror_target(shape)


def run_learned_trial(trial: Trial, *, context: Context, targets: LearnedTargets, part: str) -> tuple[float]:
    """Train and log a layer. Returns `val/error`."""
    config, data, params = context.config, context.dataset, trial.params
    target = targets.of(part)
    torch.manual_seed(context.seed_for(params["repeat"]))
    layer = build(params, target).to(context.device)
    settings, content = settings_of(params, config.epochs), bool(params.get("content"))
    share = CONTENT_SHARE if content else 1
    trial.run.log_params({"parameters": count_parameters(layer), "learning_rate": settings.learning_rate})
    imitate(layer, target, data.train.images[: max(1, config.images // share)], settings, trial.report)
    count = CONTENT_TEST_IMAGES if content else TEST_IMAGES
    noise = noise_like(data.test.images, context.seed_for(0))
    found = {
        f"{name}/{measure}": value
        for name, images in (("val", data.val.images[:count]), ("test", data.test.images[:count]), ("noise", noise))
        for measure, value in relative_errors(layer, target, images).items()
    }
    if isinstance(layer, LearnedAttention):
        if target.offsets is not None:
            found |= {f"head/{name}": value for name, value in head_measures(layer, target, data.val.images).items()}
        maps = maps_of(attention_of(layer, data.val.images), layer.queries, data.image_shape[1:])
        trial.run.log_json(MAPS, maps.tolist())
        trial.run.log_image("samples", plots.grid(maps.numpy(), 4), step=0)
    if "learner" in params:
        with eval_mode(layer):
            made = layer(to_float(data.test.images[:SHOWN])).view(-1, *data.image_shape)
        pixels = to_pixels(made)
        trial.run.log_json(OUTPUTS, pixels.tolist())
        trial.run.log_image(OUTPUTS, plots.grid(pixels, SHOWN), step=0)
    trial.run.log(found)
    return (found["val/error"],)


def settings_of(params: Params, epochs: int) -> ImitationSettings:
    """What a trial of these parameters is trained with."""
    if "learner" in params:
        return ImitationSettings(epochs, BATCH_SIZE, MIRROR_QUERIES, MIRROR_RATES[params["learner"]])
    rate = RATES[params["encoding"]]
    if params["content"]:
        return ImitationSettings(epochs, CONTENT_BATCH_SIZE, CONTENT_QUERIES, rate)
    return ImitationSettings(epochs, BATCH_SIZE, QUERIES, rate)


def build(params: Params, target: Target) -> nn.Module:
    """The untrained layer of a trial's parameters."""
    if "learner" not in params:
        window = params.get("window", ALL)
        return LearnedAttention(
            params["encoding"],
            params["heads"],
            target.places,
            target.channels,
            content=params["content"],
            window=0 if window == ALL else int(window),
            reach=target.reach,
        )
    attention = LearnedAttention("separate", 1, target.places, target.channels, content=False, reach=target.reach)
    return attention if params["learner"] == ATTENTION else ConvStack(target.channels[0], count_parameters(attention))


def maps_of(weights: Tensor, queries: Tensor, size: Sequence[int]) -> Tensor:
    """Where each head of the query in the middle looks, uint8 [heads, side, side], white at the most attention.

    Args:
        weights: [heads, Q, K], the pixels first.
        queries: Their places [Q, 2].
        size: Height and width of the image.
    """
    height, width = size
    query = int((queries - queries.new_tensor([height // 2, width // 2])).float().norm(dim=1).argmin())
    maps = weights[:, query, : height * width].view(-1, height, width)
    top, left = (max(0, side // 2 - MAP_SIDE // 2) for side in size)
    maps = maps[:, top : top + MAP_SIDE, left : left + MAP_SIDE].cpu()
    return (255 * maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)).round().to(torch.uint8)
