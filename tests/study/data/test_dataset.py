"""Data sets as tensors, their digest, splits and rules; and what `--data` takes."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from study import data
from study.checks import UsageError
from study.data import DataError, Dataset, Split
from study.data.dataset import check_dataset, stratified_split

DATA_NAMES = [
    *(("mnist", "mnist"), ("./digits", "digits-images"), ("mnist.npz", "mnist-images"), ("/", "-images")),
    *(("/data/My Photos (2024)", "My-Photos-2024-"), ("some/../Other.npz/", "Other"), ("/data/Äpfel", "pfel-ebf241")),
]
NO_DATA = [
    ("mnits", {}, r"'mnits' cannot be read \(No such file or directory\): --data takes auto, mnist, fashion-mnist"),
    ("", {}, "a path must not be empty"),
    ("~nobody-has-this-name/x", {}, "begins with ~"),
    ("a\0b", {}, "cannot be read"),
    ("x" * 300, {}, "File name too long"),
    ("photos.tar.gz", {}, "neither a folder of images nor an .npz file"),
    *[("digits", {"image_size": size}, f"multiple of 4 from 16 to 64, but is {size}") for size in (12, 18, 68)],
]


def split_of(count: int, seed: int, classes: int = 3) -> Split:
    images = torch.randint(0, 256, (count, 1, 16, 16), generator=torch.Generator().manual_seed(seed))
    return Split(images.to(torch.uint8), torch.arange(count) % classes)


@pytest.fixture
def small() -> Dataset:
    return Dataset("small", split_of(30, 0), split_of(9, 1), split_of(12, 2), classes=("a", "b", "c"))


def test_the_digest_is_of_every_part_of_the_data_and_of_nothing_else(small: Dataset) -> None:
    turned = small.each(lambda split: Split(split.images.mT.contiguous().mT, split.labels.clone()))
    again = replace(turned, name="other", source="elsewhere")  # and laid out in memory another way
    assert again.digest == small.digest
    relabelled = replace(small, test=Split(small.test.images, small.test.labels.flip(0)))
    parts = [replace(small, train=small.val, val=small.train), relabelled, replace(small, classes=("a", "c", "b"))]
    assert len({each.digest for each in (small, *parts)}) == 4


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_images(channels: int) -> None:
    pixels = torch.randint(0, 256, (4, channels, 20, 20), dtype=torch.uint8)
    expected = pixels.permute(0, 2, 3, 1).numpy() if channels == 3 else pixels[:, 0].numpy()
    for found in (data.to_pixels(pixels), data.to_pixels(data.to_float(pixels))):
        assert (found.dtype, found.flags.c_contiguous) == (np.uint8, True)
        np.testing.assert_array_equal(found, expected)


def test_a_stratified_split_has_every_class_in_every_part() -> None:
    sizes, fractions = torch.tensor([100, 3, 57, 10, 5]), (0.1, 0.2)
    labels = torch.arange(5).repeat_interleave(sizes)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(5))]
    parts = stratified_split(labels, fractions)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))  # each position once
    for fraction, part in zip(fractions, parts[1:], strict=True):
        counts = labels[part].bincount(minlength=5)
        assert bool((counts >= 1).all() & ((counts - fraction * sizes).abs() <= 1).all())
    assert len(labels[parts[0]][:30].unique()) > 1  # mixed, not one class after the other
    assert all(torch.equal(a, b) for a, b in zip(parts, stratified_split(labels, fractions), strict=True))
    with pytest.raises(DataError, match="3 or more images of each class, but class 'dog' has only 2"):
        stratified_split(torch.tensor([0, 0, 0, 1, 1]), fractions, ("cat", "dog"))


def pixels(low: int, high: int) -> Split:
    """Images whose pixels run from `low` to `high`."""
    images = torch.linspace(low, high, 12 * 256).round().to(torch.uint8).reshape(12, 1, 16, 16)
    return Split(images, torch.arange(12) % 3)


SAME = Split(torch.arange(256).to(torch.uint8).repeat(9, 1).view(9, 1, 16, 16), torch.arange(9) % 3)
BROKEN_RULES = [
    ({"train": pixels(0, 1)}, "from 0 to 255, but those of the training images .* are from 0 to 1"),
    ({"test": pixels(200, 216)}, "from 0 to 255, but those of the test images .* are from 200 to 216"),
    ({"val": SAME}, "images must differ, but all 9 validation images"),
    ({"classes": ("one",)}, "from 2 to 200 classes, but has 1"),
    ({"classes": tuple(map(str, range(201)))}, "from 2 to 200 classes, but has 201: .* and 196 more"),
    ({"classes": ("a", "b", "a")}, "differ, but one is 'a'"),
    ({"classes": ("a", "one\ntwo")}, r"printable texts .* one is 'one\\ntwo'"),
]


@pytest.mark.parametrize(("changes", "rule"), BROKEN_RULES)
def test_data_that_break_a_rule(small: Dataset, changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(DataError, match=rule):
        check_dataset(replace(small, **changes))


def test_pixels_in_half_of_the_range_are_warned_of(small: Dataset, caplog) -> None:
    for top in (127, 128):
        check_dataset(replace(small, train=pixels(0, top)))
        assert [f"from 0 to {each}" in caplog.text for each in (127, 128)] == [True, False]


@pytest.mark.parametrize(("given", "name"), DATA_NAMES)
def test_names_of_data(given: str, name: str) -> None:
    assert data.data_name(given) == name
    found = [data.data_name(f"/data/{name}") for name in ("葉", "花", "葉.npz", "яблоки", "груши")]
    assert len(set(found)) == 4, "in other scripts they stay different; an array file is called as its folder would be"
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in found)


@pytest.mark.parametrize(("given", "options", "rule"), NO_DATA)
def test_what_is_no_data(given: str, options: dict[str, int], rule: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos.tar.gz").touch()
    with pytest.raises(UsageError, match=rf"\A.*{rule}.*\Z"):  # in one line
        data.load(given, **options)


@pytest.mark.parametrize(("test_images", "points"), [(60, 13), (400, 5), (3, 58)])
def test_few_images_are_told_once(small: Dataset, test_images: int, points: int, caplog) -> None:
    check_dataset(replace(small, test=split_of(test_images, 2)))
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"only 30 training, 9 validation and {test_images} test images" in message
    assert f"less than about {points} points of accuracy" in message
    # two standard errors of a difference of two accuracies of 85 %, in points, and not more than a point off
    assert points == pytest.approx(200 * (2 * 0.85 * 0.15 / test_images) ** 0.5, abs=1.5)
