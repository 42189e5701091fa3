"""The domains and their pairings, against NumPy and SciPy."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from scipy import ndimage

from study.config import Task
from study.training.translation import TASKS, Pairs, affine, make_pairs, misalign

COUNT = 401


@pytest.fixture
def numbered() -> torch.Tensor:
    """Images that are all of one colour, their number in two digits of base 256, so that each can be told."""
    number = torch.arange(COUNT)
    values = torch.stack([number // 256, number % 256], 1)[:, :, None, None]
    return torch.cat([values, values[:, :1]], 1).expand(-1, -1, 16, 16).to(torch.uint8).contiguous()


def numbers(images: torch.Tensor) -> torch.Tensor:
    """Which of the numbered images these are."""
    return 256 * images[:, 0, 0, 0].long() + images[:, 1, 0, 0].long()


def random_images(count: int, channels: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, 20, 20), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_tasks_are_those_of_scipy_and_numpy(channels: int) -> None:
    images = random_images(6, channels)
    plain = images.numpy()
    thick = ndimage.grey_dilation(plain, size=(1, 1, 3, 3), mode="nearest")
    np.testing.assert_array_equal(TASKS["outline"](images).numpy(), thick - plain)
    np.testing.assert_array_equal(TASKS["thicken"](images).numpy(), thick)
    rotated = np.stack([[np.rot90(one) for one in image] for image in plain])
    np.testing.assert_array_equal(TASKS["rotate"](images).numpy(), rotated)
    assert tuple(TASKS) == get_args(Task)


def test_affine_maps_are_those_of_scipy() -> None:
    images = random_images(4).float() / 255
    degrees, scale = torch.tensor([5.0, -4.0, 0.0, 30.0]), torch.tensor([1.1, 0.9, 1.0, 1.0])
    shift = torch.tensor([[0.1, 0.0], [-0.05, 0.1], [0.1, -0.1], [0.0, 0.0]])
    made = affine(images, degrees, shift, scale).numpy()
    centre = np.array([9.5, 9.5])  # row, column
    for number, image in enumerate(images[:, 0].numpy()):
        angle = math.radians(float(degrees[number]))
        # What is at (row, column) from the centre goes up and to the left as it is turned counterclockwise.
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        forward = float(scale[number]) * turn
        moved = 20 * shift[number].numpy()[::-1]  # down, right
        back = np.linalg.inv(forward)
        expected = ndimage.affine_transform(
            image, back, centre - back @ (centre + moved), order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(made[number, 0], expected, atol=2e-4)


@pytest.mark.parametrize(("drawn", "sign"), [(1.0, 1), (0.0, -1)])
def test_misalignment_reaches_as_far_as_regans_level_3(
    drawn: float, sign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = random_images(3).float() / 255
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, drawn))
    ones = torch.ones(3)
    expected = affine(images, sign * 3 * ones, sign * 0.06 * torch.ones(3, 2), 1 + sign * 0.06 * ones)
    torch.testing.assert_close(misalign(images), expected)


def drawn(pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers of the images of A and B in an epoch."""
    ((a, b),) = pairs.batches(len(pairs.a), len(pairs.a))
    return numbers((a * 255).round()), numbers((b * 255).round())


def test_paired_images_are_of_the_same_image(numbered: torch.Tensor) -> None:
    a, b = drawn(make_pairs("rotate", numbered, "paired", seed=0))
    assert torch.equal(a, b)
    assert sorted(a.tolist()) == list(range(COUNT))
    assert a.tolist() != list(range(COUNT))


def test_unpaired_images_are_of_disjoint_halves_in_new_pairs_each_epoch(numbered: torch.Tensor) -> None:
    pairs = make_pairs("rotate", numbered, "unpaired", seed=0)
    (a, b), (again_a, again_b) = drawn(pairs), drawn(pairs)
    assert len(set(a.tolist())) == len(set(b.tolist())) == COUNT // 2
    assert len(pairs.b) == COUNT - COUNT // 2
    assert not set(a.tolist()) & set(b.tolist())
    first, second = (
        dict(zip(a.tolist(), b.tolist(), strict=True)),
        dict(zip(again_a.tolist(), again_b.tolist(), strict=True)),
    )
    assert sum(first[each] == second[each] for each in first) < 10
    other = make_pairs("rotate", numbered, "unpaired", seed=1)
    assert set(numbers(other.a).tolist()) != set(a.tolist())


def test_loosely_paired_images_are_moved_apart_and_anew() -> None:
    images = torch.zeros(64, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 10:18, 10:18] = 255
    (a, b), (again, _) = (next(make_pairs("rotate", images, "loosely paired", seed=0).batches(64, 64)) for _ in "ab")
    for one, other in ((a, b), (a, again)):
        assert float((one - other).abs().mean()) > 0.005
    rows = torch.arange(28.0)
    centres = [(image.sum((1, 3)) * rows).sum(1) / image.sum((1, 2, 3)) for image in (a, b)]
    reach = 0.06 * 28 + 0.2
    for centre in centres:
        assert bool(((centre - 13.5).abs() <= reach).all())
    assert abs(float(torch.corrcoef(torch.stack(centres))[0, 1])) < 0.4


def test_batches_are_floats_and_as_many_as_asked_for(numbered: torch.Tensor) -> None:
    found = list(make_pairs("rotate", numbered, "paired", seed=0).batches(100, 32))
    assert [len(a) for a, _ in found] == [32, 32, 32]
    assert all(a.dtype == torch.float32 and a.max() <= 1 for a, _ in found)
