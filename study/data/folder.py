"""A folder of images: one folder a class, as torchvision's ImageFolder has it, or images without labels."""

from __future__ import annotations

import logging
import os
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from study.data.checks import check_classes, listed
from study.data.dataset import SPLIT_SEED, VALIDATION_SHARE, DataError, Dataset, Split, shuffled, stratified_split
from study.data.images import convert, endings, read_image, tell_of_resizing

TEST_SHARE = 0.2
IGNORED = {"__MACOSX", "@eaDir"}  # what file managers and servers leave behind, beside names with a dot
PART_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What people call the parts, in whatever case."""
NO_CLASS = ""
"""The only "class" of a folder whose images lie directly in it."""

Part = dict[str, list[Path]]
"""Image files by class, classes and files in sorted order."""


def load_folder(path: Path, name: str, *, image_size: int, colour: bool) -> Dataset:
    """The images below a folder, each part in a random order that never changes.

    The folder has `train/`, `test/` and perhaps `val/`, or is one level that is split by class: 20 % test, 10 %
    validation. Without `val/`, 10 % of `train/` are the validation images. In each, one folder a class, whose name
    is the class name; or the images lie directly in it and have no labels. Folders below a class folder belong
    to it. Names that start with a dot and files that are no images by their ending are left out.

    Raises:
        DataError: A class or a part is missing or too small, or an image cannot be read; the message names it.
    """
    parts = _find(path)
    classes = list(parts["train"])
    labelled = classes != [NO_CLASS]
    if labelled:
        check_classes(name, classes)
    for part, found in parts.items():
        _compare(path / part, classes, list(found))
    read = {part: _read(found, image_size, colour) for part, found in parts.items()}
    splits = {part: split for part, (split, _) in read.items()}
    tell_of_resizing(name, set().union(*(sizes for _, sizes in read.values())), image_size)
    names = tuple(classes) if labelled else ()
    train = splits["train"]
    if "test" not in splits:
        shares = (VALIDATION_SHARE, TEST_SHARE)
        rest, val, test = map(train.take, stratified_split(train.labels, shares, SPLIT_SEED, classes=names))
        return Dataset(name, rest, val, test, classes=names, source=str(path))
    if "val" in splits:
        rest, val = shuffled(train), shuffled(splits["val"])
    else:
        rest, val = map(train.take, stratified_split(train.labels, (VALIDATION_SHARE,), SPLIT_SEED, classes=names))
    return Dataset(name, rest, val, shuffled(splits["test"]), classes=names, source=str(path))


def _find(path: Path) -> dict[str, Part]:
    """The image files by part and class; the only part is "train" where the folder is one level."""
    folders = _parts(path)
    claimed: dict[str, Path] = {}
    if folders != {"train": path}:
        _claim(path, claimed)
    for folder in folders.values():
        _claim(folder, claimed)
        for inner in _entries(folder)[0]:
            _claim(inner, claimed)
    return {part: _classes(folder, claimed) for part, folder in folders.items()}


def _parts(path: Path) -> dict[str, Path]:
    """The folders of the parts: train, test and perhaps val; or train alone, which is the folder itself."""
    folders = {folder.name: folder for folder in _entries(path)[0]}
    there = {PART_NAMES.get(name.lower(), name): folder for name, folder in folders.items()}
    if len(there) < len(folders):
        raise DataError(f"{path} must have one folder of each part, but has {listed(sorted(folders))}")
    for part, other in (("train", "test"), ("test", "train")):
        # "train" may be a class beside "car" and "bus"; with class folders in it, or alone, it is a part.
        if part in there and other not in there and (there.keys() <= {part, "val"} or _entries(there[part])[0]):
            raise DataError(f"{path} has {part}/, but no {other}/: give both, or class folders without {part}/")
    if "train" not in there or "test" not in there:
        return {"train": path}
    others = sorted(there.keys() - {"train", "val", "test"})
    if others:
        _warn(f"only train/, val/ and test/ of {path} are read: {listed(others)} is left out")
    return {part: there[part] for part in ("train", "val", "test") if part in there}


def _classes(folder: Path, claimed: dict[str, Path]) -> Part:
    inner, images = _entries(folder)
    found = {_spelled(each): _images_below(each, claimed) for each in inner}
    if not any(found.values()):
        if not images:
            raise DataError(f"{folder} must hold images or class folders with images, but no image is there")
        return {NO_CLASS: images}
    if len(found) < len(inner):
        raise DataError(f"the class folders of {folder} must differ in more than how accents are stored")
    empty = [each for each, files in found.items() if not files]
    if empty:
        raise DataError(f"every class folder must hold images, but none are in {listed(empty)} of {folder}")
    if images:
        _warn(f"images beside the class folders of {folder} are left out: {listed(image.name for image in images)}")
    return found


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the image files of a folder, each sorted by name; links count as what they lead to."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".") and name not in IGNORED]
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror}") from error
    paths = sorted((folder / name for name in names), key=_spelled)
    known = endings()
    folders = [path for path in paths if os.path.isdir(path)]
    # A link that leads nowhere stays in, so that reading it says so.
    files = [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]
    return folders, [path for path in files if path.suffix.lower() in known]


def _images_below(folder: Path, claimed: dict[str, Path]) -> list[Path]:
    """The image files of a folder and those below it; a folder that is claimed already is not entered again."""
    inner, images = _entries(folder)
    for each in inner:
        if os.path.realpath(each) not in claimed:
            _claim(each, claimed)
            images += _images_below(each, claimed)
    return images


def _claim(folder: Path, claimed: dict[str, Path]) -> None:
    """Notes that this real folder is read here, and nowhere else: no loop, and no image in two parts or classes."""
    real = os.path.realpath(folder)
    if real in claimed:
        raise DataError(f"{claimed[real]} and {folder} must be different folders, but both are {real}")
    claimed[real] = folder


def _spelled(path: Path) -> str:
    """The name in one spelling of accents (NFC): file systems differ in theirs, and the order must not."""
    return unicodedata.normalize("NFC", path.name)


def _compare(folder: Path, expected: list[str], found: list[str]) -> None:
    """Raises DataError unless a part has the classes of the training images."""
    missing = [each for each in expected if each not in found]
    if expected == [NO_CLASS] or found == [NO_CLASS]:
        if missing:
            raise DataError(f"train/ and {folder.name}/ of {folder.parent} must both have class folders, or neither")
        return
    unknown = [each for each in found if each not in expected]
    if missing:
        raise DataError(f"{folder} must have every class folder of train/, but has no {listed(missing)}")
    if unknown:
        raise DataError(f"{folder} must have no class folders beyond those of train/, but has {listed(unknown)}")


def _read(part: Part, image_size: int, colour: bool) -> tuple[Split, set[tuple[int, int]]]:
    """The images and labels of a part in sorted order, and the widths and heights that the files had."""
    files = [file for found in part.values() for file in found]
    images = np.empty((len(files), image_size, image_size, *((3,) if colour else ())), dtype=np.uint8)
    sizes = set()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow decodes without Python's lock
        for i, (pixels, size) in enumerate(pool.map(lambda file: read_image(file, image_size, colour), files)):
            images[i] = pixels
            sizes.add(size)
    counts = torch.tensor([len(found) for found in part.values()])
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    return Split(convert(images, image_size, colour), labels), sizes


def _warn(sentence: str) -> None:
    logging.getLogger("study").warning(sentence)
