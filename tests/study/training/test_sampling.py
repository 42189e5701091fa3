import pytest
import torch

from study.training.sampling import balanced_labels, labels_like, noise, sample_count

CPU = torch.device("cpu")


def test_the_same_seed_gives_the_same_noise() -> None:
    assert torch.equal(noise(5, 3, 1, CPU), noise(5, 3, 1, CPU))
    assert not torch.equal(noise(5, 3, 1, CPU), noise(5, 3, 2, CPU))


@pytest.mark.parametrize("count", [4, 8, 6])
def test_labels_have_the_shares_of_real_ones(count: int) -> None:
    """Of an uneven set, a generator is asked for as many of each class as there are, not for as many of all."""
    real = torch.tensor([2, 0, 0, 0])
    found = labels_like(real, count)
    assert found.shape == (count,)
    assert torch.bincount(found[:4]).tolist() == [3, 0, 1]
    assert set(found.tolist()) == {0, 2}


@pytest.mark.parametrize(("real", "expected"), [(10_000, 10_000), (5_000, 5_000), (360, 1_000), (60_000, 10_000)])
def test_as_many_samples_as_real_images_within_bounds(real: int, expected: int) -> None:
    assert sample_count(real) == expected


def test_labels_are_balanced() -> None:
    assert balanced_labels(7, 3, CPU).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_a_smaller_noise_is_the_beginning_of_a_larger_one() -> None:
    assert torch.equal(noise(7, 20, 3, CPU)[:, :10], noise(7, 10, 3, CPU))
