import pytest
import torch

from study.science.sampling import balanced_labels, generator_inputs, noise

CPU = torch.device("cpu")


@pytest.mark.parametrize("classes", [3, 10, 26])
def test_generator_inputs(classes: int) -> None:
    assert torch.equal(noise(5, 3, 1, CPU), noise(5, 3, 1, CPU))
    assert generator_inputs(20, 3, 0, CPU).shape == (20, 3)
    inputs = generator_inputs(20, 3, 0, CPU, classes=classes)
    assert inputs.shape == (20, 3 + classes)
    assert torch.equal(inputs[:, 3:].argmax(1), balanced_labels(20, classes, CPU))
    assert torch.equal(inputs[:, :3], noise(20, 3, 0, CPU))


def test_labels_are_balanced() -> None:
    assert balanced_labels(7, 3, CPU).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_a_smaller_noise_is_the_beginning_of_a_larger_one() -> None:
    assert torch.equal(noise(7, 20, 3, CPU)[:, :10], noise(7, 10, 3, CPU))
