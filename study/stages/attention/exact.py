"""The trial that trains nothing: the encoder as self-attention, and how exact attention is on random layers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from models.attention_forms import AttentionAutoencoder, mirror
from models.autoencoder import Autoencoder
from models.classifier import Judge
from study import plots
from study.data.dataset import to_float, to_pixels
from study.engine.search import Trial
from study.engine.stage import Context
from study.measures.attention import alpha_errors, border_errors, compare, linear_errors, shared_share
from study.measures.latents import max_abs_pcc
from study.training.attention import noise_like
from study.training.loops import apply, eval_mode

FOUND = "exact"  # the name under which the lists are kept with the trial's run
ALPHAS = (1, 2, 5, 10, 15, 20, 25, 30, 35, 40, 46)
TYPES = {"float32": torch.float32, "float64": torch.float64}
SHOWN = 10
MIRRORED = 100  # images
Found = dict[str, Any]


def run_exact_trial(trial: Trial, *, context: Context) -> tuple[float]:
    """Make, measure and log the copy of the autoencoder. Returns `val/loss`."""
    data, alpha = context.dataset, trial.params["alpha"]
    original, module = context.module("autoencoder", Autoencoder), context.inputs["autoencoder"].config()["module"]
    copy = AttentionAutoencoder.copy_of(original, alpha, **module)
    judge = context.module("judge", Judge) if "judge" in context.inputs else None
    compared = {
        name: asdict(compare(original, copy, data.test.images, dtype=dtype, judge=judge))
        for name, dtype in TYPES.items()
    }
    loss = compare(original, copy, data.val.images, dtype=torch.float32).copy_loss
    found: Found = {"compared": compared, "judged": judge is not None, **_layers(context, original)}
    trial.run.log_json(FOUND, found)
    with eval_mode(copy):
        latents = apply(copy.encoder, data.val.images)
        samples = copy(to_float(data.val.images[:SHOWN]))
    metrics = {"val/loss": loss, "latent/max_abs_pcc": max_abs_pcc(latents)}
    metrics["test/loss"] = compared["float32"]["copy_loss"]
    for name, values in compared.items():
        metrics[f"test/difference_{name}"] = max(values["differences"])
        if judge is not None:
            metrics[f"test/decisions_{name}"] = values["decisions"]
    trial.run.log(metrics)
    pairs = torch.cat([to_float(data.val.images[:SHOWN]), samples])
    trial.run.log_image("samples", plots.grid(to_pixels(pairs), SHOWN), step=0)
    config = {"module": {**module, "alpha": alpha}, "copy_of": context.inputs["autoencoder"].uri}
    trial.log_model(copy, to_float(data.val.images[:2]), config)
    return (loss,)


def _layers(context: Context, original: Autoencoder) -> Found:
    """Errors of single layers as attention: random ones, and the encoder's own."""
    draws, seed, data = context.config.draws, context.seed_for(0), context.dataset
    first = first_convolution(original)
    noises = [noise_like(data.test.images, seed + draw) for draw in range(draws)]
    with torch.no_grad():
        mirrored = mirror(data.image_shape).to(context.device)
        images = [to_float(part) for part in data.test.images[:MIRRORED].chunk(draws)]
        mirror_errors = [float((mirrored(part) - part.flip(3)).abs().max()) for part in images]
    return {
        "alphas": list(ALPHAS),
        "alpha_errors": {name: alpha_errors(ALPHAS, dtype, seed) for name, dtype in TYPES.items()},
        "borders": [asdict(border_errors(first, noise)) for noise in noises],
        "linear": asdict(linear_errors(draws, seed)),
        "shared": shared_of(original.encoder),
        "mirror": mirror_errors,
    }


def first_convolution(model: Autoencoder) -> nn.Conv2d:
    return next(layer for layer in model.encoder if isinstance(layer, nn.Conv2d))


@torch.no_grad()
def shared_of(encoder: nn.Sequential) -> dict[str, float]:
    """Of each FC layer, what share of its squared weights a 1x1 convolution with a sum holds, by the layer's shape.

    The layer's input is one channel, as the reference has it. A convolution as large as its input counts as FC.
    """
    layers = [layer for layer in encoder if isinstance(layer, (nn.Linear, nn.Conv2d))]
    full = [layer for layer in layers if isinstance(layer, nn.Linear) or layer.stride == (1, 1)]
    weights = [layer.weight.flatten(1) for layer in full]
    return {f"{weight.shape[1]} -> {len(weight)}": shared_share(weight[:, None]) for weight in weights}
