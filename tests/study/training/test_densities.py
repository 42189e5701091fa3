import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from study.training.sampling import draw_class_mixtures, draw_mixture


def clusters(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=generator) + 6 * (torch.arange(count) % 2)[:, None]


@pytest.mark.parametrize("quick", [False, True])
def test_a_mixture_draws_from_the_clusters_and_knows_their_density(quick: bool) -> None:
    points, loss = draw_mixture(clusters(600, 0), clusters(400, 1), 2, 500, seed=0, quick=quick)
    assert points.shape == (500, 3)
    right = (points.mean(1) > 3).float()
    assert 0.4 < float(right.mean()) < 0.6
    assert 0.3 < float(right[:100].mean()) < 0.7, "any part of them is a sample too"
    held_out = clusters(400, 1).numpy()
    parts = [multivariate_normal(np.full(3, 6.0 * which)).pdf(held_out) for which in (0, 1)]
    assert loss == pytest.approx(-np.log((parts[0] + parts[1]) / 2).mean(), abs=0.1)


def test_one_component_is_a_gaussian_and_there_are_no_more_than_points() -> None:
    points = clusters(300, 0)
    drawn, _ = draw_mixture(points, points, 1, 20_000, seed=0)
    np.testing.assert_allclose(np.cov(drawn.numpy().T), np.cov(points.numpy().T), rtol=0.1, atol=0.3)
    apart = 100 * torch.eye(5)
    assert float(torch.cdist(draw_mixture(apart, apart, 20, 50, seed=0)[0], apart).min(1).values.max()) < 1


def test_a_class_of_one_image_and_none_held_out_is_no_error() -> None:
    alone = torch.tensor([[3.0, -1.0]])
    points, loss = draw_mixture(alone, alone[:0], 20, 50, seed=0)
    assert loss is None
    torch.testing.assert_close(points, alone.expand(50, -1), atol=0.1, rtol=0)


def test_each_label_is_drawn_from_the_mixture_of_its_own_latents() -> None:
    train, labels = clusters(600, 0), torch.arange(600) % 2
    wanted = torch.tensor([1, 0, 0, 1, 0] * 40)
    points, loss = draw_class_mixtures((train, labels), (train, labels), 1, wanted, seed_of=lambda label: label)
    assert torch.equal((points.mean(1) > 3).long(), wanted)
    alone = [draw_mixture(train[labels == each], train[labels == each], 1, 9, seed=each)[1] for each in (0, 1)]
    assert loss == pytest.approx(0.6 * alone[0] + 0.4 * alone[1])
