import logging

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import datasets

from study import data


def test_digits_keep_their_splits_apart(caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="study"):
        found = data.load("digits", None)
    assert not caplog.records
    assert (len(found.train), len(found.val), len(found.test)) == (1197 * 9, 200, 400)
    assert (found.name, found.source, found.classes) == ("digits", "digits", tuple("0123456789"))
    assert found.image_shape == (1, 28, 28)
    for split in (found.train, found.val, found.test):
        assert set(split.labels.unique().tolist()) == set(range(10))
    train = {image.numpy().tobytes() for image in found.train.images}
    assert not train & {image.numpy().tobytes() for image in found.test.images}
    assert not train & {image.numpy().tobytes() for image in found.val.images}
    assert found.digest == data.load("digits", None).digest


def test_digits_are_scikit_learns() -> None:
    found = data.load("digits")
    bunch = datasets.load_digits()
    originals = found.train.images.unflatten(0, (9, 1197))[4]  # the place that is not shifted
    images = torch.cat([originals, found.val.images, found.test.images])
    labels = torch.cat([found.train.labels[:1197], found.val.labels, found.test.labels])
    # One pixel in three of the 24x24 lies on a pixel of the 8x8, where interpolation changes nothing.
    small = images[:, 0, 3:26:3, 3:26:3]
    ours = sorted(zip(small.flatten(1).tolist(), labels.tolist(), strict=True))
    exact = (torch.from_numpy(bunch.images).float() / 16 * 255).round().to(torch.uint8)
    assert ours == sorted(zip(exact.flatten(1).tolist(), bunch.target.tolist(), strict=True))


def test_the_digits_of_28_pixels_are_always_the_same() -> None:
    # What every figure in the documentation was made with; it must not change unnoticed.
    images = data.load("digits").train.images
    assert images.to(torch.int64).sum().item() == 483_746_229
    weighted = images[[0, 5_000, -1]].flatten(1).to(torch.int64) * torch.arange(784)
    assert weighted.sum(1).tolist() == [17_462_814, 15_531_737, 16_340_345]


@pytest.mark.parametrize(("size", "colour"), [(32, False), (28, True), (16, True)])
def test_other_sizes_and_colour_are_pillows(size: int, colour: bool) -> None:
    plain, found = data.load("digits"), data.load("digits", image_size=size, colour=colour)
    assert found.image_shape == (3 if colour else 1, size, size)
    assert torch.equal(found.val.labels, plain.val.labels)
    mode = "RGB" if colour else "L"
    for image, original in zip(data.to_pixels(found.val.images), plain.val.images[:, 0].numpy(), strict=True):
        expected = Image.fromarray(original).convert(mode).resize((size, size), Image.Resampling.BILINEAR)
        assert (image == np.asarray(expected)).all()
