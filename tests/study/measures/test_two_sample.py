import math

import numpy as np
import pytest
import torch
from scipy.stats import norm, wasserstein_distance_nd
from sklearn.neighbors import NearestNeighbors

from study.measures.latents import LatentFidelity, sliced_wasserstein, two_sample_accuracy


def points(count: int, dims: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed))


def test_two_samples_of_one_distribution_cannot_be_told_apart() -> None:
    std = 0.5 / math.sqrt(2000)
    assert two_sample_accuracy(points(1000, 3, 0), points(1000, 3, 1)) == pytest.approx(0.5, abs=4 * std)


def test_shifted_gaussians_are_told_apart_as_well_as_can_be() -> None:
    """The best classifier of N(0, I) and N(m, I) is right with probability Phi(|m| / 2)."""
    shift = torch.tensor([1.5, 0.0, 0.0])
    found = two_sample_accuracy(points(1000, 3, 0), points(1000, 3, 1) + shift)
    assert found == pytest.approx(float(norm.cdf(0.75)), abs=0.05)


def test_the_classifier_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    two_sample_accuracy(points(50, 2, 0), points(50, 2, 1))
    assert torch.equal(torch.rand(3), expected)


def test_sliced_wasserstein_of_a_shift_is_its_length_on_the_lines() -> None:
    """A shift by m moves every projection by <m, line>; the mean of its square over random lines is |m|^2 / D."""
    cloud, shift = points(500, 6, 0), torch.tensor([2.0, 0, 0, 0, 0, 0])
    assert sliced_wasserstein(cloud, cloud + shift) == pytest.approx(2 / math.sqrt(6), rel=0.1)
    assert sliced_wasserstein(cloud, cloud.flip(0)) == pytest.approx(0, abs=1e-6)


def test_on_a_line_it_is_the_wasserstein_distance() -> None:
    a, b = points(40, 1, 0), points(40, 1, 1)
    ordered = np.sort(a.numpy().ravel()) - np.sort(b.numpy().ravel())
    assert sliced_wasserstein(a, b) == pytest.approx(np.sqrt((ordered**2).mean()), rel=1e-4)
    assert wasserstein_distance_nd(a.numpy(), b.numpy()) <= sliced_wasserstein(a, b) + 1e-6


def test_copies_lie_on_training_latents_and_others_do_not() -> None:
    train, held_out = points(500, 4, 0), points(400, 4, 1)
    copied = LatentFidelity(train, held_out).measures(train[:400])
    assert copied["latent/nearest"] == pytest.approx(0, abs=1e-3)
    assert copied["latent/sliced_wasserstein"] == pytest.approx(1)
    fresh = points(400, 4, 2)
    neighbours = NearestNeighbors(n_neighbors=1).fit(train.numpy())
    wanted = neighbours.kneighbors(fresh.numpy())[0].mean() / neighbours.kneighbors(held_out.numpy())[0].mean()
    assert LatentFidelity(train, held_out).measures(fresh)["latent/nearest"] == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_latents_crash_no_measure(count: int) -> None:
    found = LatentFidelity(points(5, 3, 1), points(count, 3, 2)).measures(points(count, 3, 0))
    assert math.isnan(found["latent/two_sample_accuracy"]) == (count < 2)
    assert math.isfinite(found["latent/nearest"])


def test_it_works_where_nothing_else_is_trained() -> None:
    with torch.no_grad():
        assert two_sample_accuracy(points(50, 2, 0), points(50, 2, 1) + 9) > 0.9
