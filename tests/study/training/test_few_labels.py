from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC
from torch import Tensor, nn

from models.autoencoder import Encoder
from models.classifier import Judge
from study.data.dataset import Dataset, Split
from study.training import few_labels
from study.training.classifier import ClassifierSettings, accuracy, draw_labelled
from study.training.few_labels import EncodedDataset, baselines, neighbour_graph, spread_labels


def moved(images: Tensor) -> Tensor:
    """The pixels of each in another order, which is no picture any more."""
    order = torch.randperm(images[0].numel(), generator=torch.Generator().manual_seed(0))
    return images.flatten(1)[:, order].view_as(images)


@pytest.mark.parametrize("per_class", [1, 10])
def test_baselines_solve_easy_classes_and_learn_from_copies(tiny: Dataset, per_class: int) -> None:
    known = draw_labelled(tiny.train.labels, per_class, 0, classes=10)
    encoded = EncodedDataset(tiny, Encoder(10, "conv+fc", (1, 28, 28)).eval(), nn.Identity())
    found = baselines(encoded, known)
    assert min(found["baseline/raw_pixels_jittered_svm"], found["baseline/pca_svm"]) > 0.9
    train, test = encoded.latents
    # Copies that are no different, in their number, are the same as so much larger a penalty.
    several = SVC(C=few_labels.SVM_PENALTY * (1 + few_labels.SVM_LATENTS // len(known)))
    expected = several.fit(train[known], tiny.train.labels[known]).score(test, tiny.test.labels)
    assert found["baseline/latents_jittered_svm"] == pytest.approx(expected, abs=0.011)
    assert encoded.latents is encoded.latents, "what trials share is computed once"
    encoded = replace(encoded, data=replace(tiny, test=Split(moved(tiny.test.images), tiny.test.labels)))
    without, taught = (baselines(replace(encoded, augment=each), known) for each in (nn.Identity(), moved))
    assert taught["baseline/raw_pixels_jittered_svm"] == 1.0 > 0.9 > without["baseline/raw_pixels_jittered_svm"]
    assert taught["baseline/pca_svm"] == without["baseline/pca_svm"], "it sees no copies"


def test_neighbours_are_those_of_scikit_learn() -> None:
    points = torch.randn(2500, 4, generator=torch.Generator().manual_seed(0))  # more than one chunk
    distances, indices = few_labels._nearest(points, 5)
    expected, places = NearestNeighbors(n_neighbors=5).fit(points.numpy()).kneighbors()
    np.testing.assert_allclose(distances, expected**2, atol=1e-4)
    assert (indices == places).mean() > 0.999


def test_one_label_a_moon_spreads_over_it_as_the_closed_form(monkeypatch) -> None:
    """F = (1 - a) (1 - a S)^-1 Y, the limit of the iteration."""
    monkeypatch.setattr(few_labels, "ITERATIONS", 3000)
    points, sides = make_moons(600, noise=0.06, random_state=0)
    labels, graph = torch.from_numpy(sides).long(), neighbour_graph(torch.from_numpy(points).float())
    known = torch.stack([(labels == side).nonzero()[0, 0] for side in (0, 1)])
    spread = spread_labels(graph, known, labels[known], 2)
    assert float((spread.argmax(1) == labels).float().mean()) > 0.98
    assert spread[known].tolist() == [[1, 0], [0, 1]]
    start = np.zeros((600, 2))
    start[known, [0, 1]] = 1
    limit = torch.from_numpy(np.linalg.solve(np.eye(600) - few_labels.ALPHA * graph.toarray(), start)).float()
    limit[known] = torch.eye(2)
    torch.testing.assert_close(spread, limit / limit.sum(1, keepdim=True), atol=1e-3, rtol=0)


def self_train(model: Judge, images: Tensor, spread: Tensor, known: Tensor, *schedule: Any, **more: Any) -> dict:
    """What was reported."""
    found: dict[int, Any] = {}
    more = {"settings": ClassifierSettings(*schedule, learning_rate=1e-2), "report": found.__setitem__, **more}
    few_labels.train_on_spread_labels(model, images, spread, known, **more)
    return found


def test_self_training_mends_wrong_labels(tiny: Dataset, monkeypatch) -> None:
    monkeypatch.setattr(few_labels, "SPREAD_AGAIN", ())
    torch.manual_seed(0)
    labels, model = tiny.train.labels, Judge("conv", image_shape=(1, 28, 28), classes=10, width=4)
    wrong = torch.rand(len(labels)) < 0.25
    given = torch.where(wrong, torch.randint(10, labels.shape), labels)
    spread = 0.9 * nn.functional.one_hot(given, 10) + 0.01
    reported = self_train(model, tiny.train.images, spread, (~wrong).nonzero()[:50, 0], 15, 64)
    assert accuracy(model, tiny.train) > float((given == labels).float().mean()) + 0.1
    assert list(reported) == list(range(1, 16))
    assert 0 < reported[15]["train/used"] <= 1


def untrained() -> Judge:
    """Its features are the pixels."""
    judge = Judge("mlp", image_shape=(1, 28, 28), classes=10, width=1, feature_dim=784)
    judge.features = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784, affine=False))
    return judge


def test_labels_spread_again_on_the_features_mend_a_useless_start(tiny: Dataset, monkeypatch) -> None:
    labels, right = tiny.train.labels, []
    known = draw_labelled(labels, 3, 0, classes=10)
    torch.manual_seed(0)
    useless = torch.eye(10)[torch.randint(10, labels.shape)]
    useless[known] = torch.eye(10)[labels[known]]
    for again in ((), (1,)):
        monkeypatch.setattr(few_labels, "SPREAD_AGAIN", again)
        model = untrained()
        self_train(model, tiny.train.images, useless, known, 4, 32)
        right.append(accuracy(model, tiny.test))
    assert right[1] > max(0.9, right[0] + 0.3)


def test_the_weights_are_averaged_over_the_last_steps(tiny: Dataset, monkeypatch) -> None:
    monkeypatch.setattr(few_labels, "AVERAGED", 1 / 4)
    weights: list[torch.Tensor] = []  # before each step
    torch.manual_seed(0)
    model, spread = untrained(), torch.eye(10)[tiny.train.labels]
    watch = lambda images: weights.append(model.head.weight.detach().clone()) or images  # noqa: E731
    self_train(model, tiny.train.images, spread, torch.arange(5), 2, 32, augment=watch)
    assert len(weights) == 40
    average = weights[1]
    for each in [*weights[2:], weights[-1]]:  # the last step, at a rate of almost nothing, hardly moves them
        average = 0.9 * average + 0.1 * each
    torch.testing.assert_close(model.head.weight.detach(), average, atol=1e-5, rtol=0)
    assert float((average - weights[-1]).abs().max()) > 1e-4


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_points_are_all_neighbours_and_islands_without_a_label_are_of_no_class(count: int) -> None:
    points = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    spread = spread_labels(neighbour_graph(points), torch.tensor([0]), torch.tensor([2]), 3)
    assert spread.argmax(1).tolist() == [2] * count
    islands = torch.cat([torch.randn(30, 2), torch.randn(30, 2) + 1000])
    spread = spread_labels(neighbour_graph(islands), torch.tensor([0]), torch.tensor([3]), 10)
    assert (spread[:30].argmax(1) == 3).all()
    torch.testing.assert_close(spread[30:], torch.full((30, 10), 0.1))
