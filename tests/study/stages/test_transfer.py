"""The transfer stage's check of the number of labels, before anything is trained."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from study.data.dataset import Dataset, Split
from study.harness.settings import UsageError
from study.stages.transfer.config import TransferConfig
from study.stages.transfer.stage import TRANSFER, label_counts


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


def test_as_many_labels_as_there_are_images_are_enough(few: Dataset) -> None:
    assert list(label_counts(TransferConfig(labels_per_class=7), few)) == [7]
