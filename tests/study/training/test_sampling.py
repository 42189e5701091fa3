import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from study.training import sampling

CPU = torch.device("cpu")


@pytest.mark.parametrize(("real", "expected"), [(10_000, 10_000), (5_000, 5_000), (360, 1_000), (60_000, 10_000)])
def test_as_many_samples_as_real_images_within_bounds(real: int, expected: int) -> None:
    assert sampling.sample_count(real) == expected


def test_inputs_are_noise_and_one_hot_labels_with_the_fractions_of_real_ones() -> None:
    real = torch.tensor([2, 0, 0, 0])
    plain, none = sampling.generator_inputs(5, 0, real, seed=1)
    assert (plain.shape, none) == ((1_000, 5), None)
    inputs, labels = sampling.generator_inputs(5, 3, real, seed=1, count=6)
    assert torch.equal(inputs[:, :5], sampling.noise(6, 5, 1, CPU))
    assert labels is not None
    assert inputs[:, 5:].argmax(1).tolist() == labels.tolist() == [2, 0, 0, 0, 2, 0]
    larger, smaller, other = (sampling.noise(7, dim, seed, CPU) for dim, seed in ((20, 3), (10, 3), (10, 2)))
    assert torch.equal(larger[:, :10], smaller), "a smaller noise begins a larger one"
    assert not torch.equal(smaller, other)


@pytest.mark.parametrize(("classes", "shape"), [(0, (100, 7)), (3, (30, 10)), (26, (200, 33))])
def test_the_sample_sheet_has_a_row_a_class_with_the_same_noises(classes: int, shape: tuple[int, int]) -> None:
    shown = sampling.sheet_inputs(7, classes, CPU)
    assert tuple(shown.shape) == shape
    if classes:
        rows = shown.reshape(-1, 10, shape[1])
        assert torch.equal(rows[:, :, :7], rows[:1, :, :7].expand(len(rows), -1, -1))
        assert torch.equal(rows[:, :, 7:].argmax(2), torch.arange(len(rows))[:, None].expand(-1, 10))


def test_places_are_taken_once_until_a_class_has_no_more() -> None:
    labels, wanted = torch.tensor([0, 1, 0, 1, 1]), torch.tensor([1, 1, 0, 1, 1, 0, 0])
    found = sampling.places_of(wanted, labels)
    assert torch.equal(labels[found], wanted)
    assert found.tolist() == [1, 3, 0, 4, 1, 2, 0]


def clusters(count: int, seed: int) -> torch.Tensor:
    noise = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return noise + 6 * (torch.arange(count) % 2)[:, None]


@pytest.mark.parametrize("quick", [False, True])
def test_a_mixture_draws_from_the_clusters_and_knows_their_density(quick: bool) -> None:
    points, loss = sampling.draw_mixture(clusters(600, 0), clusters(400, 1), 2, 500, seed=0, quick=quick)
    assert points.shape == (500, 3)
    right = (points.mean(1) > 3).float()
    assert 0.4 < float(right.mean()) < 0.6
    assert 0.3 < float(right[:100].mean()) < 0.7, "any part of them is a sample too"
    held_out = clusters(400, 1).numpy()
    parts = [multivariate_normal(np.full(3, 6.0 * which)).pdf(held_out) for which in (0, 1)]
    assert loss == pytest.approx(-np.log((parts[0] + parts[1]) / 2).mean(), abs=0.1)


def test_one_component_is_a_gaussian_and_there_are_no_more_than_points() -> None:
    points, apart = clusters(300, 0), 100 * torch.eye(5)
    drawn, _ = sampling.draw_mixture(points, points, 1, 20_000, seed=0)
    np.testing.assert_allclose(np.cov(drawn.numpy().T), np.cov(points.numpy().T), rtol=0.1, atol=0.3)
    assert float(torch.cdist(sampling.draw_mixture(apart, apart, 20, 50, seed=0)[0], apart).min(1).values.max()) < 1
    alone = torch.tensor([[3.0, -1.0]])  # a class of one image, and none held out
    points, loss = sampling.draw_mixture(alone, alone[:0], 20, 50, seed=0)
    assert loss is None
    torch.testing.assert_close(points, alone.expand(50, -1), atol=0.1, rtol=0)


def test_each_label_is_drawn_from_the_mixture_of_its_own_latents() -> None:
    train, labels = clusters(600, 0), torch.arange(600) % 2
    wanted = torch.tensor([1, 0, 0, 1, 0] * 40)
    labelled = train, labels
    points, loss = sampling.draw_class_mixtures(labelled, labelled, 1, wanted, seed_of=lambda label: label)
    assert torch.equal((points.mean(1) > 3).long(), wanted)
    alone = [sampling.draw_mixture(train[labels == each], train[labels == each], 1, 9, seed=each)[1] for each in (0, 1)]
    assert loss == pytest.approx(0.6 * alone[0] + 0.4 * alone[1])
