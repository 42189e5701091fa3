import math

import numpy as np
import pytest
import torch
from scipy import linalg, spatial
from sklearn.metrics import confusion_matrix

from study import metrics
from study.metrics import Moments


def gaussian(count: int, dims: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dims, generator=generator) @ torch.randn(dims, dims, generator=generator)


def test_pcc_equals_numpy() -> None:
    latents = gaussian(500, 8, 0) + 100
    np.testing.assert_allclose(metrics.pcc_matrix(latents), np.corrcoef(latents.numpy().T), atol=1e-5)


def test_pcc_of_a_constant_column_is_undefined() -> None:
    latents = gaussian(50, 4, 0)
    latents[:, 2] = 3.0
    with pytest.raises(FloatingPointError, match=r"\[2\]"):
        metrics.pcc_matrix(latents)


def test_off_diagonal_leaves_out_the_diagonal_only() -> None:
    assert sorted(metrics.off_diagonal(torch.arange(9.0).reshape(3, 3)).tolist()) == [1, 2, 3, 5, 6, 7]


def test_principal_axes_decorrelate_what_they_were_fitted_to() -> None:
    latents = gaussian(2000, 10, 1)
    measures = metrics.latent_measures(latents, latents @ metrics.principal_axes(latents).float())
    assert measures["latent/max_abs_pcc"] > 0.3
    assert measures["latent/max_abs_pcc_rotated"] < 1e-5


def test_noise_floor_is_what_independent_columns_give() -> None:
    floor = metrics.pcc_noise_floor(1000, 15)
    other = np.corrcoef(np.random.default_rng(7).standard_normal((15, 1000)))
    assert floor == pytest.approx(np.abs(other - np.eye(15)).max(), rel=0.5)
    assert metrics.pcc_noise_floor(100_000, 15) < floor / 5


@pytest.mark.parametrize("rank", [1, 4, 12])
def test_effective_rank_counts_equal_directions(rank: int) -> None:
    basis = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0))).Q[:, :rank]
    points = torch.cat([basis.T, -basis.T])
    assert metrics.effective_rank(points) == pytest.approx(rank, rel=1e-3)


def test_frechet_distance_equals_scipys_matrix_root() -> None:
    a, b = gaussian(400, 6, 2), gaussian(300, 6, 3) + 1
    covariances = [np.cov(x.numpy().T) for x in (a, b)]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert metrics.frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_of_scaled_and_shifted_gaussians_has_a_closed_form() -> None:
    eye = torch.eye(5, dtype=torch.float64)
    a, b = Moments(torch.zeros(5).double(), eye), Moments(torch.full((5,), 2.0).double(), 9 * eye)
    assert metrics.frechet_distance(a, b) == pytest.approx(5 * 2.0**2 + 5 * (3 - 1) ** 2)
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_broken_features_is_undefined() -> None:
    broken = Moments(torch.tensor([math.nan]), torch.eye(1))
    with pytest.raises(FloatingPointError):
        metrics.frechet_distance(broken, broken)


def test_neighbourhood_measures_equal_a_plain_implementation() -> None:
    real, fake, k = gaussian(420, 3, 4), gaussian(390, 3, 5), 5
    between = spatial.distance.cdist(fake, real)
    radius = {name: np.sort(spatial.distance.cdist(x, x), axis=1)[:, k] for name, x in (("real", real), ("fake", fake))}
    expected = {
        "sample/precision": np.mean([(row <= radius["real"]).any() for row in between]),
        "sample/recall": np.mean([(column <= radius["fake"]).any() for column in between.T]),
        "sample/density": np.mean([(row <= radius["real"]).sum() for row in between]) / k,
        "sample/coverage": np.mean([column.min() <= r for column, r in zip(between.T, radius["real"], strict=True)]),
    }
    assert metrics.neighbourhood_measures(real, fake, k) == pytest.approx(expected, abs=1e-6)


def test_far_away_samples_have_no_precision_and_no_recall() -> None:
    found = metrics.neighbourhood_measures(gaussian(50, 3, 0), gaussian(50, 3, 1) + 1000)
    assert set(found.values()) == {0.0}


def test_class_measures_of_uniform_and_collapsed_samples() -> None:
    uniform = metrics.class_measures(100 * torch.eye(10))
    sure = {"sample/modes": 10, "sample/class_kl": 0, "sample/confidence": 1, "sample/low_confidence": 0}
    assert uniform == pytest.approx(sure, abs=1e-6)
    collapsed = metrics.class_measures(100 * torch.eye(10)[[8] * 50])
    assert collapsed["sample/modes"] == 1
    assert collapsed["sample/class_kl"] == pytest.approx(math.log(10))


def test_diversity_is_one_for_the_same_spread_and_zero_for_copies() -> None:
    real, labels = gaussian(200, 4, 6), torch.arange(200) % 10
    assert metrics.diversity(real + 5, labels, real, labels) == pytest.approx(1, abs=1e-4)
    assert metrics.diversity(2 * real, labels, real, labels) == pytest.approx(2, rel=1e-5)
    assert metrics.diversity(torch.ones(200, 4), labels, real, labels) == 0
    assert math.isnan(metrics.diversity(real, labels, real[:1], labels[:1]))


def test_low_confidence_is_the_share_of_images_under_nine_tenths() -> None:
    nine_to_one = torch.zeros(10).index_fill(0, torch.tensor([3]), math.log(9 * 9))  # 81 / (81 + 9) = 0.9
    found = metrics.class_measures(
        torch.stack([nine_to_one * 1.01, nine_to_one * 0.99, nine_to_one * 0, nine_to_one * 2])
    )
    assert found["sample/low_confidence"] == 0.5


def test_nearest_distance_equals_scipys_tree() -> None:
    points, others = gaussian(130, 4, 8), gaussian(70, 4, 9)
    expected = spatial.KDTree(others).query(points)[0].mean()
    assert metrics.nearest_distance(points, others) == pytest.approx(expected, rel=1e-5)
    assert metrics.nearest_distance(others, others) == pytest.approx(0, abs=1e-3)


def test_confusion_equals_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, guesses = (torch.randint(0, 10, (500,), generator=generator) for _ in range(2))
    expected = confusion_matrix(labels, guesses, normalize="true")
    np.testing.assert_allclose(metrics.confusion(guesses, labels), expected)


def test_intra_class_distance_sees_what_the_distance_of_all_does_not() -> None:
    real, labels = gaussian(4000, 3, 10), torch.arange(4000) % 10
    centres = 10 * torch.eye(10)[:, :3] + torch.arange(10)[:, None]
    real = real + centres[labels]
    swapped = metrics.intra_class_distance(real, labels.roll(1), real, labels)
    expected = np.mean(
        [((real[labels == (d - 1) % 10].mean(0) - real[labels == d].mean(0)) ** 2).sum() for d in range(10)]
    )
    assert swapped == pytest.approx(expected, rel=0.01)
    assert metrics.intra_class_distance(real, labels, real, labels) == pytest.approx(0, abs=1e-6)
    assert math.isnan(metrics.intra_class_distance(real, labels, real[:0], labels[:0]))


def test_path_smoothness_of_a_straight_line_and_of_a_jump() -> None:
    line = torch.linspace(0, 1, 11)[None, :, None].expand(3, 11, 4)
    assert metrics.path_smoothness(line) == pytest.approx(1)
    jump = (torch.arange(11) >= 5).float()[None, :, None]
    assert metrics.path_smoothness(jump) == pytest.approx(0.1)
