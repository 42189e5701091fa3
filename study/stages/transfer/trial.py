"""One trial of the transfer stage: a classifier from a few labels, and the baselines on the same labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F

from models.classifier import TransferClassifier
from study.data.dataset import Dataset, Split, to_float, to_pixels
from study.harness.search import Trial
from study.science.baselines import EncodedDataset, baselines
from study.science.classifiers import ClassifierSettings, draw_labelled, jitter, train_classifier, train_head
from study.science.latents import max_abs_pcc
from study.science.loops import Report, apply, eval_mode
from study.science.self_training import train_on_spread_labels
from study.stages.transfer.config import TransferConfig
from tracking import figures

FROZEN, FINE_TUNED, SCRATCH, SEMI = MODES = ("frozen", "fine-tuned", "from scratch", "semi-supervised")
LEARNING_RATES = {FROZEN: 5e-3, FINE_TUNED: 3e-3, SCRATCH: 5e-3, SEMI: 3e-3}  # peaks of the one-cycle schedule
BATCH_SIZE, SEMI_BATCH_SIZE = 20, 256
COPIES, PASSES = 64, 10  # jittered copies of each image for the frozen encoder; passes over the images an epoch
WEAK_JITTER = 10, 1.5, 0.1  # degrees, pixels, scale: that of these copies
REFERENCE_TEST = 80  # test images of the reference
EVALUATE_EVERY = 10  # epochs
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
    settings = _settings(config, mode, len(known))
    recipe = {"epochs": settings.epochs, "hidden": config.hidden, "learning_rate": settings.learning_rate}
    recipe |= {"batch_size": settings.batch_size, "labels": len(known), "uses_unlabelled": mode != SCRATCH}
    trial.run.log_params(recipe)
    torch.manual_seed(seed)
    classifier = TransferClassifier(**module).to(data.train.images.device)
    if mode != SCRATCH:
        classifier.encoder.load_state_dict(encoded.encoder.state_dict())

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        if mode == SEMI or epoch % EVALUATE_EVERY == 0 or epoch in (1, settings.epochs):
            losses = {**losses, **_measure(classifier, data.val, "val")}
        trial.report(epoch, losses)

    found: dict[str, float] = {}
    if mode == SEMI:
        spread = encoded.graph.spread(known, data.train.labels[known], len(data.classes))
        found["train/spread_accuracy"] = float((spread.argmax(1) == data.train.labels).float().mean())
        train_on_spread_labels(classifier, data.train.images, spread, known, settings=settings, report=report)
    else:
        _train(classifier, mode, Split(data.train.images[known], data.train.labels[known]), settings, report)
    if mode == FROZEN:
        found = baselines(encoded, known)
    with eval_mode(classifier.encoder):
        found["latent/max_abs_pcc"] = max_abs_pcc(apply(classifier.encoder, data.val.images))
    found |= _measure(classifier, data.test, "test")
    reference_test = Split(data.test.images[:REFERENCE_TEST], data.test.labels[:REFERENCE_TEST])
    found["test/accuracy_of_80"] = _measure(classifier, reference_test, "of_80")["of_80/accuracy"]
    trial.run.log(found)
    _log_pictures(trial, classifier, data)
    trial.log_model(
        classifier, to_float(data.val.images[:2]), {"module": dict(module), "mode": mode, "draw": trial.params["draw"]}
    )
    return (trial.history["val/accuracy"][1][-1],)


def _settings(config: TransferConfig, mode: str, labels: int) -> ClassifierSettings:
    """What a classifier of this mode is trained with on so many labels."""
    if mode == SEMI:
        return ClassifierSettings(config.semi_epochs, SEMI_BATCH_SIZE, LEARNING_RATES[mode])
    batch_size = max(BATCH_SIZE, labels // 20)
    return ClassifierSettings(config.epochs, batch_size, LEARNING_RATES[mode], PASSES if mode == FROZEN else 1)


def _train(classifier: TransferClassifier, mode: str, few: Split, settings: ClassifierSettings, report: Report) -> None:
    """Train the classifier on a few labelled images, with its encoder frozen or not."""
    if mode == FROZEN:
        classifier.eval()
        with torch.no_grad():
            copies = [classifier.encoder(jitter(to_float(few.images), *WEAK_JITTER)) for _ in range(COPIES)]
        train_head(classifier.head, torch.stack(copies), few.labels, settings, report)
        return
    # A trained encoder keeps its BatchNorm statistics, which are those of all the training images.
    classifier.train(mode == SCRATCH)
    train_classifier(classifier, few, settings, report)


def _measure(classifier: TransferClassifier, split: Split, name: str) -> dict[str, float]:
    with eval_mode(classifier):
        logits = apply(classifier, split.images)
    return {
        f"{name}/loss": float(F.cross_entropy(logits, split.labels)),
        f"{name}/accuracy": float((logits.argmax(1) == split.labels).float().mean()),
    }


def _log_pictures(trial: Trial, classifier: TransferClassifier, data: Dataset) -> None:
    mode = trial.params["mode"]
    title = f"{mode}, draw {trial.params['draw']}, {trial.params['labels_per_class']} labels a class"
    for quantity, label in (("loss", "cross entropy"), ("accuracy", "accuracy")):
        parts = {"training": f"train/{quantity}", "validation": f"val/{quantity}"}
        series = {name: trial.history[metric] for name, metric in parts.items() if metric in trial.history}
        trial.run.log_figure(quantity, figures.curves(series, "epoch", label, f"Transfer, {title}"))
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
    trial.run.log_figure("guesses", figures.labelled_grid(pixels, rows, f"The classifier's guesses, {title}", captions))
    trial.run.log_image("guesses", figures.grid(pixels, GUESSES_IN_ROW), step=0)
