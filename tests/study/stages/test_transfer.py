"""The transfer stage: its check of the number of labels, one trial of each mode, and its claims."""

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from contexts import context_of
from fakes import FakeTrial
from sklearn.neighbors import NearestNeighbors

from models.autoencoder import Encoder
from models.classifier import Judge
from study.checks import UsageError
from study.config import TransferConfig
from study.data.dataset import Dataset, Split
from study.results import Result, Row, Table
from study.stages.transfer import TRANSFER, label_counts
from study.stages.transfer import trial as figures
from study.stages.transfer.trial import BASELINES, MODES, SPREADING, WEAK_JITTER, spread, train
from study.training.classifier import draw_labelled
from study.training.few_labels import EncodedDataset, renew_statistics, spread_labels

LABEL_COUNTS = [
    (TransferConfig(), [(7, 6)], "takes 7 labels a class"),  # the default gives way
    (TransferConfig(labels_per_class=7), [(7, 6)], ""),
    (TransferConfig(labels_per_class=5, label_counts=(2, 30, 100)), [(2, 2), (5, 6)], "for its figure 2"),
    (TransferConfig(labels_per_class=5, label_counts=(5, 2, 7)), [(2, 2), (7, 2), (5, 6)], ""),  # main one last
    (TransferConfig(label_counts=(7, 5)), [(5, 2), (7, 6)], "takes 7 labels a class"),
]


@pytest.fixture
def few(tiny: Dataset) -> Dataset:
    """Seven training images of class 4, more of the others."""
    fours = (tiny.train.labels == 4).nonzero()[:, 0]
    keep = tiny.train.labels != 4
    keep[fours[:7]] = True
    return replace(tiny, train=tiny.train.take(keep.nonzero()[:, 0]))


@pytest.mark.parametrize(("settings", "counts", "warning"), LABEL_COUNTS)
def test_numbers_of_labels_give_way_to_small_classes_with_a_warning(
    settings, counts, warning, few: Dataset, caplog
) -> None:
    assert list(label_counts(settings, few, 6).items()) == counts
    with caplog.at_level(logging.WARNING, "study"):
        TRANSFER.check(settings, few)
    assert (warning in caplog.text, bool(caplog.text)) == (True, bool(warning))


def test_a_number_of_labels_that_was_asked_for_does_not_give_way(few: Dataset) -> None:
    with pytest.raises(UsageError, match=r"`transfer.labels_per_class <= 7 .* got 8"):
        label_counts(TransferConfig(labels_per_class=8), few)
    with pytest.raises(ValueError, match="1 <= label_counts"):
        TransferConfig(label_counts=(5, 0))


@pytest.fixture
def encoder(tiny: Dataset) -> Encoder:
    """An untrained encoder whose latents have variance 1, as a trained one's have."""
    torch.manual_seed(0)
    encoder = Encoder(10, "conv", (1, 28, 28))
    renew_statistics(encoder, tiny.train.images)
    return encoder.eval()


def trained(mode: str, data: Dataset, encoder: Encoder, epochs: int = 20) -> tuple[FakeTrial, float]:
    """Return a trial of this mode and its objective."""
    module = {"latent_dim": 10, "architecture": "conv", "image_shape": (1, 28, 28)}
    inputs = {"autoencoder": SimpleNamespace(config=lambda: {"module": module})}
    settings = TransferConfig(epochs=epochs, semi_epochs=4)
    context = context_of(data, settings, inputs=inputs, seed_for=lambda draw: 1000 + draw)
    trial: Any = FakeTrial({"mode": mode, "repeat": 0, "labels_per_class": 5})
    objective = spread if mode == SPREADING else train
    (value,) = objective(trial, context=context, encoded=EncodedDataset(data, encoder, WEAK_JITTER))
    return trial, value


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_learns_and_measures_its_baselines(mode: str, tiny: Dataset, encoder: Encoder) -> None:
    trial, value = trained(mode, tiny, encoder)
    ((module, _, _),) = trial.models
    module.eval()
    with torch.no_grad():
        guesses = [module(part.images / 255).argmax(1) == part.labels for part in (tiny.val, tiny.test)]
    right = [float(each.float().mean()) for each in guesses]
    assert [value, trial.metrics["test/accuracy"]] == pytest.approx(right), "it is the logged model that was measured"
    assert value > 0.5
    assert (BASELINES.keys() <= trial.metrics.keys()) == (mode == "frozen")
    assert isinstance(module, Judge) == ("train/spread_accuracy" in trial.metrics) == (mode == "semi-supervised")
    assert trial.metrics["latent/max_abs_pcc"] > 0
    if mode in ("frozen", "fine-tuned"):
        same = torch.equal(module.encoder[1].running_mean, encoder[1].running_mean)
        assert same == (mode == "frozen"), "fine-tuning renews the encoder's statistics"
    assert trial.figures.keys() == {"guesses"}


