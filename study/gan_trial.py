"""One trial of a latent GAN, conditional or not: train, look at it as it goes, measure, keep the model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import CLASSES, Critic, LatentGenerator, with_labels
from study import metrics
from study.data import Split, to_pixels
from study.sampling import (
    SAMPLES,
    VALIDATION_SAMPLES,
    Examiner,
    Panel,
    balanced_labels,
    generator_inputs,
    noise,
)
from study.search import Pruned, Trial
from study.stage import Context, Study
from study.training import GanSettings, accuracy, apply, eval_mode, train_gan, train_judge
from tracking import figures
from tracking.registry import Version

NOISE_SEED = 0  # the same noise at each evaluation of each trial, so that pictures can be compared
SHOWN = 10  # rows and columns of the sample sheets
LAST_EPOCHS = 5  # of a conditional GAN, measured each, whatever `evaluate_every` says: is the end stable?
COLLAPSED_MODES = 5  # a WGAN that makes fewer digits after a quarter of its epochs is given up
CAS_EPOCHS = 3


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
    panel: Panel,
    settings: GanSettings,
    epochs: int,
    evaluate_every: int,
    conditional: bool,
) -> float:
    """Train and log a latent GAN. Returns `val/fd`, the Frechet distance to the validation images.

    Of the epochs that are evaluated, the one with the least distance is kept: late in training, a critic that has
    little left to find lets the generator drift.

    Raises:
        Pruned: A WGAN has collapsed to a few digits. A vanilla GAN goes on: whether it does is the question.
    """
    device = study.context.device
    latent_dim = data.standardised.shape[1]
    condition_dim = CLASSES if conditional else 0
    conditions = F.one_hot(data.labels, CLASSES).float()[:, :condition_dim]
    module: dict[str, Any] = {
        "input_dim": settings.noise_dim + condition_dim,
        "latent_dim": latent_dim,
        "width": settings.width,
        "architecture": data.module["architecture"],
        "depth": settings.depth,
    }
    model = LatentGenerator(**module).to(device)
    model.decoder.load_state_dict(data.autoencoder.decoder.state_dict())
    model.mean.copy_(data.mean)
    model.std.copy_(data.std)
    critic = Critic(latent_dim + condition_dim, settings.width).to(device)

    shown = shown_inputs(settings.noise_dim, conditional, device)
    val_inputs = generator_inputs(VALIDATION_SAMPLES, settings.noise_dim, conditional, NOISE_SEED, device)
    over_training: dict[int, np.ndarray] = {}
    best_epoch, best_distance, best_weights = 0, float("inf"), model.generator.state_dict()

    def show(epoch: int) -> None:
        with eval_mode(model):
            images = to_pixels(model(shown))
        trial.run.log_image("samples", figures.grid(images, SHOWN), step=epoch)
        over_training[epoch] = images[:: SHOWN + 1] if conditional else images[:SHOWN]  # of each digit another noise

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        nonlocal best_epoch, best_distance, best_weights
        if epoch % evaluate_every and epoch <= epochs - (LAST_EPOCHS if conditional else 1):
            trial.report(epoch, losses)
            return
        show(epoch)
        with eval_mode(model):
            latents = model.latents(val_inputs)
            images = apply(model.decoder, latents)
        measures = panel.val_measures(images) | {"latent/max_abs_pcc": metrics.max_abs_pcc(latents)}
        trial.report(epoch, {**losses, **measures})
        if measures["val/fd"] < best_distance:
            best_epoch, best_distance = epoch, measures["val/fd"]
            best_weights = copy.deepcopy(model.generator.state_dict())
        if settings.clip_value is not None and epoch >= epochs / 4 and measures["val/modes"] < COLLAPSED_MODES:
            raise Pruned(f"collapsed to {measures['val/modes']:.0f} digits at epoch {epoch}")

    others = {name: value for name, value in asdict(settings).items() if name not in trial.params}
    trial.run.log_params(others | {"epochs": epochs})
    show(0)  # MLflow's step slider opens at step 0
    train_gan(model.generator, critic, data.standardised, conditions, settings, epochs, report)
    model.generator.load_state_dict(best_weights)

    inputs = generator_inputs(SAMPLES, settings.noise_dim, conditional, NOISE_SEED + 1, device)
    with eval_mode(model):
        images = apply(model, inputs)
        sheet_images = to_pixels(model(shown))
    trial.run.log({"val/fd": best_distance}, step=epochs)  # of the epoch that is kept, not of the last
    measures: dict[str, float] = {"val/best_epoch": best_epoch}
    what = _describe(settings, epochs, conditional)
    if conditional:
        last = trial.history["val/fd"][1][-LAST_EPOCHS:]
        measures["val/fd_last_epochs_range"] = (max(last) - min(last)) / min(last)
        labels = balanced_labels(SAMPLES, device)
        measures |= panel.measures(images, labels) | _obedience(trial, panel, images, labels, what)
        measures["sample/classification_accuracy_score"] = classification_accuracy_score(study.context, model, settings)
    else:
        measures |= panel.measures(images)
    trial.run.log(measures)
    losses = {name: trial.history[name] for name in ("critic/loss", "generator/loss") if name in trial.history}
    trial.run.log_figure("loss", figures.curves(losses, "epoch", "loss", what))
    distances = {"validation images": trial.history["val/fd"]}
    trial.run.log_figure("fd", figures.curves(distances, "epoch", "Frechet distance", what, log_y=True, markers=True))
    rows = [str(digit) for digit in range(CLASSES)] if conditional else [""] * SHOWN
    trial.run.log_figure("samples", figures.labelled_grid(sheet_images, rows, what))
    epochs_shown = [f"epoch {epoch}" for epoch in over_training]
    sheet = np.concatenate(list(over_training.values()))
    trial.run.log_figure("samples_over_training", figures.labelled_grid(sheet, epochs_shown, what))
    study.log_model(model, inputs[:2], {"module": module, "settings": asdict(settings)})
    return best_distance


def shown_inputs(noise_dim: int, conditional: bool, device: torch.device) -> Tensor:
    """The inputs [100, noise_dim (+ 10)] of every trial's sample sheet; conditional: a row a digit, ten noises."""
    vectors = noise(SHOWN * SHOWN, noise_dim, NOISE_SEED, device)
    if not conditional:
        return vectors
    digits = torch.arange(CLASSES, device=device).repeat_interleave(SHOWN)
    return with_labels(vectors[:SHOWN].repeat(CLASSES, 1), digits)


