import torch

from study.science.baselines import mixture_latents


def test_a_mixture_gives_back_the_clusters_it_was_fitted_to() -> None:
    centres = torch.tensor([[-5.0, 0.0], [5.0, 0.0]])
    points = centres.repeat(200, 1) + 0.1 * torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    drawn = mixture_latents(points, 2, 500, seed=0)
    assert drawn.shape == (500, 2)
    assert float(torch.cdist(drawn, centres).min(1).values.max()) < 1
    assert 100 < int((drawn[:, 0] > 0).sum()) < 400
    assert 30 < int((drawn[:100, 0] > 0).sum()) < 70, "any part of them is a sample too"
    gaussian = mixture_latents(points, 1, 20_000, seed=0)
    torch.testing.assert_close(torch.cov(gaussian.T), torch.cov(points.T), atol=0.5, rtol=0.05)


def test_a_mixture_has_no_more_components_than_points() -> None:
    points = 100 * torch.eye(5)
    drawn = mixture_latents(points, 20, 50, seed=0)
    assert float(torch.cdist(drawn, points).min(1).values.max()) < 1
