"""One trial of a latent GAN, conditional or not: train, look at it as it goes, measure, keep the model."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import Critic, LatentGenerator, with_labels
from study.data.dataset import Dataset, Split, to_pixels
from study.harness.search import Pruned, Trial
from study.harness.stage import Context
from study.science.classifiers import ClassifierSettings, classification_accuracy_score
from study.science.fidelity import confusion
from study.science.gans import GanSettings, describe, train_gan
from study.science.judges import HOPELESS_SHARE, RealFeatures, TwoJudges
from study.science.latents import EncodedImages, max_abs_pcc
from study.science.loops import apply, eval_mode
from study.science.sampling import SAMPLES, VALIDATION_SAMPLES, balanced_labels, generator_inputs, noise
from study.stages.gan.config import ConditionalGanConfig, LatentGanConfig
from tracking import figures
from tracking.registry import Version

JUDGES = ("judge", "second-judge")  # the kinds of model that measure
NOISE_SEED = 0  # the same noise at each evaluation of each trial, so that pictures can be compared
SAMPLES_IN_ROW = 10  # samples in a row of the sheets, and rows of those without labels
SHOWN_CLASSES = 20  # rows of the sheets with labels
LAST_EPOCHS = 5  # of a conditional GAN, measured each, whatever `evaluate_every` says: is the end stable?
SCORE_SAMPLES = 50_000  # generated images that a classifier is trained on, at most


@dataclass(frozen=True)
class GanInputs:
    """What every training of a stage is made with; each part is loaded or computed when it is first needed."""

    context: Context

    @property
    def data(self) -> Dataset:
        return self.context.dataset

    @property
    def device(self) -> torch.device:
        return self.context.device

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The frozen autoencoder."""
        return self.context.module("autoencoder", Autoencoder)

    @cached_property
    def architecture(self) -> str:
        return self.context.inputs["autoencoder"].config()["module"]["architecture"]

    @cached_property
    def encoded(self) -> EncodedImages:
        """The latents of the training images."""
        return EncodedImages.encode(self.autoencoder, self.data.train)

    @cached_property
    def judges(self) -> TwoJudges:
        """Both judges; their features of the real images are kept in the store."""

        def real(kind: str, judge: Judge) -> Callable[[], RealFeatures]:
            return lambda: RealFeatures.from_arrays(
                self.context.kept_arrays(kind, lambda: RealFeatures.of(judge, self.data).to_arrays()), self.device
            )

        first, second = (self.context.module(kind, Judge) for kind in JUDGES)
        real_features = [real(kind, judge) for kind, judge in zip(JUDGES, (first, second), strict=True)]
        return TwoJudges(first, second, self.data, real=real_features)

    def build(self, settings: GanSettings, classes: int) -> tuple[LatentGenerator, Critic, dict[str, object]]:
        """An untrained generator and critic, and the generator's constructor arguments; classes 0: no labels."""
        latent_dim = self.encoded.standardised.shape[1]
        module: dict[str, object] = {
            "input_dim": settings.noise_dim + classes,
            "latent_dim": latent_dim,
            "architecture": self.architecture,
            "image_shape": list(self.data.image_shape),
            "width": settings.width,
            "depth": settings.depth,
        }
        model = LatentGenerator(**module).to(self.device)  # type: ignore[arg-type]
        model.decoder.load_state_dict(self.autoencoder.decoder.state_dict())
        model.mean.copy_(self.encoded.mean)
        model.std.copy_(self.encoded.std)
        return model, Critic(latent_dim + classes, settings.width).to(self.device), module


