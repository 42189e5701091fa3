"""Measures of translated images, against NumPy, planted swaps and a planted code."""

import itertools

import numpy as np
import pytest
import torch

from models.classifier import Judge
from study.data.dataset import Dataset
from study.measures.translation import Truth, error, permuted_accuracy


def test_error_and_permuted_accuracy_are_numpys() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 256, (500, 1, 16, 16), dtype=np.uint8)
    images = random.random(truth.shape).astype(np.float32)
    found = error(torch.from_numpy(images), torch.from_numpy(truth))
    assert found == pytest.approx(np.abs(images - truth / 255).mean(), rel=1e-5)
    labels = random.integers(0, 5, 1_000)
    guesses = np.array([1, 0, 2, 4, 3])[labels]  # a planted swap, and a tenth at random
    guesses[:100] = random.integers(0, 5, 100)
    share = permuted_accuracy(torch.from_numpy(guesses), torch.from_numpy(labels), 5)
    brute = max(np.mean(np.array(way)[labels] == guesses) for way in itertools.permutations(range(5)))
    assert share == pytest.approx(brute)
    assert share > 0.9 > np.mean(labels == guesses)


def test_the_truth_is_perfect_and_a_swap_of_classes_is_seen(tiny: Dataset) -> None:
    torch.manual_seed(0)
    judges = [Judge(kind, image_shape=(1, 28, 28), classes=10).eval() for kind in ("conv", "mlp")]
    with torch.no_grad():
        labels = judges[0](tiny.test.images / 255).argmax(1)
    truth = Truth(tiny.test.images, tiny.test.images, labels, judges, 10)
    found = truth.measures(tiny.test.images / 255)
    assert (found["test/mae"], found["judge1/fd"]) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-3))
    assert {found[f"judge1/{name}"] for name in ("kept", "permuted", "recall", "coverage")} == {1}
    assert found["test/shortfall"] == (1 - found["judge2/kept"]) / 0.1
    other = Truth(tiny.test.images, tiny.test.images, (labels + 1) % 10, judges, 10)
    swapped = other.measures(tiny.test.images / 255)
    assert (swapped["judge1/kept"], swapped["judge1/permuted"], swapped["test/shortfall"]) == (0, 1, 10)


def test_a_translator_falls_short_by_its_error_or_by_the_classes_it_loses(tiny: Dataset) -> None:
    judge = Judge("conv", image_shape=(1, 28, 28), classes=10).eval()
    a, b = tiny.test.images // 2, tiny.test.images
    with torch.no_grad():
        truth = Truth(a, b, judge(b / 255).argmax(1), [judge], 10)
        half = (a / 255 + b / 255) / 2
        lost = 1 - float((judge(half).argmax(1) == truth.labels).float().mean())
    assert truth.floor == pytest.approx(float((b / 255 - a / 255).mean()), rel=1e-5)
    assert truth.measures(half)["test/shortfall"] == pytest.approx(max(1.0, lost / 0.1), rel=1e-3)
    assert truth.measures(a / 255)["test/shortfall"] >= 2 * 0.999
