"""One trial of the transfer stage: a classifier from a few labels, and the baselines on the same labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.classifier import Judge, TransferClassifier
from study import plots
from study.config import TransferConfig
from study.data.dataset import Dataset, Split, to_float, to_pixels
from study.engine.search import Trial
from study.measures.latents import max_abs_pcc
from study.training.classifier import ClassifierSettings, draw_labelled, jitter, train_classifier, train_head
from study.training.few_labels import EncodedDataset, baselines, train_by_default
from study.training.loops import Report, apply, eval_mode
from study.training.self_training import SpreadClassifier, train_on_spread_labels

FROZEN, FINE_TUNED, SCRATCH, SEMI = MODES = ("frozen", "fine-tuned", "from scratch", "semi-supervised")
SPREADING = "label spreading"  # a baseline with trials of its own
LEARNING_RATES = {FROZEN: 5e-3, FINE_TUNED: 1e-2, SCRATCH: 1e-2, SEMI: 1e-2}  # peaks of the one-cycle schedule
SMOOTHING = 0.1  # of few labels
BATCH_SIZE, SEMI_BATCH_SIZE = 20, 256
COPIES, PASSES = 64, 10  # jittered copies of each image for the frozen encoder; passes over the images an epoch
STRONG_JITTER = partial(jitter, degrees=20, pixels=3, scale=0.2, shear=0.3)  # of fine-tuned and from scratch alike
MEDIUM_JITTER = partial(jitter, degrees=15, pixels=2, scale=0.1, shear=0.3, ratio=0.1)  # of self-training
WEAK_JITTER = partial(jitter, degrees=10, pixels=1.5, scale=0.1, shear=0.4, ratio=0.15)  # of latents, baselines too
REFERENCE_TEST = 80  # test images of the reference
EVALUATE_EVERY = 10  # epochs
CONSISTENT, PLAIN = "consistent/test_accuracy", "default_recipe/test_accuracy"
"""Metrics of a second head in a frozen trial, and of a second training in a fine-tuned one."""
GUESSES_SHOWN, GUESSES_IN_ROW = 40, 10


def run_transfer_trial(
    trial: Trial,
    *,
    config: TransferConfig,
    module: Mapping[str, Any],
    encoded: EncodedDataset,
    seed_for: Callable[[int], int],
) -> tuple[float]:
    """Train and log a classifier. Returns `val/accuracy`.

    Args:
        module: The classifier's constructor arguments.
    """
    data, mode = encoded.data, trial.params["mode"]
    seed = seed_for(trial.params["draw"])
    known = draw_labelled(data.train.labels, trial.params["labels_per_class"], seed, classes=len(data.classes))
    settings = _settings(config, mode, len(known), len(data.train))
    recipe = {"epochs": settings.epochs, "hidden": config.hidden, "learning_rate": settings.learning_rate}
    recipe |= {"batch_size": settings.batch_size, "labels": len(known), "uses_unlabelled": mode != SCRATCH}
    trial.run.log_params(recipe)
    torch.manual_seed(seed)
    classifier = _untrained(mode, module, encoded)

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        if mode == SEMI or epoch % EVALUATE_EVERY == 0 or epoch in (1, settings.epochs):
            losses = {**losses, **_measure(classifier, data.val, "val")}
        trial.report(epoch, losses)

    few = Split(data.train.images[known], data.train.labels[known])
    found = _train(classifier, mode, encoded, known, settings=settings, report=report)
    found |= _measure(classifier, data.test, "test")
    if mode == FROZEN:
        found |= baselines(encoded, known)
        found[CONSISTENT] = _consistent(_on_encoder(module, encoded), encoded, few, settings)
    if mode == FINE_TUNED:
        plain = _on_encoder(module, encoded)
        train_by_default(plain, few, epochs=settings.epochs, batch_size=settings.batch_size)
        found[PLAIN] = _measure(plain, data.test, "plain")["plain/accuracy"]
    reference_test = Split(data.test.images[:REFERENCE_TEST], data.test.labels[:REFERENCE_TEST])
    found["test/accuracy_of_80"] = _measure(classifier, reference_test, "of_80")["of_80/accuracy"]
    trial.run.log(found)
    _log_pictures(trial, classifier, data)
    trial.log_model(
        classifier, to_float(data.val.images[:2]), {"module": dict(module), "mode": mode, "draw": trial.params["draw"]}
    )
    return (trial.history["val/accuracy"][1][-1],)


def run_spreading_trial(trial: Trial, *, encoded: EncodedDataset, seed_for: Callable[[int], int]) -> tuple[float]:
    """Measure and log label spreading on the latents, which has the same help as self-training and is not trained.

    Returns `val/accuracy`.
    """
    data = encoded.data
    known = draw_labelled(
        data.train.labels, trial.params["labels_per_class"], seed_for(trial.params["draw"]), classes=len(data.classes)
    )
    spread = encoded.graph.spread(known, data.train.labels[known], len(data.classes))
    classifier = SpreadClassifier(encoded.encoder, encoded.latents[0], spread)
    found = {**_measure(classifier, data.val, "val"), **_measure(classifier, data.test, "test")}
    found["train/spread_accuracy"] = float((spread.argmax(1) == data.train.labels).float().mean())
    found["latent/max_abs_pcc"] = max_abs_pcc(encoded.latents[1])
    trial.run.log(found)
    _log_guesses(trial, classifier, data)
    return (found["val/accuracy"],)


def _settings(config: TransferConfig, mode: str, labels: int, images: int) -> ClassifierSettings:
    """What a classifier of this mode is trained with on so many labels of so many training images."""
    if mode == SEMI:
        batch_size = min(SEMI_BATCH_SIZE, max(BATCH_SIZE, images // 50))
        return ClassifierSettings(config.semi_epochs, batch_size, LEARNING_RATES[mode])
    batch_size, passes = max(BATCH_SIZE, labels // 20), PASSES if mode == FROZEN else 1
    return ClassifierSettings(config.epochs, batch_size, LEARNING_RATES[mode], passes, SMOOTHING)


def _untrained(mode: str, module: Mapping[str, Any], encoded: EncodedDataset) -> TransferClassifier | Judge:
    """A classifier on the trained encoder, or on one of its own; that of self-training is built like a judge."""
    images = encoded.data.train.images
    if mode == SEMI:
        return Judge("conv", image_shape=module["image_shape"], classes=module["classes"]).to(images.device)
    return _on_encoder(module, encoded, trained=mode != SCRATCH)


def _on_encoder(module: Mapping[str, Any], encoded: EncodedDataset, *, trained: bool = True) -> TransferClassifier:
    """An untrained head on the trained encoder, or on an untrained one."""
    classifier = TransferClassifier(**module).to(encoded.data.train.images.device)
    if trained:
        classifier.encoder.load_state_dict(encoded.encoder.state_dict())
    return classifier


def _train(
    classifier: TransferClassifier | Judge,
    mode: str,
    encoded: EncodedDataset,
    known: Tensor,
    *,
    settings: ClassifierSettings,
    report: Report,
) -> dict[str, float]:
    """Train the classifier with the labels of these training images. Returns what else was measured, by name."""
    images, labels = encoded.data.train.images, encoded.data.train.labels
    few, found = Split(images[known], labels[known]), {}
    if isinstance(classifier, Judge):
        spread = encoded.graph.spread(known, few.labels, len(encoded.data.classes))
        found["train/spread_accuracy"] = float((spread.argmax(1) == labels).float().mean())
        train_on_spread_labels(
            *(classifier, images, spread, known),
            settings=settings,
            report=report,
            augment=MEDIUM_JITTER,
            features=classifier.features,
        )
        with eval_mode(classifier):
            found["latent/max_abs_pcc"] = max_abs_pcc(apply(classifier.features, encoded.data.val.images))
        return found
    if mode == FROZEN:
        classifier.eval()
        train_head(classifier.head, encoded.copies(few.images, COPIES), few.labels, settings, report)
    else:
        train_classifier(classifier.train(), few, settings, report, augment=STRONG_JITTER)
    with eval_mode(classifier.encoder):
        found["latent/max_abs_pcc"] = max_abs_pcc(apply(classifier.encoder, encoded.data.val.images))
    return found


def _consistent(
    classifier: TransferClassifier, encoded: EncodedDataset, few: Split, settings: ClassifierSettings
) -> float:
    """Test accuracy of a head on the frozen encoder whose training uses the unlabelled images' latents too."""
    classifier.eval()
    copies, unlabelled = encoded.copies(few.images, COPIES), (encoded.latents[0], encoded.moved_latents)
    settings = replace(settings, smoothing=0.0)
    train_head(classifier.head, copies, few.labels, settings, lambda *_: None, unlabelled=unlabelled)
    return _measure(classifier, encoded.data.test, "test")["test/accuracy"]


