"""What follows from latents, against closed forms and scikit-learn."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from sklearn.svm import SVC

from models.autoencoder import Autoencoder
from models.classifier import Judge
from study.data.dataset import Dataset, Split, to_float
from study.measures.consequences import (
    FD,
    FEW_LABELS,
    TWO_SAMPLE,
    consequences,
    few_label_accuracy,
    judged_distance,
)
from study.training.autoencoder import AutoencoderSettings, train_autoencoder
from study.training.classifier import draw_labelled
from study.training.loops import eval_mode


class Brightness(torch.nn.Module):
    """The mean of each image, times a factor, as its only feature."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.factor * images.mean((1, 2, 3))[:, None]


def judge(factor: float) -> Judge:
    found = Judge("conv", image_shape=(1, 28, 28), classes=10, width=2).eval()
    found.features = Brightness(factor)  # type: ignore[assignment]
    return found


def test_the_distance_is_the_geometric_mean_of_the_judges(tiny: Dataset) -> None:
    images = tiny.train.images[:50]
    ours, theirs = (to_float(part).mean((1, 2, 3)).double() for part in (images, tiny.val.images))
    alone = float((ours.mean() - theirs.mean()) ** 2 + (ours.std() - theirs.std()) ** 2)  # of one feature
    assert judged_distance([judge(1.0)], tiny.val.images)(images) == pytest.approx(alone, rel=1e-3)
    both = judged_distance([judge(1.0), judge(3.0)], tiny.val.images)  # the second one's is 9 times as large
    assert both(images) == pytest.approx(3 * alone, rel=1e-3)
    assert both(to_float(tiny.val.images)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("smallest", [64, 4])
def test_accuracy_with_few_labels_is_that_of_a_support_vector_machine(smallest: int, tiny: Dataset) -> None:
    """Ten images a class, or as many as the smallest class has."""
    threes = (tiny.train.labels == 3).nonzero()[:, 0]
    others = (tiny.train.labels != 3).nonzero()[:, 0]
    train = tiny.train.take(torch.cat([others, threes[:smallest]]))
    data, model = replace(tiny, train=train), Autoencoder(4, "conv", (1, 28, 28), channels=(2, 4))
    with eval_mode(model):
        latents, val = (model.encoder(to_float(split.images)) for split in (train, tiny.val))
    expected = []
    for draw in range(5):
        known = draw_labelled(train.labels, min(10, smallest), draw, classes=10)
        machine = SVC(C=10).fit(latents[known].numpy(), train.labels[known].numpy())
        expected.append((machine.predict(val.numpy()) == tiny.val.labels.numpy()).mean())
    assert len(set(expected)) > 1
    assert few_label_accuracy(model, data, val) == pytest.approx(sum(expected) / 5, abs=0.003)


def test_a_trained_autoencoders_latents_allow_more(tiny: Dataset) -> None:
    torch.manual_seed(0)
    judges = [Judge(kind, image_shape=(1, 28, 28), classes=10, width=4).eval() for kind in ("conv", "mlp")]
    distance = judged_distance(judges, tiny.val.images)
    model = Autoencoder(5, "conv", (1, 28, 28), channels=(4, 8))
    with torch.no_grad():
        model(to_float(tiny.train.images[:200]))  # BatchNorm's statistics
    before = consequences(model, tiny, distance)
    train_autoencoder(model, tiny.train.images, tiny.val.images, AutoencoderSettings(4, 32, 1e-2), lambda *_: None)
    state = torch.random.get_rng_state()
    after = consequences(model, tiny, distance)
    assert after.keys() == {FD, TWO_SAMPLE, FEW_LABELS}
    assert after[FD] < before[FD] / 2
    assert after[FEW_LABELS] > 0.9
    assert after == consequences(model, tiny, distance), "the same again"
    assert torch.equal(state, torch.random.get_rng_state()), "what is trained next does not depend on it"


def test_without_classes_only_the_latents_are_compared(tiny: Dataset) -> None:
    model = Autoencoder(3, "conv", (1, 28, 28), channels=(2, 4))
    unlabelled = replace(tiny, classes=())
    assert consequences(model, unlabelled, None).keys() == {TWO_SAMPLE}
    few = replace(unlabelled, val=Split(tiny.val.images[:3], tiny.val.labels[:3]))
    assert math.isnan(consequences(model, few, None)[TWO_SAMPLE])
