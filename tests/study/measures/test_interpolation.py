import numpy as np
import pytest
import torch
from contexts import brightness_judge, uniform

from study.data.dataset import Dataset
from study.measures import interpolation
from study.measures.judges import Evaluator


@pytest.fixture
def brightness(tiny: Dataset) -> Evaluator:
    return Evaluator(brightness_judge(), tiny)


def test_paths_begin_and_end_with_their_classes_and_the_way_back_counts_alike(brightness: Evaluator) -> None:
    """Of the straight paths 2 to 4, 4 to 2, 2 to 3 and 7 to 8 the first two come past a third class."""
    wanted, points = torch.tensor([[2, 4], [4, 2], [2, 3], [7, 8]]), torch.arange(10.0).repeat(3)[:, None]
    found = interpolation.interpolate(points, lambda x: uniform(x[:, 0]), torch.lerp, wanted, brightness)
    assert found.images.shape == (4, interpolation.STEPS, 1, 28, 28)
    ends = found.images[:, [0, -1]].mean((2, 3, 4)) * 10
    torch.testing.assert_close(ends, wanted.float(), atol=1e-4, rtol=0)
    assert (found.measures["third_class"], found.measures["smoothness"]) == (0.5, pytest.approx(1, rel=1e-3))


PATHS = {
    # From 2 to 4: the brightness of each of the 11 steps, and what the paths must score.
    "straight, past 3": (torch.linspace(2, 4, 11), {"third_class": 1, "smoothness": 1}),
    "a jump": (torch.tensor([2.0] * 5 + [4.0] * 6), {"third_class": 0, "no_class": 0, "smoothness": 0.1}),
    "by way of 9": (torch.tensor([2.0] * 5 + [9.0] + [4.0] * 5), {"third_class": 1, "no_class": 0}),
    "doubtful between": (torch.tensor([2.0] + [2.5] * 9 + [4.0]), {"third_class": 0, "no_class": 1}),
    "a third class, unsurely": (torch.tensor([2.0] * 5 + [3.485] + [4.0] * 5), {"third_class": 0, "no_class": 1 / 9}),
}


@pytest.mark.parametrize("name", PATHS)
def test_measures_of_paths_made_by_hand(name: str, brightness: Evaluator) -> None:
    """Points are shares of the way; the decoder has the path of each share. There are fewer points than paths."""
    path, expected = PATHS[name]
    decode = lambda points: uniform(path[(points[:, 0] * 10).round().long()])  # noqa: E731
    points, wanted = torch.tensor([[0.0], [1.0]]), torch.tensor([[2, 4]] * 4)
    found = interpolation.interpolate(points, decode, torch.lerp, wanted, brightness)
    assert {measure: found.measures[measure] for measure in expected} == pytest.approx(expected, abs=1e-4, nan_ok=True)


@pytest.mark.parametrize("classes", [2, 3, 7, 8, 10, 26])
def test_pairs_are_of_different_classes(classes: int) -> None:
    wanted = interpolation.class_pairs(100, classes, 0)
    assert bool((wanted[:, 0] != wanted[:, 1]).all())
    assert set(wanted.flatten().tolist()) == set(range(classes))
    assert (wanted[:2].tolist() == [[5, 6], [6, 7]]) == (classes > 7)
    assert interpolation.class_pairs(1, classes, 0).shape == (1, 2)
    with pytest.raises(ValueError, match="but got 1"):
        interpolation.class_pairs(5, 1, 0)


def test_spherical_interpolation_keeps_the_length_and_turns_evenly() -> None:
    starts, ends = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 2.0]]])
    share, angles = torch.linspace(0, 1, 5)[None, :, None], torch.linspace(0, np.pi / 2, 5)
    expected = 2 * torch.stack([angles.cos(), angles.sin()], 1)[None]
    torch.testing.assert_close(interpolation.slerp(starts, ends, share), expected, atol=1e-5, rtol=0)
