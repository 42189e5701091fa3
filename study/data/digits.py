"""scikit-learn's embedded digits: real handwriting without a file or a connection."""

from __future__ import annotations

import torch

from study.data.dataset import SPLIT_SEED, Dataset, Split

TEST_IMAGES, VALIDATION_IMAGES = 400, 200


def load_digits() -> Dataset:
    """scikit-learn's 1,797 digits of 8x8 pixels, upsampled to 24x24 within a margin of 2, as MNIST has one.

    So few images give too few steps an epoch: every training image is kept in nine places, shifted by at
    most one pixel. Validation and test images are the originals.
    """
    from sklearn import datasets  # 1 s to import

    bunch = datasets.load_digits()
    small = torch.from_numpy(bunch.images).to(torch.float32).unsqueeze(1) / 16  # [1797, 1, 8, 8]
    large = torch.nn.functional.interpolate(small, size=24, mode="bilinear")
    large = torch.nn.functional.pad(large, (2, 2, 2, 2))  # [1797, 1, 28, 28]
    everything = Split((large * 255).round().to(torch.uint8), torch.from_numpy(bunch.target).to(torch.int64))
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(SPLIT_SEED))
    sizes = [TEST_IMAGES, VALIDATION_IMAGES, len(order) - TEST_IMAGES - VALIDATION_IMAGES]
    test, val, train = (everything.take(part) for part in order.split(sizes))
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    shifted = Split(
        torch.cat([torch.roll(train.images, shift, dims=(2, 3)) for shift in shifts]),
        train.labels.repeat(len(shifts)),
    )
    return Dataset("digits", shifted, val, test, classes=tuple("0123456789"), source="digits")