def run_gan_trial(
    trial: Trial,
    settings: GanSettings,
    *,
    inputs: GanInputs,
    config: LatentGanConfig | ConditionalGanConfig,
    score: ClassifierSettings | None = None,
) -> tuple[float]:
    """Train and log a latent GAN. Returns `val/fd`, the Frechet distance to the validation images.

    Of the epochs that are evaluated, the one with the least distance is kept: late in training, a critic that has
    little left to find lets the generator drift.

    Args:
        score: How a classifier is trained on the samples, to measure them: the GAN is conditional. None: it is not.

    Raises:
        Pruned: A WGAN of the search makes too few of the classes. A vanilla GAN goes on: whether it does is the
            question; so does a trial that others are compared with.
    """
    device, judges = inputs.device, inputs.judges
    all_classes = len(inputs.data.classes)
    classes = all_classes if score else 0
    model, critic, module = inputs.build(settings, classes)
    conditions = F.one_hot(inputs.encoded.labels, all_classes).float()[:, :classes]
    shown = shown_inputs(settings.noise_dim, classes, device)
    val_inputs = generator_inputs(VALIDATION_SAMPLES, settings.noise_dim, NOISE_SEED, device, classes=classes)
    over_training: dict[int, np.ndarray] = {}
    best_epoch, best_distance, best_weights = 0, float("inf"), model.generator.state_dict()

    def show(epoch: int) -> None:
        with eval_mode(model):
            images = to_pixels(model(shown))
        trial.run.log_image("samples", figures.grid(images, SAMPLES_IN_ROW), step=epoch)
        diagonal = [
            row * SAMPLES_IN_ROW + row % SAMPLES_IN_ROW for row in range(len(images) // SAMPLES_IN_ROW)
        ]  # of each class another noise
        over_training[epoch] = images[diagonal] if score else images[:SAMPLES_IN_ROW]

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        nonlocal best_epoch, best_distance, best_weights
        if epoch % config.evaluate_every and epoch <= config.epochs - (LAST_EPOCHS if score else 1):
            trial.report(epoch, losses)
            return
        show(epoch)
        with eval_mode(model):
            latents = model.latents(val_inputs)
            images = apply(model.decoder, latents)
        measures = judges.val_measures(images) | {"latent/max_abs_pcc": max_abs_pcc(latents)}
        trial.report(epoch, {**losses, **measures})
        if measures["val/fd"] < best_distance:
            best_epoch, best_distance = epoch, measures["val/fd"]
            best_weights = copy.deepcopy(model.generator.state_dict())
        hopeless = measures["val/modes"] < HOPELESS_SHARE * all_classes and epoch >= config.epochs / 4
        if trial.prunable and settings.clip_value is not None and hopeless:
            raise Pruned(f"collapsed to {measures['val/modes']:.0f} of {all_classes} classes at epoch {epoch}")

    others = {name: value for name, value in asdict(settings).items() if name not in trial.params}
    trial.run.log_params(others | {"epochs": config.epochs})
    show(0)  # MLflow's step slider opens at step 0
    train_gan(
        model.generator,
        critic,
        inputs.encoded.standardised,
        conditions,
        settings,
        epochs=config.epochs,
        report=report,
    )
    model.generator.load_state_dict(best_weights)

    sampled = generator_inputs(SAMPLES, settings.noise_dim, NOISE_SEED + 1, device, classes=classes)
    with eval_mode(model):
        images = apply(model, sampled)
    trial.run.log({"val/fd": best_distance}, step=config.epochs)  # of the epoch that is kept, not of the last
    what = f"{'Conditional ' if score else ''}{describe(settings)}, {config.epochs} epochs"
    measures: dict[str, float] = {"val/best_epoch": best_epoch}
    if score:
        labels = balanced_labels(SAMPLES, classes, device)
        measures |= _last_epochs(trial) | judges.measures(images, labels)
        measures |= _label_accuracies(trial, inputs, images, labels, what)
        measures["sample/classification_accuracy_score"] = _accuracy_score(inputs, model, settings, score)
    else:
        measures |= judges.measures(images)
    trial.run.log(measures)
    with eval_mode(model):
        sheet = to_pixels(model(shown))
    _log_figures(trial, what, sheet, over_training, inputs.data.classes if score else ())
    trial.log_model(model, sampled[:2], {"module": module, "settings": asdict(settings)})
    return (best_distance,)


def shown_inputs(noise_dim: int, classes: int, device: torch.device) -> Tensor:
    """The inputs [M, noise_dim (+ classes)] of every trial's sample sheet; with labels: a row a class, ten noises."""
    vectors = noise(SAMPLES_IN_ROW * SAMPLES_IN_ROW, noise_dim, NOISE_SEED, device)
    if not classes:
        return vectors
    rows = min(classes, SHOWN_CLASSES)
    labels = torch.arange(rows, device=device).repeat_interleave(SAMPLES_IN_ROW)
    return with_labels(vectors[:SAMPLES_IN_ROW].repeat(rows, 1), labels, classes)


def champions_distance(version: Version, inputs: GanInputs, judge: Version, classes: int) -> float | None:
    """The champion's `val/fd` by today's judge, if another judge measured it; None: its run's figure holds."""
    if version.tags.get(f"input.{JUDGES[0]}.weights") == judge.weights_digest:
        return None
    model = version.load().to(inputs.device)
    noise_dim = version.config()["settings"]["noise_dim"]
    vectors = generator_inputs(VALIDATION_SAMPLES, noise_dim, NOISE_SEED, inputs.device, classes=classes)
    with torch.no_grad():
        return inputs.judges.val_measures(apply(model, vectors))["val/fd"]


def class_metric(names: Sequence[str], label: int) -> str:
    """The metric of a class's label accuracy: by its name where MLflow takes it, else by its number."""
    name = names[label]
    plain = re.fullmatch(r"\w([\w. -]*\w)?", name, re.ASCII) and not re.fullmatch(r"class \d+", name)
    return f"label_accuracy/{name if plain else f'class {label}'}"


def _last_epochs(trial: Trial) -> dict[str, float]:
    last = trial.history["val/fd"][1][-LAST_EPOCHS:]
    return {"val/fd_last_epochs_range": (max(last) - min(last)) / min(last)}


def _label_accuracies(trial: Trial, inputs: GanInputs, images: Tensor, labels: Tensor, what: str) -> dict[str, float]:
    """Label accuracy of each class; logs the confusion matrix."""
    names = inputs.data.classes
    guesses = inputs.judges.probabilities(images).argmax(1)
    shares = confusion(guesses, labels, len(names)).cpu()
    title = f"What the judge takes the samples for\n{what}"
    figure = figures.confusion(shares.numpy(), names, rows="asked for", columns="taken for", title=title)
    trial.run.log_figure("confusion", figure)
    found = {class_metric(names, label): float(shares[label, label]) for label in range(len(names))}
    return found | {"sample/label_accuracy_worst": min(found.values())}


def _accuracy_score(
    inputs: GanInputs, model: LatentGenerator, settings: GanSettings, score: ClassifierSettings
) -> float:
    """Accuracy on real test images of a classifier of generated ones, as many as there are for training at most."""
    data, classes = inputs.data, len(inputs.data.classes)
    count = min(SCORE_SAMPLES, len(data.train))
    vectors = generator_inputs(count, settings.noise_dim, NOISE_SEED + 2, inputs.device, classes=classes)
    with eval_mode(model):
        images = (apply(model, vectors) * 255).round().to(torch.uint8)
    generated = Split(images, balanced_labels(count, classes, inputs.device))
    classifier = Judge("conv", image_shape=data.image_shape, classes=classes).to(inputs.device)
    return classification_accuracy_score(generated, classifier, score, data.val, data.test)


def _log_figures(
    trial: Trial,
    what: str,
    sheet: np.ndarray,
    over_training: Mapping[int, np.ndarray],
    classes: Sequence[str],
) -> None:
    """Losses, distance, and samples: at the end, and as training went on."""
    losses = {name: trial.history[name] for name in ("critic/loss", "generator/loss") if name in trial.history}
    trial.run.log_figure("loss", figures.curves(losses, "epoch", "loss", what))
    distances = {"validation images": trial.history["val/fd"]}
    trial.run.log_figure("fd", figures.curves(distances, "epoch", "Frechet distance", what, log_y=True, markers=True))
    rows = list(classes[:SHOWN_CLASSES]) if classes else [""] * SAMPLES_IN_ROW
    title = f"{what}; the first {SHOWN_CLASSES} of {len(classes)} classes" if len(classes) > SHOWN_CLASSES else what
    trial.run.log_figure("samples", figures.labelled_grid(sheet, rows, title))
    epochs = [f"epoch {epoch}" for epoch in over_training]
    images = np.concatenate(list(over_training.values()))
    trial.run.log_figure("samples_over_training", figures.labelled_grid(images, epochs, what))
