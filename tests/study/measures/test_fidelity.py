import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import linalg, spatial

from study.measures import fidelity


def gaussian(count: int, dims: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dims, generator=generator) @ torch.randn(dims, dims, generator=generator)


diversity = partial(fidelity.within_classes, fidelity.diversity)
intra_class_distance = partial(fidelity.within_classes, fidelity.frechet_distance)


def test_frechet_distance_equals_scipys_matrix_root() -> None:
    a, b = gaussian(400, 6, 2), gaussian(300, 6, 3) + 1
    covariances = [np.cov(x.numpy().T) for x in (a, b)]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert fidelity.frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)
    one_feature = torch.tensor([[0.0], [2.0]])
    assert fidelity.frechet_distance(one_feature, one_feature + 3) == pytest.approx(9)
    with pytest.raises(FloatingPointError):
        fidelity.frechet_distance(a * math.nan, b)


def test_neighbourhood_measures_equal_a_plain_implementation() -> None:
    real, fake, k = gaussian(420, 3, 4), gaussian(390, 3, 5), 5
    between = spatial.distance.cdist(fake, real)
    radius = {name: np.sort(spatial.distance.cdist(x, x), axis=1)[:, k] for name, x in (("real", real), ("fake", fake))}
    expected = {
        "precision": np.mean([(row <= radius["real"]).any() for row in between]),
        "recall": np.mean([(column <= radius["fake"]).any() for column in between.T]),
        "density": np.mean([(row <= radius["real"]).sum() for row in between]) / k,
        "coverage": np.mean([column.min() <= r for column, r in zip(between.T, radius["real"], strict=True)]),
    }
    found = fidelity.neighbourhood_measures(real, fake, k, fidelity.kth_neighbour(real, k))
    assert found == pytest.approx(expected, abs=1e-6)


NINETY = math.log(9 * 9)  # the logit above nine zeros whose confidence is 81 / (81 + 9) = 0.9
EVEN = [0.1] * 10
CLASS_MEASURES = [
    (100 * torch.eye(10), EVEN, {"modes": 10, "class_kl": 0, "low_confidence": 0}),
    (100 * torch.eye(10)[[8] * 50], EVEN, {"modes": 1, "class_kl": math.log(10), "low_confidence": 0}),
    (torch.eye(10)[[3] * 4] * NINETY * torch.tensor([[1.01], [0.99], [0], [2]]), EVEN, {"low_confidence": 0.5}),
    # A class is a mode from a tenth of its expected fraction on.
    (100 * torch.eye(26)[[1] + [0] * 259], [1 / 26] * 26, {"modes": 2}),
    (100 * torch.eye(26)[[1] + [0] * 260], [1 / 26] * 26, {"modes": 1}),
    (100 * torch.eye(3)[[0, 0, 1, 2]], [0.5, 0.25, 0.25], {"class_kl": 0}),
    (100 * torch.eye(3)[[0, 0, 1, 2]], [0.25, 0.5, 0.25], {"class_kl": 0.25 * math.log(2)}),
    # A class that is not expected costs much, but not infinitely much.
    (100 * torch.eye(3)[[0, 0, 1, 2]], [0.5, 0.5, 0], {"class_kl": 0.25 * math.log(0.25 / 0.5 * 0.25e12)}),
]


@pytest.mark.parametrize(("logits", "expected", "measures"), CLASS_MEASURES)
def test_class_measures(logits: torch.Tensor, expected: list[float], measures: dict[str, float]) -> None:
    found = fidelity.class_measures(logits, torch.tensor(expected, dtype=torch.float64))
    assert {name: found[name] for name in measures} == pytest.approx(measures, abs=1e-6)


def test_diversity_is_one_for_the_same_spread_and_zero_for_copies() -> None:
    real, labels = gaussian(200, 4, 6), torch.arange(200) % 10
    assert diversity(real + 5, labels, real, labels) == pytest.approx(1, abs=1e-4)
    assert diversity(2 * real, labels, real, labels) == pytest.approx(2, rel=1e-5)
    assert diversity(torch.ones(200, 4), labels, real, labels) == 0
    assert math.isnan(diversity(real, labels, real[:1], labels[:1]))
    alike = torch.tensor([[0.0], [0.0], [1.0], [2.0]])  # the real images of the first class: it is left out
    pairs, fake = torch.tensor([0, 0, 1, 1]), torch.tensor([[0.0], [7.0], [1.0], [4.0]])
    assert diversity(fake, pairs, alike, pairs) == pytest.approx(3)
    assert math.isnan(diversity(fake[:2], pairs[:2], alike[:2], pairs[:2]))


def test_nearest_distance_equals_scipys_tree() -> None:
    points, others = gaussian(130, 4, 8), gaussian(70, 4, 9)
    expected = spatial.KDTree(others).query(points)[0].mean()
    assert fidelity.nearest_distance(points, others) == pytest.approx(expected, rel=1e-5)
    assert fidelity.nearest_distance(others, others) == pytest.approx(0, abs=1e-3)


def test_intra_class_distance_sees_what_the_distance_of_all_does_not() -> None:
    real, labels = gaussian(4000, 3, 10), torch.arange(4000) % 10
    centres = 10 * torch.eye(10)[:, :3] + torch.arange(10)[:, None]
    real = real + centres[labels]
    swapped = intra_class_distance(real, labels.roll(1), real, labels)
    means = torch.stack([real[labels == label].mean(0) for label in range(10)])
    expected = float((means.roll(1, 0) - means).square().sum(1).mean())
    assert swapped == pytest.approx(expected, rel=0.01)
    assert intra_class_distance(real, labels, real, labels) == pytest.approx(0, abs=1e-6)
    assert math.isnan(intra_class_distance(real, labels, real[:0], labels[:0]))
