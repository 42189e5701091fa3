"""The transfer stage: its check of the number of labels, one trial of each mode, and its claims."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from models.autoencoder import Encoder
from models.classifier import Judge
from study.checks import UsageError
from study.config import TransferConfig
from study.data.dataset import Dataset, Split
from study.engine.search import Result
from study.engine.stage import Row
from study.stages.transfer.figures import BASELINES
from study.stages.transfer.stage import TRANSFER, label_counts
from study.stages.transfer.table import rows
from study.stages.transfer.trial import (
    CONSISTENT,
    MODES,
    PLAIN,
    SPREADING,
    WEAK_JITTER,
    run_spreading_trial,
    run_transfer_trial,
)
from study.training.classifier import draw_labelled
from study.training.few_labels import EncodedDataset
from study.training.self_training import renew_statistics


@pytest.fixture
def few(tiny: Dataset) -> Dataset:
    """Seven training images of class 4, more of the others."""
    labels = tiny.train.labels
    fours = (labels == 4).nonzero()[:, 0]
    keep = labels != 4
    keep[fours[:7]] = True
    return replace(tiny, train=Split(tiny.train.images[keep], labels[keep]))


def test_the_default_gives_way_to_small_classes_with_a_warning(
    few: Dataset, tiny: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    assert label_counts(TransferConfig(draws=4), tiny) == {10: 4}
    assert label_counts(TransferConfig(draws=4), few) == {7: 4}
    assert TRANSFER.check is not None
    with caplog.at_level(logging.WARNING, "study"):
        TRANSFER.check(TransferConfig(), few)
    assert caplog.messages == [
        "transfer takes 7 labels a class in place of 10: a class of tiny has no more training images"
    ]


def test_more_labels_than_there_are_images_are_refused(few: Dataset) -> None:
    assert TRANSFER.check is not None
    with pytest.raises(UsageError, match=r"`transfer.labels_per_class <= 7 images of a class` must hold, but got 8"):
        TRANSFER.check(TransferConfig(labels_per_class=8), few)


def test_numbers_for_the_figure_give_way(few: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    config = TransferConfig(labels_per_class=5, draws=3, label_counts=(2, 30, 100), count_draws=1)
    assert list(label_counts(config, few).items()) == [(2, 1), (5, 3)]
    assert TRANSFER.check is not None
    with caplog.at_level(logging.WARNING, "study"):
        TRANSFER.check(config, few)
    assert caplog.messages == [
        "transfer leaves 30, 100 labels a class out of its figure: a class of tiny has fewer training images"
    ]


def test_the_main_number_among_those_for_the_figure_stays_the_main_one(few: Dataset) -> None:
    config = TransferConfig(labels_per_class=5, draws=3, label_counts=(5, 2, 7), count_draws=1)
    assert list(label_counts(config, few).items()) == [(2, 1), (7, 1), (5, 3)]
    config = TransferConfig(draws=3, label_counts=(7, 5), count_draws=1)  # 10 gives way to 7
    assert list(label_counts(config, few).items()) == [(5, 1), (7, 3)]


def test_as_many_labels_as_there_are_images_are_enough(few: Dataset) -> None:
    assert list(label_counts(TransferConfig(labels_per_class=7), few)) == [7]


class Logged:
    """A trial that keeps what it is told."""

    def __init__(self, mode: str) -> None:
        self.params = {"mode": mode, "draw": 0, "labels_per_class": 5}
        self.run, self.module = MagicMock(), None
        self.history: dict[str, tuple[list[int], list[float]]] = {}

    def report(self, epoch: int, losses: Mapping[str, float]) -> None:
        for name, value in losses.items():
            epochs, values = self.history.setdefault(name, ([], []))
            epochs.append(epoch)
            values.append(value)

    def log_model(self, module: torch.nn.Module, *_: object) -> None:
        self.module = module


def trained(mode: str, data: Dataset, encoder: Encoder, epochs: int = 20) -> tuple[Logged, float, Mapping[str, float]]:
    """The trial, its objective and the figures that it logged."""
    trial = Logged(mode)
    (value,) = run_transfer_trial(
        trial,
        config=TransferConfig(epochs=epochs, semi_epochs=4),
        module={"latent_dim": 10, "architecture": "conv", "image_shape": (1, 28, 28), "classes": 10, "hidden": 32},
        encoded=EncodedDataset(data, encoder, WEAK_JITTER),
        seed_for=lambda draw: 1000 + draw,
    )
    (logged,) = (call.args[0] for call in trial.run.log.call_args_list)
    return trial, value, logged


@pytest.fixture
def encoder(tiny: Dataset) -> Encoder:
    """Not trained, but its latents have variance 1, as a trained one's have."""
    torch.manual_seed(0)
    encoder = Encoder(10, "conv", (1, 28, 28))
    renew_statistics(encoder, tiny.train.images)
    return encoder.eval()


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_learns_and_measures_what_it_is_held_against(mode: str, tiny: Dataset, encoder: Encoder) -> None:
    trial, value, logged = trained(mode, tiny, encoder)
    assert trial.module is not None
    trial.module.eval()
    with torch.no_grad():
        right = [
            float((trial.module(part.images / 255).argmax(1) == part.labels).float().mean())
            for part in (tiny.val, tiny.test)
        ]
    assert [value, logged["test/accuracy"]] == pytest.approx(right), "it is the logged model that was measured"
    assert value > 0.5
    assert (BASELINES.keys() <= logged.keys()) == (CONSISTENT in logged) == (mode == "frozen")
    assert (PLAIN in logged) == (mode == "fine-tuned")
    assert isinstance(trial.module, Judge) == ("train/spread_accuracy" in logged) == (mode == "semi-supervised")


