"""The built-in data sets: MNIST, Fashion-MNIST and KMNIST by torchvision, the digits by scikit-learn."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch

from study.data.dataset import SPLIT_SEED, DataError, Dataset, Split, log

STALL_TIMEOUT = 15.0  # seconds that a download may take to answer or to go on
VALIDATION_IMAGES = 5_000  # of the training images of MNIST and its like
DIGITS_VALIDATION, DIGITS_TEST = 200, 400
KINDS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}  # torchvision's classes and folders
FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def load_built_in(name: str, root: Path, fall_back: bool) -> Dataset:
    """Return a built-in data set, split; `fall_back`: auto may be the digits in place of MNIST.

    MNIST and its like are in `MNIST/raw` and so on of the root, torchvision's data folder, or are downloaded to it.

    Raises:
        DataError: The files cannot be read or downloaded.
    """
    if name == "digits":
        return _digits()
    try:
        return _mnist("mnist" if name == "auto" else name, root)
    except FileNotFoundError as error:
        if name != "auto" or not fall_back:
            raise DataError(str(error)) from error
        log.warning(f"falling back to scikit-learn's 8x8 digits: {error}")
        return _digits()


def _mnist(name: str, root: Path) -> Dataset:
    folder = root / KINDS[name] / "raw"
    try:
        there = os.listdir(folder)
    except FileNotFoundError:
        there = []
    except OSError as error:
        raise DataError(f"the data folder {folder} cannot be read: {error.strerror}") from error
    from torchvision import datasets  # 2 s to import

    kind = getattr(datasets, KINDS[name])
    missing = [file for file in FILES if file not in there]
    if missing:
        _download(kind, root, f"{folder} has no {missing[0]}")
    try:
        parts = [kind(root, train=train) for train in (True, False)]
    except Exception as error:  # torchvision raises nearly everything on damaged files
        reason = getattr(error, "strerror", None) or "a file is damaged: delete it, and it is downloaded again"
        raise DataError(f"{getattr(error, 'filename', None) or folder} cannot be read: {reason}") from error
    train, test = (Split(part.data.unsqueeze(1), part.targets.to(torch.int64)) for part in parts)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SPLIT_SEED))
    rest, val = train.take(order[VALIDATION_IMAGES:]), train.take(order[:VALIDATION_IMAGES])
    classes = tuple("0123456789") if name == "mnist" else tuple(kind.classes)
    return Dataset(name, rest, val, test, classes=classes, source=name)


def _download(kind: type, root: Path, why: str) -> None:
    """Download a data set; a FileNotFoundError if that fails. One that was stopped goes on with the next call."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_TIMEOUT)
    try:
        with redirect_stdout(sys.stderr):
            kind(root, download=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        help_ = "give torchvision's data folder by --data-dir, or use --data digits"
        raise FileNotFoundError(f"{why} and {kind.__name__} cannot be downloaded ({reason}): {help_}") from error
    finally:
        socket.setdefaulttimeout(timeout)


def _digits() -> Dataset:
    """Return scikit-learn's 1,797 digits of 8x8 pixels, upsampled to 24x24 within a margin of 2, as MNIST has one.

    So few images give too few steps an epoch: every training image is kept in nine places, shifted by at most a pixel.
    """
    from sklearn import datasets  # 1 s to import

    bunch = datasets.load_digits()
    small = torch.from_numpy(bunch.images).to(torch.float32).unsqueeze(1) / 16  # [1797, 1, 8, 8]
    large = torch.nn.functional.interpolate(small, size=24, mode="bilinear")
    large = torch.nn.functional.pad(large, (2, 2, 2, 2))  # [1797, 1, 28, 28]
    everything = Split((large * 255).round().to(torch.uint8), torch.from_numpy(bunch.target).to(torch.int64))
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(SPLIT_SEED))
    sizes = [DIGITS_TEST, DIGITS_VALIDATION, len(order) - DIGITS_TEST - DIGITS_VALIDATION]
    test, val, train = (everything.take(part) for part in order.split(sizes))
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    images = torch.cat([torch.roll(train.images, shift, dims=(2, 3)) for shift in shifts])
    train = Split(images, train.labels.repeat(len(shifts)))
    return Dataset("digits", train, val, test, classes=tuple("0123456789"), source="digits")
