"""One trial of the transfer study: a classifier from a few labels, and the baselines on the same labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.autoencoder import Encoder
from models.classifier import TransferClassifier
from study import metrics
from study.data import Dataset, Split, to_float, to_pixels
from study.search import Trial
from study.semi_supervised import Graph, train_on_spread_labels
from study.stage import Study
from study.training import apply, eval_mode, jitter, train_classifier, train_head
from tracking import figures

FROZEN, FINE_TUNED, SCRATCH, SEMI = "frozen", "fine-tuned", "from scratch", "semi-supervised"
LEARNING_RATES = {FROZEN: 5e-3, FINE_TUNED: 3e-3, SCRATCH: 5e-3, SEMI: 3e-3}  # peaks of the one-cycle schedule
BATCH_SIZE, SEMI_BATCH_SIZE = 20, 256
COPIES, PASSES = 64, 10  # jittered copies of each image for the frozen encoder; passes over the images an epoch
SVM_PENALTY = 10.0  # C of scikit-learn's support vector machines
REFERENCE_TEST = 80  # test images of the reference
EVALUATE_EVERY = 10  # epochs
SHOWN = 40


@dataclass(frozen=True)
class Material:
    """What all trials of a study share: the data, the trained encoder, and what is computed from both once."""

    data: Dataset
    encoder: Encoder  # trained, in evaluation mode
    module: Mapping[str, Any]  # the classifier's constructor arguments

    @cached_property
    def latents(self) -> tuple[Tensor, Tensor]:
        """Of the training and the test images."""
        with torch.no_grad():
            return apply(self.encoder, self.data.train.images), apply(self.encoder, self.data.test.images)

    @cached_property
    def graph(self) -> Graph:
        """Of the training images' latents; no label is used."""
        return Graph.of(self.latents[0])

    @cached_property
    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Training and test images, [N, 784] in [0, 1]."""
        train, test = (to_float(s.images).flatten(1).cpu().numpy() for s in (self.data.train, self.data.test))
        return train, test

    @cached_property
    def components(self) -> tuple[np.ndarray, np.ndarray]:
        """As many principal components of the training images as there are latents, of training and test images."""
        from sklearn.decomposition import PCA

        train, test = self.pixels
        pca = PCA(self.module["latent_dim"], svd_solver="covariance_eigh").fit(train)
        return pca.transform(train), pca.transform(test)


def run_transfer_trial(trial: Trial, study: Study, material: Material) -> tuple[float]:
    """Train and log a classifier. Returns `val/accuracy`."""
    config, device, data = study.context.config.transfer, study.context.device, material.data
    mode, draw = trial.params["mode"], trial.params["draw"]
    known = draw_labelled(data.train.labels, trial.params["labels_per_class"], study.context.config.seed_for(draw))
    few = Split(data.train.images[known], data.train.labels[known])
    epochs = config.semi_epochs if mode == SEMI else config.epochs
    batch_size = SEMI_BATCH_SIZE if mode == SEMI else max(BATCH_SIZE, len(known) // 20)
    rate = LEARNING_RATES[mode]
    recipe = {"epochs": epochs, "hidden": config.hidden, "learning_rate": rate, "batch_size": batch_size}
    trial.run.log_params(recipe | {"labels": len(known), "uses_unlabelled": mode != SCRATCH})
    torch.manual_seed(study.context.config.seed_for(draw))
    classifier = TransferClassifier(**material.module).to(device)
    if mode != SCRATCH:
        classifier.encoder.load_state_dict(material.encoder.state_dict())

    def report(epoch: int, losses: Mapping[str, float]) -> None:
        if mode == SEMI or epoch % EVALUATE_EVERY == 0 or epoch in (1, epochs):
            losses = {**losses, **_measure(classifier, data.val, "val")}
        trial.report(epoch, losses)

    found: dict[str, float] = {}
    if mode == FROZEN:
        classifier.eval()
        with torch.no_grad():
            copies = torch.stack(
                [classifier.encoder(jitter(to_float(few.images), 10, 1.5, 0.1)) for _ in range(COPIES)]
            )
        train_head(classifier.head, copies, few.labels, epochs, PASSES, batch_size, rate, report)
        found = baselines(material, known)
    elif mode == SEMI:
        spread = material.graph.spread(known, few.labels)
        found["train/spread_accuracy"] = float((spread.argmax(1) == data.train.labels).float().mean())
        train_on_spread_labels(classifier, data.train.images, spread, known, epochs, batch_size, rate, report)
    else:
        # A trained encoder keeps its BatchNorm statistics, which are those of all the training images.
        classifier.train(mode == SCRATCH)
        train_classifier(classifier, few, epochs, batch_size, rate, report)
    with eval_mode(classifier.encoder):
        found["latent/max_abs_pcc"] = metrics.max_abs_pcc(apply(classifier.encoder, data.val.images))
    found |= _measure(classifier, data.test, "test")
    reference_test = Split(data.test.images[:REFERENCE_TEST], data.test.labels[:REFERENCE_TEST])
    found["test/accuracy_of_80"] = _measure(classifier, reference_test, "of_80")["of_80/accuracy"]
    trial.run.log(found)
    _log_pictures(trial, classifier, data.test)
    config_of_model = {"module": dict(material.module), "mode": mode, "draw": draw}
    study.log_model(classifier, to_float(data.val.images[:2]), config_of_model)
    return (trial.history["val/accuracy"][1][-1],)


def draw_labelled(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Indices [10 * per_class] of images drawn at random, as many of each class.

    Raises:
        ValueError: A class has fewer images than that.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    chosen = [order[labels[order] == digit][:per_class] for digit in range(10)]
    if min(map(len, chosen)) < per_class:
        raise ValueError(f"`labels_per_class <= images of each class` must hold, but got {per_class}")
    return torch.cat(chosen)


def baselines(material: Material, known: Tensor) -> dict[str, float]:
    """Test accuracy of scikit-learn's classifiers on the same labelled images.

    The support vector machines have an RBF kernel. That on the pixels sees the labelled images only; principal
    components and latents were fitted to all the training images, without labels.
    """
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    def accuracy(classifier: Any, train: np.ndarray, test: np.ndarray) -> float:
        labels = material.data.train.labels[known].cpu().numpy()
        return float(classifier.fit(train[known.cpu()], labels).score(test, material.data.test.labels.cpu().numpy()))

    latents = [part.cpu().numpy() for part in material.latents]
    return {
        "baseline/raw_pixels_svm": accuracy(SVC(C=SVM_PENALTY), *material.pixels),
        "baseline/pca_svm": accuracy(SVC(C=SVM_PENALTY), *material.components),
        "baseline/latents_1nn": accuracy(KNeighborsClassifier(1), latents[0], latents[1]),
    }


def _measure(classifier: TransferClassifier, split: Split, name: str) -> dict[str, float]:
    with eval_mode(classifier):
        logits = apply(classifier, split.images)
    return {
        f"{name}/loss": float(F.cross_entropy(logits, split.labels)),
        f"{name}/accuracy": float((logits.argmax(1) == split.labels).float().mean()),
    }


def _log_pictures(trial: Trial, classifier: TransferClassifier, test: Split) -> None:
    mode = trial.params["mode"]
    title = f"{mode}, draw {trial.params['draw']}, {trial.params['labels_per_class']} labels a class"
    for quantity, label in (("loss", "cross entropy"), ("accuracy", "accuracy")):
        parts = {"training": f"train/{quantity}", "validation": f"val/{quantity}"}
        series = {name: trial.history[metric] for name, metric in parts.items() if metric in trial.history}
        trial.run.log_figure(quantity, figures.curves(series, "epoch", label, f"Transfer, {title}"))
    images = test.images[:SHOWN]
    with eval_mode(classifier):
        guesses = classifier(to_float(images)).argmax(1)
    captions = [
        f"{guess}" if guess == label else f"{guess}, not {label}"
        for guess, label in zip(guesses.tolist(), test.labels[:SHOWN].tolist(), strict=True)
    ]
    pixels = to_pixels(images)
    sheet = figures.labelled_grid(pixels, [""] * (SHOWN // 10), f"The classifier's guesses, {title}", captions)
    trial.run.log_figure("guesses", sheet)
    trial.run.log_image("guesses", figures.grid(pixels, 10), step=0)