def test_label_spreading_reads_new_images_by_their_nearest_latents(tiny: Dataset, encoder: Encoder) -> None:
    trial, value = trained(SPREADING, tiny, encoder)
    encoded = EncodedDataset(tiny, encoder, WEAK_JITTER)
    known = draw_labelled(tiny.train.labels, trial.params["labels_per_class"], 1000, classes=10)
    probabilities = spread_labels(encoded.graph, known, tiny.train.labels[known], 10).numpy()
    neighbours = NearestNeighbors(n_neighbors=10).fit(encoded.latents[0].numpy())
    for part, accuracy in ((tiny.val, value), (tiny.test, trial.metrics["test/accuracy"])):
        with torch.no_grad():
            near = neighbours.kneighbors(encoder(part.images / 255).numpy(), return_distance=False)
        right = probabilities[near].mean(1).argmax(1) == part.labels.numpy()
        assert accuracy == pytest.approx(right.mean())
    assert value > 0.3


def measured(labels: int = 10, **accuracies: float) -> Table:
    """Three draws near these accuracies; the baselines have that of label spreading."""
    modes = {"frozen": "frozen", "tuned": "fine-tuned", "scratch": "from scratch", "spread": "semi-supervised"}
    trials = []
    for short, mode in {**modes, "others": SPREADING}.items():
        for draw in range(3):
            accuracy = accuracies[short] + 0.001 * (-1) ** len(trials) * (draw - 1)
            metrics = dict.fromkeys(BASELINES if mode == "frozen" else (), accuracies["others"])
            metrics["test/accuracy"] = accuracy
            params = {"mode": mode, "repeat": draw, "labels_per_class": labels}
            part = SPREADING if mode == SPREADING else ""
            trials.append(Result(0, part, "", params, (accuracy,), f"{mode} {draw}", metrics))
    return Table(trials)


def rows_of(name: str, table: Table) -> dict[str, Row]:
    """Return rows by their claims, else by their figures."""
    part = Split(torch.zeros(100, 1, 28, 28), torch.zeros(100))
    data = Dataset(name, part, part, part, classes=tuple("0123456789"))
    context = context_of(data, None, has_reference=name == "mnist")
    return {row.claim.text if row.claim else row.figure: row for row in figures.rows(context, table)}


def test_claims_are_decided_by_what_could_refute_them() -> None:
    found = rows_of("mnist", measured(frozen=0.90, tuned=0.95, scratch=0.95, spread=0.985, others=0.8))
    claims = {claim: (row.claim.verdict, row.reference) for claim, row in found.items() if row.claim}
    svm = "A head on the frozen encoder beats an SVM on the same latents with the same jitter"
    assert claims == {
        svm: ("supported", "40%"),
        "Fine-tuning beats the frozen encoder": ("supported", "80%"),
        "Fine-tuning beats training from scratch by the same recipe": ("equivalent", "80%"),
        "Self-training beats label spreading on the latents": ("supported", None),
        "Self-training beats the published 99.1% of Triple-GAN": ("refuted", None),
    }
    assert found[svm].rival == "SVM 80.0% ± 0.0%"
    assert found["test accuracy, PCA, RBF SVM (*)"].baseline == "80.0% ± 0.0%"


def test_figures_of_the_reference_are_cited_for_its_data_and_labels_alone() -> None:
    for name, labels in (("leaves", 10), ("mnist", 30)):
        found = rows_of(name, measured(labels, frozen=0.90, tuned=0.85, scratch=0.84, spread=0.995, others=0.8))
        assert ({row.reference for row in found.values()}, "published" in str([*found])) == ({None}, False)
    assert found["Fine-tuning beats the frozen encoder"].claim.verdict == "refuted"