def _obedience(trial: Trial, panel: Panel, images: Tensor, labels: Tensor, what: str) -> dict[str, float]:
    """Label accuracy a digit; logs the confusion matrix."""
    guesses = panel.probabilities(images).argmax(1)
    shares = metrics.confusion(guesses, labels).cpu()
    digits = [str(digit) for digit in range(CLASSES)]
    title = f"What the judge takes the samples for\n{what}"
    trial.run.log_figure("confusion", figures.confusion(shares.numpy(), digits, "told", "taken for", title))
    found = {f"label_accuracy/{digit}": float(shares[digit, digit]) for digit in range(CLASSES)}
    return found | {"sample/label_accuracy_worst": min(found.values())}


def classification_accuracy_score(context: Context, model: LatentGenerator, settings: GanSettings) -> float:
    """Accuracy on the real test images of a classifier that has seen generated images only.

    Ravuri & Vinyals 2019, https://arxiv.org/abs/1905.10887. As many images as there are for training, up to 50,000.
    """
    count = min(50_000, len(context.dataset.train))
    inputs = generator_inputs(count, settings.noise_dim, True, NOISE_SEED + 2, context.device)
    with eval_mode(model):
        images = (apply(model, inputs) * 255).round().to(torch.uint8)
    classifier = Judge().to(context.device)
    generated = Split(images, balanced_labels(count, context.device))
    config = context.config.judge
    batch_size = min(config.batch_size, count)
    train_judge(
        classifier, generated, context.dataset.val, CAS_EPOCHS, batch_size, config.learning_rate, lambda *_: None
    )
    return accuracy(classifier, context.dataset.test)


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
        return examiner.val_measures(apply(model, inputs))["val/fd"]


def _describe(settings: GanSettings, epochs: int, conditional: bool) -> str:
    kind = "vanilla GAN" if settings.clip_value is None else "WGAN"
    clip = "" if settings.clip_value is None else f", clip {settings.clip_value:.3g}"
    return (
        f"{'Conditional ' if conditional else ''}{kind}, {epochs} epochs: batch {settings.batch_size}, "
        f"lr {settings.learning_rate:.2g}{clip}, n_critic {settings.n_critic}, width {settings.width}, "
        f"depth {settings.depth}, noise {settings.noise_dim}{', averaged' if settings.averaging else ''}"
    )
