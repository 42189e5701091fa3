"""One trial of the transfer stage: a classifier from a few labels, and the baselines on the same labels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.classifier import Judge, TransferClassifier
from study import plots
from study.config import TransferConfig
from study.data.dataset import Dataset, Split, to_float, to_pixels
from study.engine.stage import Context
from study.engine.trial import Trial
from study.measures.latents import max_abs_pcc
from study.training.classifier import ClassifierSettings, draw_labelled, jitter, train_classifier, train_head
from study.training.few_labels import (
    EncodedDataset,
    SpreadClassifier,
    baselines,
    spread_labels,
    train_on_spread_labels,
)
from study.training.loops import Report, apply, eval_mode

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
GUESSES_SHOWN, GUESSES_IN_ROW = 40, 10
SPREAD_ACCURACY, REFERENCE_ACCURACY = "train/spread_accuracy", "test/accuracy_of_80"


def train(trial: Trial, *, context: Context, encoded: EncodedDataset) -> tuple[float]:
    """Train and log a classifier. Return `val/accuracy`."""
    data, mode = context.dataset, trial.params["mode"]
    known, few, seed = _labelled(trial, context)
    settings = _settings(context.settings, mode, len(known), len(data.train))
    trial.log_params({**vars(settings), "labels": len(known), "uses_unlabelled": mode != SCRATCH})
    torch.manual_seed(seed)
    module = {**context.inputs["autoencoder"].config()["module"], "classes": len(data.classes)}
    classifier: TransferClassifier | Judge
    if mode == SEMI:
        classifier = Judge("conv", image_shape=module["image_shape"], classes=module["classes"])
    else:
        classifier = TransferClassifier(**module)
        if mode != SCRATCH:
            classifier.encoder.load_state_dict(encoded.encoder.state_dict())
    classifier.to(context.device)

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        if mode == SEMI or epoch % EVALUATE_EVERY == 0 or epoch in (1, settings.epochs):
            losses = {**losses, **_measure(classifier, data.val, "val")}
        trial.report(epoch, losses)

    if isinstance(classifier, Judge):
        found = _self_train(classifier, encoded, known, settings, report)
        features: nn.Module = classifier.features
    else:
        found, features = {}, classifier.encoder
        if mode == FROZEN:
            train_head(classifier.eval().head, encoded.copies(few.images, COPIES), few.labels, settings, report)
        else:
            train_classifier(classifier.train(), few, settings, report, augment=STRONG_JITTER)
    with eval_mode(features):
        found["latent/max_abs_pcc"] = max_abs_pcc(apply(features, data.val.images))
    found |= _measure(classifier, data.test, "test")
    if mode == FROZEN:
        found |= baselines(encoded, known)
    reference = Split(data.test.images[:REFERENCE_TEST], data.test.labels[:REFERENCE_TEST])
    found[REFERENCE_ACCURACY] = _measure(classifier, reference, "of_80")["of_80/accuracy"]
    trial.log(found)
    _log_curves(trial)
    _log_guesses(trial, classifier, data)
    config = {"module": module, "mode": mode, "draw": trial.params["draw"]}
    trial.log_model(classifier, to_float(data.val.images[:2]), config)
    return (trial.history["val/accuracy"][1][-1],)


def spread(trial: Trial, *, context: Context, encoded: EncodedDataset) -> tuple[float]:
    """Measure and log label spreading on the latents: a baseline without training, with self-training's help.

    Return `val/accuracy`.
    """
    data = context.dataset
    known, few, _ = _labelled(trial, context)
    probabilities = spread_labels(encoded.graph, known, few.labels, len(data.classes))
    classifier = SpreadClassifier(encoded.encoder, encoded.latents[0], probabilities)
    found = {**_measure(classifier, data.val, "val"), **_measure(classifier, data.test, "test")}
    found[SPREAD_ACCURACY] = float((probabilities.argmax(1) == data.train.labels).float().mean())
    found["latent/max_abs_pcc"] = max_abs_pcc(encoded.latents[1])
    trial.log(found)
    _log_guesses(trial, classifier, data)
    return (found["val/accuracy"],)


def _labelled(trial: Trial, context: Context) -> tuple[Tensor, Split, int]:
    """Return the indices of the draw's labelled training images, these images, and the draw's seed."""
    train, seed = context.dataset.train, context.seed_for(trial.params["draw"])
    known = draw_labelled(train.labels, trial.params["labels_per_class"], seed, classes=len(context.dataset.classes))
    return known, train.take(known), seed


def _settings(config: TransferConfig, mode: str, labels: int, images: int) -> ClassifierSettings:
    """Return what a classifier of this mode is trained with on so many labels of so many training images."""
    if mode == SEMI:
        batch_size = min(SEMI_BATCH_SIZE, max(BATCH_SIZE, images // 50))
        return ClassifierSettings(config.semi_epochs, batch_size, LEARNING_RATES[mode])
    batch_size, passes = max(BATCH_SIZE, labels // 20), PASSES if mode == FROZEN else 1
    return ClassifierSettings(config.epochs, batch_size, LEARNING_RATES[mode], passes, SMOOTHING)


def _self_train(
    classifier: Judge, encoded: EncodedDataset, known: Tensor, settings: ClassifierSettings, report: Report
) -> dict[str, float]:
    """Train on labels that are spread from these training images. Return how many of them are right."""
    images, labels = encoded.data.train.images, encoded.data.train.labels
    probabilities = spread_labels(encoded.graph, known, labels[known], len(encoded.data.classes))
    train_on_spread_labels(
        *(classifier, images, probabilities, known),
        settings=settings,
        report=report,
        augment=MEDIUM_JITTER,
        features=classifier.features,
    )
    return {SPREAD_ACCURACY: float((probabilities.argmax(1) == labels).float().mean())}


def _measure(classifier: nn.Module, split: Split, name: str) -> dict[str, float]:
    with eval_mode(classifier):
        logits = apply(classifier, split.images)
    return {
        f"{name}/loss": float(F.cross_entropy(logits, split.labels)),
        f"{name}/accuracy": float((logits.argmax(1) == split.labels).float().mean()),
    }


def _log_curves(trial: Trial) -> None:
    for quantity, label in (("loss", "cross entropy"), ("accuracy", "accuracy")):
        parts = {"training": f"train/{quantity}", "validation": f"val/{quantity}"}
        series = {name: trial.history[metric] for name, metric in parts.items() if metric in trial.history}
        trial.log_figure(quantity, plots.curves(series, "epoch", label, f"Transfer, {_title(trial)}"))


def _log_guesses(trial: Trial, classifier: nn.Module, data: Dataset) -> None:
    images, labels = data.test.images[:GUESSES_SHOWN], data.test.labels[:GUESSES_SHOWN].tolist()
    with eval_mode(classifier):
        guesses = classifier(to_float(images)).argmax(1).tolist()
    names, pixels = data.classes, to_pixels(images)
    captions = [
        names[guess] if guess == label else f"{names[guess]}, not {names[label]}"
        for guess, label in zip(guesses, labels, strict=True)
    ]
    rows = [""] * -(-len(pixels) // GUESSES_IN_ROW)
    title = f"The classifier's guesses, {_title(trial)}"
    trial.log_figure("guesses", plots.labelled_grid(pixels, rows, title, captions))
    trial.log_image("guesses", plots.grid(pixels, GUESSES_IN_ROW), step=0)


def _title(trial: Trial) -> str:
    return f"{trial.params['mode']}, draw {trial.params['draw']}, {trial.params['labels_per_class']} labels a class"
