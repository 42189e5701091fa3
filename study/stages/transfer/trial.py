"""The transfer stage: a classifier from a few labels, the baselines on the same labels, and what is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.classifier import Judge, TransferClassifier
from study import plots
from study.config import LABELS_PER_CLASS, TransferConfig
from study.data.dataset import Dataset, Split, to_float, to_pixels
from study.engine.stage import Context
from study.engine.study import Study
from study.engine.trial import Trial
from study.measures.latents import max_abs_pcc
from study.results import ACCURACY_MARGIN, Row, Table, compared
from study.training import few_labels
from study.training.classifier import ClassifierSettings, draw_labelled, jitter, train_classifier, train_head
from study.training.few_labels import EncodedDataset
from study.training.loops import Report, apply, eval_mode
from tracking.runs import mean_histories

FROZEN, FINE_TUNED, SCRATCH, SEMI = MODES = ("frozen", "fine-tuned", "from scratch", "semi-supervised")
SPREADING = "label spreading"  # a baseline with trials of its own
LEARNING_RATES = {FROZEN: 5e-3, FINE_TUNED: 1e-2, SCRATCH: 1e-2, SEMI: 1e-2}  # peaks of the one-cycle schedule
SMOOTHING = 0.1  # of few labels
BATCH_SIZE, SEMI_BATCH_SIZE = 20, 256
COPIES, PASSES = 64, 10  # jittered copies of each image for the frozen encoder; passes over the images an epoch
STRONG_JITTER = partial(jitter, degrees=20, pixels=3, scale=0.2, shear=0.3)  # of fine-tuned and from scratch alike
MEDIUM_JITTER = partial(jitter, degrees=15, pixels=2, scale=0.1, shear=0.3, ratio=0.1)  # of self-training
WEAK_JITTER = partial(jitter, degrees=10, pixels=1.5, scale=0.1, shear=0.4, ratio=0.15)  # of latents, baselines too
EVALUATE_EVERY = 10  # epochs
GUESSES_SHOWN, GUESSES_IN_ROW = 40, 10
SPREAD_ACCURACY, ACCURACY = "train/spread_accuracy", "test/accuracy"
REFERENCES = {FROZEN: 0.40, FINE_TUNED: 0.80}  # of 80 test images
PUBLISHED = 0.991
"""Of MNIST with 100 labels: an error of 0.91 ± 0.58 %, Triple-GAN (Li et al. 2017, https://arxiv.org/abs/1703.02291)."""
LATENTS_SVM, PIXELS_SVM = "baseline/latents_jittered_svm", "baseline/raw_pixels_jittered_svm"
BASELINES = {
    PIXELS_SVM: "raw pixels, jittered copies, RBF SVM",
    "baseline/pca_svm": "PCA, RBF SVM (*)",
    LATENTS_SVM: "latents, jittered copies, RBF SVM (*)",
}
TITLES = {
    FROZEN: "encoder frozen (*)",
    FINE_TUNED: "encoder fine-tuned (*)",
    SCRATCH: "from scratch",
    SEMI: "spread labels, self-training (*)",
    SPREADING: "label spreading on the latents (*)",
}
"""(*): the unlabelled training images are used too."""


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
        found |= few_labels.baselines(encoded, known)
    trial.log(found)
    _log_guesses(trial, classifier, data)
    config = {"module": module, "mode": mode, "repeat": trial.params["repeat"]}
    trial.log_model(classifier, to_float(data.val.images[:2]), config)
    return (trial.history["val/accuracy"][1][-1],)


def spread(trial: Trial, *, context: Context, encoded: EncodedDataset) -> tuple[float]:
    """Measure and log label spreading on the latents: a baseline without training, with self-training's help.

    Return `val/accuracy`.
    """
    data = context.dataset
    known, few, _ = _labelled(trial, context)
    probabilities = few_labels.spread_labels(encoded.graph, known, few.labels, len(data.classes))
    classifier = few_labels.SpreadClassifier(encoded.encoder, encoded.latents[0], probabilities)
    found = {**_measure(classifier, data.val, "val"), **_measure(classifier, data.test, "test")}
    found[SPREAD_ACCURACY] = float((probabilities.argmax(1) == data.train.labels).float().mean())
    found["latent/max_abs_pcc"] = max_abs_pcc(encoded.latents[1])
    trial.log(found)
    _log_guesses(trial, classifier, data)
    return (found["val/accuracy"],)


def _labelled(trial: Trial, context: Context) -> tuple[Tensor, Split, int]:
    """Return the indices of the draw's labelled training images, these images, and the draw's seed."""
    train, seed = context.dataset.train, context.seed_for(trial.params["repeat"])
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
    probabilities = few_labels.spread_labels(encoded.graph, known, labels[known], len(encoded.data.classes))
    few_labels.train_on_spread_labels(
        *(classifier, images, probabilities, known),
        settings=settings,
        report=report,
        augment=MEDIUM_JITTER,
    )
    return {SPREAD_ACCURACY: float((probabilities.argmax(1) == labels).float().mean())}


def _measure(classifier: nn.Module, split: Split, name: str) -> dict[str, float]:
    with eval_mode(classifier):
        logits = apply(classifier, split.images)
    return {
        f"{name}/loss": float(F.cross_entropy(logits, split.labels)),
        f"{name}/accuracy": float((logits.argmax(1) == split.labels).float().mean()),
    }


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
    drawn = f"{trial.params['mode']}, draw {trial.params['repeat']}, {trial.params['labels_per_class']} labels a class"
    title = f"The classifier's guesses, {drawn}"
    trial.log_figure("guesses", plots.labelled_grid(pixels, rows, title, captions))
    trial.log_image("guesses", plots.grid(pixels, GUESSES_IN_ROW), step=0)


def log_figures(study: Study, labels: int) -> None:
    """Log loss and accuracy of frozen and fine-tuned encoders by epoch, and accuracy against the number of labels."""
    table = study.table()
    classes = len(study.context.dataset.classes)
    runs = {mode: table.where(mode=mode, labels_per_class=labels).run_ids for mode in (FROZEN, FINE_TUNED)}
    panels = {
        title: {
            f"{mode}, {name}": curve
            for part, name in (("train", "training"), ("val", "validation"))
            for mode, curve in mean_histories(runs, f"{part}/{quantity}").items()
        }
        for quantity, title in (("loss", "cross entropy"), ("accuracy", "accuracy"))
    }
    dashed = {f"reference, {mode}": value for mode, value in references(study.context, labels).items()}
    title = f"Transfer with {classes * labels} labels: encoder frozen against fine-tuned, means over the draws"
    study.parent.log_figure(
        "curves",
        plots.curves(panels, "epoch", title, references={"accuracy": dashed}),
        "Training is measured on jittered images, which are harder: that is why validation can be better. "
        "The reference's figures are of 80 test images.",
    )
    series = table.series("labels_per_class", ACCURACY, by=lambda trial: TITLES[trial.params["mode"]], part="")
    for metric in BASELINES:
        series |= {BASELINES[name]: curve for name, curve in table.series("labels_per_class", metric).items()}
    if len({trial.params["labels_per_class"] for trial in table}) > 1:
        title = "Accuracy against the number of labels\n(*): uses the unlabelled training images too"
        study.parent.log_figure(
            "accuracy_against_labels",
            plots.curves({"test accuracy": series}, "labelled images of a class", title, log_x=True, markers=True),
            "Means over draws of the labels; bars: standard deviation.",
        )


def references(context: Context, labels: int) -> Mapping[str, float]:
    """Return the reference's accuracies by mode, which hold for 100 labels of MNIST; none for others."""
    return context.references(REFERENCES) if labels == LABELS_PER_CLASS else {}


def rows(context: Context, main: Table) -> list[Row]:
    """Return accuracies of all modes and baselines on the main number of labels, and the claims."""
    labels = next(iter(main)).params["labels_per_class"]
    reference = {mode: f"{value:.0%}" for mode, value in references(context, labels).items()}
    accuracies = {mode: main.values(ACCURACY, mode=mode) for mode in TITLES}
    svm, pixels = (main.values(metric) for metric in (LATENTS_SVM, PIXELS_SVM))
    chosen = {mode: [trial.values[0] for trial in main.where(mode=mode)] for mode in MODES if accuracies[mode]}
    best = max(chosen, key=lambda mode: mean(chosen[mode]))  # by the validation images
    beside = f"; an SVM on jittered pixels {mean(pixels):.1%}" if pixels else ""
    said = f"{labels} labels a class: {mean(accuracies[best]):.1%} of the test images right ({TITLES[best]}{beside})"

    def row(mode: str, text: str = "", name: str = "", rival: Sequence[float] = (), **rule: Any) -> Row:
        """Return a mode's accuracy, with the claim that it beats a rival with the same draws, or a published one."""
        figure, rule = f"test accuracy, {TITLES[mode]}", {"better": "more", "metric": ACCURACY, **rule}
        rule |= {"text": text, "paired": bool(rival), "margin": ACCURACY_MARGIN, "reference": reference.get(mode)}
        return compared(figure, accuracies[mode], {name: rival}, "{:.1%}", **rule)

    published = f"Self-training beats the published {PUBLISHED:.1%} of Triple-GAN"
    found = [
        row(FROZEN, "A head on the frozen encoder beats an SVM on the same latents with the same jitter", "SVM", svm),
        row(FINE_TUNED, "Fine-tuning beats the frozen encoder", "frozen", accuracies[FROZEN]),
        row(FINE_TUNED, "Fine-tuning beats training from scratch by the same recipe", SCRATCH, accuracies[SCRATCH]),
        row(SCRATCH),
        row(SEMI, "Self-training beats label spreading on the latents", SPREADING, accuracies[SPREADING]),
        row(SPREADING),
        *([row(SEMI, published, goal=PUBLISHED)] if reference else []),
        *(
            Row(f"test accuracy, {title}", "-", None, cell)
            for metric, title in BASELINES.items()
            if (cell := main.cell(metric, "{:.1%}"))
        ),
    ]
    validation = f"{len(context.dataset.val):,} validation labels"
    found.append(Row(f"note: what {validation} chose", "the champion; once, on MNIST: the recipes"))
    place = [row.figure for row in found].index(f"test accuracy, {TITLES[best]}")
    return [*found[:place], replace(found[place], found=said), *found[place + 1 :]]
