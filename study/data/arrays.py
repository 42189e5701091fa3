"""Images and labels in one NumPy file (.npz), with the names that MedMNIST or Keras give the arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from study.data.checks import check_classes, listed
from study.data.dataset import SPLIT_SEED, VALIDATION_SHARE, DataError, Dataset, Split, shuffled, stratified_split
from study.data.images import convert, tell_of_resizing

LARGEST = 2**53  # up to here float64 holds every whole number
MEDMNIST, KERAS = "{}_images {}_labels", "x_{} y_{}"
NAMES = (
    "train_images, train_labels, test_images, test_labels (as MedMNIST; val_images, val_labels may be there)"
    " or x_train, y_train, x_test, y_test (as Keras)"
)


def load_arrays(path: Path, name: str, *, image_size: int, colour: bool) -> Dataset:
    """The arrays of an .npz file, each part in a random order that never changes.

    Images are uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3]; labels are whole numbers from 0 to classes - 1, [N] or
    [N, 1]; the optional array `class_names` holds one text a class. Without validation images, 10 % of the training
    images of each class are taken for them.

    Raises:
        DataError: The file cannot be read, or an array is missing or breaks a rule; the message names it.
    """
    arrays = _read(path)
    names = _names(arrays, path)
    labels = {part: _labels(arrays, names[part], path) for part in names}
    classes = _classes(arrays.get("class_names"), labels["train"], path)
    check_classes(name, classes)
    for part, found in labels.items():
        low, high = int(found.min()), int(found.max())
        if low < 0 or high >= len(classes):
            value, array = (low if low < 0 else high), names[part][1]
            raise DataError(
                f"{array} of {path} must be from 0 to {len(classes) - 1}, as there are {len(classes)} classes,"
                f" but one label is {value}"
            )
    images = {part: _images(arrays[names[part][0]], f"{names[part][0]} of {path}") for part in names}
    tell_of_resizing(name, ((each.shape[2], each.shape[1]) for each in images.values()), image_size)
    splits = {part: Split(convert(images[part], image_size, colour), labels[part]) for part in names}
    train = splits["train"]
    if "val" in splits:
        rest, val = shuffled(train), shuffled(splits["val"])
    else:
        rest, val = map(train.take, stratified_split(train.labels, (VALIDATION_SHARE,), SPLIT_SEED, classes=classes))
    return Dataset(name, rest, val, shuffled(splits["test"]), classes=classes, source=str(path))


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the file by name; an empty one in place of each that we do not know, which stays unread."""
    wanted = {name for scheme in (MEDMNIST, KERAS) for part in ("train", "val", "test") for name in _pair(scheme, part)}
    reading = "the file"
    try:
        with path.open("rb") as stream:  # np.load leaves a damaged file open that it opened itself
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array without a name")
            found = {}
            for reading in file.files:
                known = reading in wanted or reading == "class_names"
                found[reading] = file[reading] if known else np.empty(0)
                if not isinstance(found[reading], np.ndarray):
                    raise ValueError("it is no array")
            return found
    except Exception as error:  # zipfile, zlib and NumPy raise nearly everything on damaged files
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        if "allow_pickle" in reason:
            reason = "it holds Python objects (a pickle), not numbers"
        where = str(path) if reading == "the file" else f"{reading} of {path}"
        raise DataError(f"{where} cannot be read as .npz without pickles: {reason}") from error


def _pair(scheme: str, part: str) -> tuple[str, str]:
    images, labels = scheme.format(part, part).split()
    return images, labels


def _names(arrays: dict[str, np.ndarray], path: Path) -> dict[str, tuple[str, str]]:
    """The names of the arrays of images and labels by part."""
    scheme = MEDMNIST if "train_images" in arrays or "x_train" not in arrays else KERAS
    pairs = {part: _pair(scheme, part) for part in ("train", "val", "test")}
    if not any(name in arrays for name in pairs["val"]):
        del pairs["val"]
    missing = [name for pair in pairs.values() for name in pair if name not in arrays]
    if missing:
        there = listed(arrays) or "nothing"
        raise DataError(f"{path} must hold {NAMES}, but there is no {listed(missing)}: it holds {there}")
    return pairs


def _images(images: np.ndarray, what: str) -> np.ndarray:
    """Images as [N, H, W] or [N, H, W, 3]."""
    if images.dtype != np.uint8:
        raise DataError(f"{what} must be of uint8, 0 to 255, but are of {images.dtype}")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        shape = list(images.shape)
        raise DataError(f"{what} must have the shape [N, H, W], [N, H, W, 1] or [N, H, W, 3], but have {shape}")
    if not images.size:
        raise DataError(f"{what} must hold images, but have the shape {list(images.shape)}")
    return images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images


def _labels(arrays: dict[str, np.ndarray], names: tuple[str, str], path: Path) -> Tensor:
    """Labels as int64 [N], as many as there are images."""
    images, labels = (arrays[name] for name in names)
    what = f"{names[1]} of {path}"
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        shape = list(labels.shape)
        raise DataError(f"{what} must be one label an image, of shape [N] or [N, 1], but have the shape {shape}")
    if labels.dtype.kind not in "biuf":
        raise DataError(f"{what} must be whole numbers, but are of {labels.dtype}")
    count = len(images) if images.ndim else 0
    if len(labels) != count:
        raise DataError(f"{names[0]} and {names[1]} of {path} must be equally many, but are {count} and {len(labels)}")
    if not count:
        raise DataError(f"{what} must hold labels, but are empty")
    values = labels.astype(np.float64)
    wrong = ~np.isfinite(values) | (values != values.round()) | (abs(values) > LARGEST)
    if wrong.any():
        raise DataError(f"{what} must be whole numbers from 0 to classes - 1, but one is {labels[wrong.argmax()]}")
    return torch.from_numpy(values.astype(np.int64))


def _classes(names: np.ndarray | None, train: Tensor, path: Path) -> tuple[str, ...]:
    if names is None:
        return tuple(str(label) for label in range(len(train.unique())))
    if names.ndim != 1 or names.dtype.kind not in "US":
        shape = list(names.shape)
        raise DataError(f"class_names of {path} must be texts, [classes], but are of {names.dtype} and shape {shape}")
    try:
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist())
    except UnicodeDecodeError as error:
        raise DataError(f"class_names of {path} must be UTF-8, but are not: {error}") from error
