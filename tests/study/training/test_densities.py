import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.neighbors import KernelDensity, NearestNeighbors

from study.measures.fidelity import nearest_distance
from study.training.densities import NEIGHBOURS, copying_bandwidth, kernel_density, kernel_loss, mixture, smote


def clusters(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=generator) + 6 * (torch.arange(count) % 2)[:, None]


def test_a_mixture_draws_from_the_clusters_and_knows_their_density() -> None:
    drawn = mixture(clusters(600, 0), clusters(400, 1), 2, 500, seed=0)
    assert drawn.points.shape == (500, 3)
    right = (drawn.points.mean(1) > 3).float()
    assert 0.4 < float(right.mean()) < 0.6
    assert 0.3 < float(right[:100].mean()) < 0.7, "any part of them is a sample too"
    held_out = clusters(400, 1).numpy()
    parts = [multivariate_normal(np.full(3, 6.0 * which)).pdf(held_out) for which in (0, 1)]
    assert drawn.loss == pytest.approx(-np.log((parts[0] + parts[1]) / 2).mean(), abs=0.1)


def test_one_component_is_a_gaussian_and_there_are_no_more_than_points() -> None:
    points = clusters(300, 0)
    drawn = mixture(points, points, 1, 20_000, seed=0)
    np.testing.assert_allclose(np.cov(drawn.points.numpy().T), np.cov(points.numpy().T), rtol=0.1, atol=0.3)
    apart = 100 * torch.eye(5)
    assert float(torch.cdist(mixture(apart, apart, 20, 50, seed=0).points, apart).min(1).values.max()) < 1


@pytest.mark.parametrize("bandwidth", [0.2, 1.0])
def test_a_kernel_density_is_scikit_learns(bandwidth: float) -> None:
    train, held_out = clusters(300, 0), clusters(100, 1)
    expected = -KernelDensity(bandwidth=bandwidth).fit(train.numpy()).score(held_out.numpy()) / 100
    assert kernel_loss(train, held_out, bandwidth) == pytest.approx(expected, rel=1e-4)
    drawn = kernel_density(train, held_out, bandwidth, 5000, seed=0)
    assert drawn.loss == pytest.approx(expected, rel=1e-4)
    gaps = NearestNeighbors(n_neighbors=1).fit(train.numpy()).kneighbors(drawn.points.numpy())[0]
    assert gaps.mean() < bandwidth * 2


def test_the_bandwidth_copies_no_more_than_asked_for_and_is_the_least_that_does() -> None:
    train, held_out = clusters(600, 0), clusters(400, 1)
    wanted = 0.8 * nearest_distance(held_out, train)
    found = copying_bandwidth(train, wanted, seed=3)

    def nearest(bandwidth: float) -> float:
        return nearest_distance(kernel_density(train, held_out, bandwidth, 2000, seed=3).points, train)

    assert nearest(found) >= wanted > nearest(found - 0.01)


def test_smote_draws_on_lines_between_neighbours() -> None:
    train = clusters(60, 0)
    points = smote(train, 200, seed=0).points.double().numpy()
    known = train.double().numpy()
    neighbours = NearestNeighbors(n_neighbors=NEIGHBOURS + 1).fit(known).kneighbors(known)[1]
    starts = np.repeat(np.arange(60), NEIGHBOURS)
    a, b = known[starts], known[neighbours[:, 1:].ravel()]
    for point in points:
        share = np.clip(((point - a) * (b - a)).sum(1) / ((b - a) ** 2).sum(1), 0, 1)
        assert np.linalg.norm(a + share[:, None] * (b - a) - point, axis=1).min() < 1e-4
    assert smote(train, 5, seed=0).loss is None


def test_a_class_of_one_image_and_none_held_out_is_no_error() -> None:
    alone = torch.tensor([[3.0, -1.0]])
    drawn = mixture(alone, alone[:0], 20, 50, seed=0)
    assert drawn.loss is None
    torch.testing.assert_close(drawn.points, alone.expand(50, -1), atol=0.1, rtol=0)
