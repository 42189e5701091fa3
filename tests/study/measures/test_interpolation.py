import numpy as np
import pytest
import torch
from gans import brightness_judge

from study.data.dataset import Dataset
from study.measures import interpolation
from study.measures.judges import Evaluator


@pytest.fixture
def brightness(tiny: Dataset) -> Evaluator:
    return Evaluator(brightness_judge(), tiny)


def uniform(values: torch.Tensor) -> torch.Tensor:
    return (values / 10).reshape(-1, 1, 1, 1).expand(-1, 1, 28, 28).contiguous()


def test_paths_begin_and_end_with_their_classes_and_pass_what_lies_between(brightness: Evaluator) -> None:
    wanted = interpolation.class_pairs(100, 10, 0)
    points = torch.arange(10.0).repeat(30)[:, None]
    found = interpolation.interpolate(points, lambda x: uniform(x[:, 0]), torch.lerp, wanted, brightness)
    assert found.images.shape == (100, interpolation.STEPS, 1, 28, 28)
    brightness = found.images.mean((2, 3, 4)) * 10
    torch.testing.assert_close(brightness[:, [0, -1]], wanted.float(), atol=1e-4, rtol=0)
    inner = torch.stack([torch.lerp(start, end, torch.linspace(0, 1, 11)[1:-1]) for start, end in wanted.float()])
    # Two neighbouring digits' logits differ by 60 * |1 - 2 d| at a distance of d: 9 to 1 is at a difference of ln 9.
    doubtful = ((inner - inner.round()).abs() > 0.5 - np.log(9) / 120).float().mean()
    assert found.measures["no_class"] == pytest.approx(float(doubtful), abs=0.02)
    assert found.measures["smoothness"] == pytest.approx(1, rel=1e-3)
    # The middle step lies on a digit or between two; of a path that is longer than 1 some step comes near a third one.
    distance = (
        (inner - inner.round()).abs().masked_fill((inner.round()[:, :, None] == wanted.float()[:, None]).any(2), 1.0)
    )
    third = (distance.min(1).values < 0.5 - np.log(9) / 120).float().mean()
    assert 0.5 < found.measures["third_class"] == pytest.approx(float(third))


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

    def decode(points: torch.Tensor) -> torch.Tensor:
        return uniform(path[(points[:, 0] * 10).round().long()])

    points, wanted = torch.tensor([[0.0], [1.0]]), torch.tensor([[2, 4]] * 4)
    found = interpolation.interpolate(points, decode, torch.lerp, wanted, brightness)
    assert {measure: found.measures[measure] for measure in expected} == pytest.approx(expected, abs=1e-4, nan_ok=True)


def test_a_third_class_is_a_share_of_the_paths_and_the_way_back_counts_alike(brightness: Evaluator) -> None:
    """Of the straight paths 2 to 4, 4 to 2, 2 to 3 and 7 to 8 the first two come past a third class."""
    wanted, points = torch.tensor([[2, 4], [4, 2], [2, 3], [7, 8]]), torch.arange(10.0)[:, None]
    found = interpolation.interpolate(points, lambda x: uniform(x[:, 0]), torch.lerp, wanted, brightness)
    assert found.measures["third_class"] == 0.5


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
    share = torch.linspace(0, 1, 5)[None, :, None]
    angles = torch.linspace(0, np.pi / 2, 5)
    expected = 2 * torch.stack([angles.cos(), angles.sin()], 1)[None]
    torch.testing.assert_close(interpolation.slerp(starts, ends, share), expected, atol=1e-5, rtol=0)
