"""One trial of a latent GAN, conditional or not: train, look at it as it goes, measure, keep the model."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor
from torch.nn import functional as F

from models.gan import LatentGenerator, with_labels
from study import plots
from study.engine.search import Pruned, Trial
from study.measures.fidelity import confusion
from study.measures.judges import HOPELESS_SHARE
from study.stages.gan.inputs import GanInputs
from study.stages.gan.settings import JUDGES
from study.stages.gan.watch import SETTLED, Watch
from study.training.classifier import ClassifierSettings
from study.training.gan import GanSettings, describe, generator_steps, train_gan
from study.training.loops import apply, eval_mode
from study.training.sampling import labels_like, noise, sample_count
from tracking.registry import Version

CHOICE_SEED, TEST_SEED = 1, 2  # fresh noise: to measure the epoch that was kept, and for the test
LAST_EPOCHS = 5  # of a conditional GAN, measured each, whatever `evaluate_every` says: is the end stable?


def run_gan_trial(
    trial: Trial,
    settings: GanSettings,
    *,
    inputs: GanInputs,
    epochs: int,
    evaluate_every: int,
    score: ClassifierSettings | None = None,
) -> tuple[float]:
    """Train and log a latent GAN. Returns `val/fd`, the Frechet distance to the validation images.

    Of the epochs that are evaluated, the one with the least distance is kept, and measured again on fresh noise: the
    least of several is too good by luck.

    Args:
        score: How a classifier is trained on the samples, to measure them: the GAN is conditional. None: it is not.

    Raises:
        Pruned: A WGAN of the search makes too few of the classes. A vanilla GAN goes on: whether it does is the
            question; so does a trial that others are compared with.
    """
    all_classes = len(inputs.data.classes)
    model, critic, module = inputs.build(settings, inputs.encoded, all_classes if score else 0)
    learner = copy.deepcopy(model.generator) if settings.averaging else model.generator
    watch = Watch(inputs, model, settings, all_classes if score else 0, epochs)
    best_epoch, best_distance, best_weights = 0, float("inf"), model.generator.state_dict()

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        nonlocal best_epoch, best_distance, best_weights
        if epoch % evaluate_every and epoch <= epochs - (LAST_EPOCHS if score else 1):
            trial.report(epoch, losses)
            return
        watch.show(trial, epoch)
        measures = watch.measures(model.generator)
        watch.has_collapsed(epoch, measures)
        if score and learner is not model.generator and epoch > epochs - LAST_EPOCHS:
            measures["val/fd_not_averaged"] = watch.measures(learner)["val/fd"]
        trial.report(epoch, {**losses, **measures})
        if measures["val/fd"] < best_distance:
            best_epoch, best_distance = epoch, measures["val/fd"]
            best_weights = copy.deepcopy(model.generator.state_dict())
        hopeless = measures["val/modes"] < HOPELESS_SHARE * all_classes and epoch * SETTLED >= epochs
        if trial.prunable and settings.clip_value is not None and hopeless:
            raise Pruned(f"collapsed to {measures['val/modes']:.0f} of {all_classes} classes at epoch {epoch}")

    others = {name: value for name, value in asdict(settings).items() if name not in trial.params}
    steps = generator_steps(settings, len(inputs.data.train), epochs)
    trial.run.log_params(others | {"epochs": epochs, "generator_steps": steps})
    watch.show(trial, 0)  # MLflow's step slider opens at step 0
    conditions = F.one_hot(inputs.encoded.labels, all_classes).float()[:, : watch.classes]
    latents = inputs.encoded.vectors
    train_gan(model.generator, critic, latents, conditions, settings, epochs=epochs, report=report, learner=learner)
    model.generator.load_state_dict(best_weights)

    chosen = watch.measures(model.generator, CHOICE_SEED)
    trial.run.log(chosen, step=epochs)  # of the epoch that is kept, not of the last
    what = f"{'Conditional ' if score else ''}{describe(settings)}, {epochs} epochs"
    measures: dict[str, float] = {"val/best_epoch": best_epoch, "generator/steps": steps, **watch.collapse_measures()}
    sampled, labels = watch.drawn(sample_count(len(inputs.data.test)), TEST_SEED, inputs.data.test)
    with eval_mode(model):
        images, made = apply(model, sampled), apply(model.latents, sampled)
    measures |= inputs.judges.measures(images, labels) | inputs.latent_fidelity.measures(inputs.standardised(made))
    if score:
        assert labels is not None
        measures |= _last_epochs(trial) | _label_accuracies(trial, inputs, images, labels, what)
        vectors, asked = watch.drawn(len(inputs.data.train), TEST_SEED + 1, inputs.data.train)
        assert asked is not None
        with eval_mode(model):
            many = apply(model, vectors)
        measures |= inputs.accuracy_score(many, asked, score)
    trial.run.log(measures)
    watch.log_figures(trial, what)
    trial.log_model(model, sampled[:2], {"module": module, "settings": asdict(settings)})
    return (chosen["val/fd"],)


def champions_distance(version: Version, inputs: GanInputs, classes: int) -> float | None:
    """The champion's `val/fd` by today's judges, if others measured it; None: its run's figure holds."""
    judges = {kind: inputs.context.inputs[kind].weights_digest for kind in JUDGES}
    if all(version.tags.get(f"input.{kind}.weights") == digest for kind, digest in judges.items()):
        return None
    model = version.rebuild(LatentGenerator).to(inputs.device)
    count = sample_count(len(inputs.data.val))
    vectors = noise(count, version.config()["settings"]["noise_dim"], CHOICE_SEED, inputs.device)
    if classes:
        vectors = with_labels(vectors, labels_like(inputs.data.val.labels, count), classes)
    with torch.no_grad():
        return inputs.judges.val_measures(apply(model, vectors))["val/fd"]


def class_metric(names: Sequence[str], label: int) -> str:
    """The metric of a class's label accuracy: by its name where MLflow takes it, else by its number."""
    name = names[label]
    plain = re.fullmatch(r"\w([\w. -]*\w)?", name, re.ASCII) and not re.fullmatch(r"class \d+", name)
    return f"label_accuracy/{name if plain else f'class {label}'}"


def _last_epochs(trial: Trial) -> dict[str, float]:
    """The range of the distances over the last epochs, as a share of the least, with and without averaged weights."""
    found = {}
    for metric in ("val/fd", "val/fd_not_averaged"):
        if metric in trial.history:
            last = trial.history[metric][1][-LAST_EPOCHS:]
            found[f"{metric}_last_epochs_range"] = (max(last) - min(last)) / min(last) if min(last) else float("nan")
    return found


def _label_accuracies(trial: Trial, inputs: GanInputs, images: Tensor, labels: Tensor, what: str) -> dict[str, float]:
    """Label accuracy of each class; logs the confusion matrix."""
    names = inputs.data.classes
    guesses = inputs.judges.first.probabilities(images).argmax(1)
    shares = confusion(guesses, labels, len(names)).cpu()
    title = f"What the judge takes the samples for\n{what}"
    figure = plots.confusion(shares.numpy(), names, rows="asked for", columns="taken for", title=title)
    trial.run.log_figure("confusion", figure)
    return {class_metric(names, label): float(shares[label, label]) for label in range(len(names))}
