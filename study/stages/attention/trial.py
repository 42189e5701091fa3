"""The trials of the attention stage: the exact copy of the encoder, and attention that learns a convolution."""

from __future__ import annotations

import torch
from torch import nn

from models.attention import AttentionAutoencoder, LearnedAttention
from models.autoencoder import Autoencoder
from models.classifier import Judge
from study import plots
from study.data.dataset import to_float, to_pixels
from study.engine.stage import Context
from study.engine.trial import Trial
from study.measures.attention import centre_distance, compare, noise_like, relative_error
from study.measures.latents import max_abs_pcc
from study.training.attention import imitate, imitation_of
from study.training.loops import apply, eval_mode

OBJECTIVE = "val/error"
HEADS = LEARNED, FIXED = "learned", "fixed"  # whether a trial trains where its heads look, or their values alone
TYPES = {"float32": torch.float32, "float64": torch.float64}
SHOWN, TEST_IMAGES = 10, 1000


def copy_encoder(trial: Trial, *, context: Context) -> tuple[float]:
    """Make, measure and log the autoencoder with self-attention as its encoder. Return `val/loss`."""
    data, alpha, version = context.dataset, trial.params["alpha"], context.inputs["autoencoder"]
    original, module = context.module("autoencoder", Autoencoder), version.config()["module"]
    copy = AttentionAutoencoder(original, alpha=alpha, **module).eval()
    judge = context.module("judge", Judge) if "judge" in context.inputs else None
    metrics = {"val/loss": compare(original, copy, data.val.images, dtype=torch.float32)["copy_loss"]}
    for name, dtype in TYPES.items():
        found = compare(original, copy, data.test.images, dtype=dtype, judge=judge)
        loss, copy_loss = found.pop("loss"), found.pop("copy_loss")
        metrics |= {f"test/{measure}_{name}": value for measure, value in found.items()}
        metrics[f"test/loss_change_{name}"] = abs(copy_loss - loss) / loss
        if name == "float32":
            metrics |= {"test/loss": copy_loss, "test/loss_of_original": loss}
    with eval_mode(copy):
        latents = apply(copy.encoder, data.val.images)
        samples = copy(to_float(data.val.images[:SHOWN]))
    trial.log({**metrics, "latent/max_abs_pcc": max_abs_pcc(latents)})
    pairs = torch.cat([to_float(data.val.images[:SHOWN]), samples])
    trial.log_image("samples", plots.grid(to_pixels(pairs), SHOWN), step=0)
    trial.log_model(copy, to_float(data.val.images[:2]), {"module": {**module, "alpha": alpha}, "copy_of": version.uri})
    return (metrics["val/loss"],)


def first_convolution(model: Autoencoder) -> nn.Conv2d:
    """Return the encoder's first convolution, which is not trained."""
    return next(layer for layer in model.encoder if isinstance(layer, nn.Conv2d)).requires_grad_(False)


def learn_convolution(trial: Trial, *, context: Context, conv: nn.Conv2d) -> tuple[float]:
    """Train and log attention that imitates the convolution (Cordonnier et al. 2020, section 3). Return `val/error`.

    The rival's heads stay where they begin to look; only their values are trained.
    """
    settings, data = context.settings, context.dataset
    module = imitation_of(conv, data.image_shape[1:], learn_positions=trial.params["heads"] == LEARNED)
    layer = LearnedAttention(**module).to(context.device)
    imitate(layer, conv, data.train.images[: settings.images], settings.epochs, trial.report)
    noise = noise_like(data.test.images, context.seed_for(0))
    images = {"val": data.val.images[:TEST_IMAGES], "test": data.test.images[:TEST_IMAGES], "noise": noise}
    found = {f"{name}/error": relative_error(layer, conv, part) for name, part in images.items()}
    trial.log({**found, "head/centre_distance": centre_distance(layer, conv)})
    trial.log_model(layer, to_float(data.val.images[:2]), {"module": module})
    return (found[OBJECTIVE],)