def _measure(classifier: nn.Module, split: Split, name: str) -> dict[str, float]:
    with eval_mode(classifier):
        logits = apply(classifier, split.images)
    return {
        f"{name}/loss": float(F.cross_entropy(logits, split.labels)),
        f"{name}/accuracy": float((logits.argmax(1) == split.labels).float().mean()),
    }


def _log_pictures(trial: Trial, classifier: nn.Module, data: Dataset) -> None:
    title = _title(trial)
    for quantity, label in (("loss", "cross entropy"), ("accuracy", "accuracy")):
        parts = {"training": f"train/{quantity}", "validation": f"val/{quantity}"}
        series = {name: trial.history[metric] for name, metric in parts.items() if metric in trial.history}
        trial.run.log_figure(quantity, plots.curves(series, "epoch", label, f"Transfer, {title}"))
    _log_guesses(trial, classifier, data)


def _title(trial: Trial) -> str:
    return f"{trial.params['mode']}, draw {trial.params['draw']}, {trial.params['labels_per_class']} labels a class"


def _log_guesses(trial: Trial, classifier: nn.Module, data: Dataset) -> None:
    images, labels = data.test.images[:GUESSES_SHOWN], data.test.labels[:GUESSES_SHOWN].tolist()
    with eval_mode(classifier):
        guesses = classifier(to_float(images)).argmax(1).tolist()
    names = data.classes
    captions = [
        names[guess] if guess == label else f"{names[guess]}, not {names[label]}"
        for guess, label in zip(guesses, labels, strict=True)
    ]
    pixels = to_pixels(images)
    rows = [""] * -(-len(pixels) // GUESSES_IN_ROW)
    trial.run.log_figure(
        "guesses", plots.labelled_grid(pixels, rows, f"The classifier's guesses, {_title(trial)}", captions)
    )
    trial.run.log_image("guesses", plots.grid(pixels, GUESSES_IN_ROW), step=0)