def test_fine_tuning_renews_the_encoders_statistics_and_freezing_keeps_them(tiny: Dataset, encoder: Encoder) -> None:
    for mode, same in (("frozen", True), ("fine-tuned", False)):
        trial, _, _ = trained(mode, tiny, encoder, epochs=2)
        assert trial.module is not None
        assert torch.equal(trial.module.encoder[1].running_mean, encoder[1].running_mean) == same


def test_label_spreading_reads_new_images_by_their_nearest_latents(tiny: Dataset, encoder: Encoder) -> None:
    trial = Logged(SPREADING)
    encoded = EncodedDataset(tiny, encoder, WEAK_JITTER)
    (value,) = run_spreading_trial(trial, encoded=encoded, seed_for=lambda draw: 1000 + draw)
    (logged,) = (call.args[0] for call in trial.run.log.call_args_list)
    known = draw_labelled(tiny.train.labels, trial.params["labels_per_class"], 1000, classes=10)
    spread = encoded.graph.spread(known, tiny.train.labels[known], 10).numpy()
    neighbours = NearestNeighbors(n_neighbors=10).fit(encoded.latents[0].numpy())
    for part, accuracy in ((tiny.val, value), (tiny.test, logged["test/accuracy"])):
        with torch.no_grad():
            near = neighbours.kneighbors(encoder(part.images / 255).numpy(), return_distance=False)
        right = spread[near].mean(1).argmax(1) == part.labels.numpy()
        assert accuracy == pytest.approx(right.mean())
    assert value > 0.3


def found_rows(name: str, labels: int = 10, **accuracies: float) -> dict[str, Row]:
    """Rows by their claims, else by their figures, of three draws near these accuracies."""
    modes = {"frozen": "frozen", "tuned": "fine-tuned", "scratch": "from scratch", "spread": "semi-supervised"}
    results, measured = [], {}
    for short, mode in modes.items():
        for draw in range(3):
            run = f"{mode} {draw}"
            results.append(Result(0, run, {"mode": mode, "draw": draw, "labels_per_class": labels}, (0.0,), run))
            accuracy = accuracies[short] + 0.001 * (draw - 1)
            others = dict.fromkeys([*BASELINES, CONSISTENT, PLAIN, "test/accuracy_of_80"], accuracies["others"])
            measured[run] = {**others, "test/accuracy": accuracy}
    for draw in range(3):
        run = f"spreading {draw}"
        results.append(Result(0, run, {"mode": SPREADING, "draw": draw, "labels_per_class": labels}, (0.0,), run))
        measured[run] = {"test/accuracy": accuracies["others"] + 0.02 + 0.001 * draw}
    part = Split(torch.zeros(100, 1, 28, 28), torch.zeros(100))
    known = name == "mnist"
    context = SimpleNamespace(
        dataset=Dataset(name, part, part, part, classes=tuple("0123456789")),
        has_reference=known,
        references=lambda figures: figures if known else {},
    )
    return {row.claim or row.figure: row for row in rows(context, results, measured)}


def test_claims_hold_or_not_by_what_refutes_them() -> None:
    found = found_rows("mnist", frozen=0.90, tuned=0.95, scratch=0.95, spread=0.985, others=0.8)
    claims = {claim: (row.verdict, row.reference) for claim, row in found.items() if row.claim}
    svm = "A head on the frozen encoder beats an SVM on the same latents with the same jitter"
    spreading = "Trained on unlabelled latents too, that head beats label spreading on the same latents"
    assert claims == {
        svm: ("held", "40%"),
        spreading: ("did not hold", None),
        "Fine-tuning beats training from scratch by the same recipe": ("undecided", "80%"),
        "Fine-tuning beats the frozen encoder, as the reference says": ("held", "80%"),
        "Self-training on spread labels beats the published 99.1% of 100 labels": ("did not hold", None),
    }
    assert found[svm].against == "SVM on the latents 80.0% ± 0.0%"
    assert found["Fine-tuning beats the frozen encoder, as the reference says"].against == "frozen 90.0% ± 0.1%"
    assert "note: what 100 validation labels chose" in found


def test_figures_of_mnist_are_cited_on_mnist_alone() -> None:
    other = found_rows("leaves", frozen=0.90, tuned=0.85, scratch=0.84, spread=0.995, others=0.8)
    assert {row.reference for row in other.values()} == {None}
    assert other["Fine-tuning beats the frozen encoder"].verdict == "did not hold"
    assert not any("published" in claim for claim in other)
    more_labels = found_rows("mnist", 30, frozen=0.90, tuned=0.85, scratch=0.84, spread=0.995, others=0.8)
    assert not any("published" in claim for claim in more_labels)
    assert {row.reference for row in more_labels.values()} == {None}, "the reference's are of 100 labels"
