"""One trial of a latent GAN, conditional or not: train, look at it as it goes, measure, keep the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.autoencoder import Autoencoder
from models.gan import CLASSES, Critic, LatentGenerator
from study import metrics
from study.data import to_pixels
from study.sampling import SAMPLES, VALIDATION_SAMPLES, Examiner, balanced_labels, generator_inputs
from study.search import Trial
from study.stage import Context, Study
from study.training import GanSettings, apply, eval_mode, train_gan
from tracking import figures
from tracking.registry import Version

NOISE_SEED = 0  # the same noise at each evaluation of each trial, so that pictures can be compared
SHOWN = 10  # rows and columns of the sample sheets


@dataclass(frozen=True)
class LatentData:
    """The training latents, encoded once a study, and the frozen autoencoder that they come from."""

    autoencoder: Autoencoder
    module: Mapping[str, Any]  # the autoencoder's constructor arguments
    standardised: Tensor  # [N, latent_dim]
    mean: Tensor  # [latent_dim]
    std: Tensor  # [latent_dim]
    labels: Tensor  # [N]

    @classmethod
    def encode(cls, context: Context, autoencoder: Autoencoder, module: Mapping[str, Any]) -> LatentData:
        with eval_mode(autoencoder):
            latents = apply(autoencoder.encoder, context.dataset.train.images)
        mean, std = latents.mean(0), latents.std(0)
        return cls(autoencoder, module, (latents - mean) / std, mean, std, context.dataset.train.labels)


def run_gan_trial(
    trial: Trial,
    study: Study,
    data: LatentData,
    examiner: Examiner,
    settings: GanSettings,
    epochs: int,
    evaluate_every: int,
    conditional: bool,
) -> float:
    """Train and log a latent GAN. Returns `val/fd`, the Frechet distance to the validation images."""
    device = study.context.device
    latent_dim = data.standardised.shape[1]
    condition_dim = CLASSES if conditional else 0
    conditions = F.one_hot(data.labels, CLASSES).float()[:, :condition_dim]
    module: dict[str, Any] = {
        "input_dim": settings.noise_dim + condition_dim,
        "latent_dim": latent_dim,
        "width": settings.width,
        "architecture": data.module["architecture"],
    }
    model = LatentGenerator(**module).to(device)
    model.decoder.load_state_dict(data.autoencoder.decoder.state_dict())
    model.mean.copy_(data.mean)
    model.std.copy_(data.std)
    critic = Critic(latent_dim + condition_dim, settings.width).to(device)

    shown = generator_inputs(SHOWN * SHOWN, settings.noise_dim, conditional, NOISE_SEED, device)
    if conditional:  # a row a digit, the same ten noises in each
        shown = shown[:SHOWN].repeat(SHOWN, 1)
        shown[:, settings.noise_dim :] = torch.eye(CLASSES, device=device).repeat_interleave(SHOWN, 0)
    val_inputs = generator_inputs(VALIDATION_SAMPLES, settings.noise_dim, conditional, NOISE_SEED, device)

    def show(epoch: int) -> None:
        with eval_mode(model):
            trial.run.log_image("samples", figures.grid(to_pixels(model(shown)), SHOWN), step=epoch)

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        if epoch % evaluate_every and epoch != epochs:
            trial.report(epoch, losses)
            return
        show(epoch)
        with eval_mode(model):
            latents = model.latents(val_inputs)
            images = apply(model.decoder, latents)
        measures = {"val/fd": examiner.val_distance(images), "latent/max_abs_pcc": metrics.max_abs_pcc(latents)}
        trial.report(epoch, {**losses, **measures})

    others = {name: value for name, value in asdict(settings).items() if name not in trial.params}
    trial.run.log_params(others | {"epochs": epochs})
    show(0)  # MLflow's step slider opens at step 0
    train_gan(model.generator, critic, data.standardised, conditions, settings, epochs, report)

    inputs = generator_inputs(SAMPLES, settings.noise_dim, conditional, NOISE_SEED + 1, device)
    with eval_mode(model):
        images = apply(model, inputs)
        sheet_images = to_pixels(model(shown))
    measures = examiner.measures(images, balanced_labels(SAMPLES, device) if conditional else None)
    trial.run.log(measures, step=epochs)
    what = _describe(settings, epochs, conditional)
    losses = {name: trial.history[name] for name in ("critic/loss", "generator/loss") if name in trial.history}
    trial.run.log_figure("loss", figures.curves(losses, "epoch", "loss", what))
    distances = {"validation images": trial.history["val/fd"]}
    trial.run.log_figure("fd", figures.curves(distances, "epoch", "Frechet distance", what, log_y=True, markers=True))
    rows = [str(digit) for digit in range(CLASSES)] if conditional else [""] * SHOWN
    trial.run.log_figure("samples", figures.labelled_grid(sheet_images, rows, what))
    study.log_model(model, inputs[:2], {"module": module, "settings": asdict(settings)})
    return trial.history["val/fd"][1][-1]


def sitting_distance(
    context: Context, kind: str, judge: Version, examiner: Examiner, *, conditional: bool
) -> float | None:
    """The sitting champion's `val/fd` by today's judge, if another judge measured it; None: its run's figure holds."""
    sitting = context.champion(kind)
    if sitting is None or sitting.tags.get("input.judge") == judge.uri:
        return None
    model = sitting.load().to(context.device)
    noise_dim = sitting.config()["settings"]["noise_dim"]
    inputs = generator_inputs(VALIDATION_SAMPLES, noise_dim, conditional, NOISE_SEED, context.device)
    with torch.no_grad():
        return examiner.val_distance(apply(model, inputs))


def _describe(settings: GanSettings, epochs: int, conditional: bool) -> str:
    kind = "vanilla GAN" if settings.clip_value is None else "WGAN"
    clip = "" if settings.clip_value is None else f", clip {settings.clip_value:.3g}"
    return (
        f"{'Conditional ' if conditional else ''}{kind}, {epochs} epochs: batch {settings.batch_size}, "
        f"lr {settings.learning_rate:.2g}{clip}, n_critic {settings.n_critic}"
        f"{', averaged' if settings.averaging else ''}"
    )
