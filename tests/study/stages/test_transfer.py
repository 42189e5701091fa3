"""The transfer stage's check of the number of labels, before anything is trained."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from study.data.dataset import Dataset, Split
from study.harness.settings import UsageError
from study.stages.transfer.config import TransferConfig
from study.stages.transfer.stage import TRANSFER, labels_per_class


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
    assert labels_per_class(TransferConfig(), tiny) == 10
    assert labels_per_class(TransferConfig(), few) == 7
    assert TRANSFER.check is not None
    with caplog.at_level(logging.WARNING, "study"):
        TRANSFER.check(TransferConfig(), few)
    assert caplog.messages == [
        "transfer takes 7 labels a class in place of 10: a class of tiny has no more training images"
    ]


@pytest.mark.parametrize("config", [TransferConfig(labels_per_class=8), TransferConfig(label_counts=(5, 100))])
def test_more_labels_than_there_are_images_are_refused(few: Dataset, config: TransferConfig) -> None:
    assert TRANSFER.check is not None
    with pytest.raises(UsageError, match=r"`transfer.labels_per_class <= 7 images of a class` must hold, but got"):
        TRANSFER.check(config, few)


def test_as_many_labels_as_there_are_images_are_enough(few: Dataset) -> None:
    assert labels_per_class(TransferConfig(labels_per_class=7), few) == 7
