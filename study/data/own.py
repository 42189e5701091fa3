"""The user's own images: a folder of pictures, or an array file (.npz) with MedMNIST's or Keras' names."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from study.data.dataset import DataError, Dataset, Split, listed, log, shuffled, stratified_split

FRACTIONS = {"val": 0.1, "test": 0.2}  # of images that come without such a part
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LITTER = {"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"}  # of file managers, beside names with a dot
NOTES = {".txt", ".md", ".csv", ".json", ".xml", ".yaml", ".html"}  # nobody takes them for images
NOT_DRAWN = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}  # Pillow identifies them only, or needs a program
KINDS = (("x", "images"), ("y", "labels"))
KERAS = {f"{short}_{part}": f"{part}_{kind}" for short, kind in KINDS for part in ("train", "val", "test")}
"""Keras' names of arrays, and MedMNIST's for the same."""
SIGNS = {
    b"version https://git-lfs": "a pointer of Git LFS (`git lfs pull` gets the file itself)",
    b"<": "a web page (HTML) or another text with tags",
    b"PK": "a cut or damaged archive",
    b"\x93NUMPY": "a single array without a name (.npy)",
    b"\x80": "a pickle of Python objects",
}  # what a file is by its first bytes

_nfc = partial(unicodedata.normalize, "NFC")  # one spelling of accents: file systems differ, and the order must not


def load_folder(path: Path, name: str, image_size: int, colour: bool) -> Dataset:
    """Return the images below a folder, each split in a random order that never changes.

    The folder has `train/`, `test/` and perhaps `val/`, or is one level: 20 % of each class are test, 10 % validation
    images. In each, one folder per class, with folders below that belong to it; or the images lie directly in it and
    have no labels. Names that start with a dot are left out; other files that are no images are counted in a warning.

    Raises:
        DataError: A class or a part is missing or too small, or an image cannot be read; the message names it.
    """
    parts = _parts(path, *image_files(path))
    classes, splits, sizes = list(parts["train"]), {}, set()
    for part, found in parts.items():
        strangers = [each or "images in no class folder" for each in found if each not in classes]
        if strangers:
            raise DataError(f"{part}/ of {path} must have the classes of train/ only, but has {listed(strangers)}")
        images, part_sizes = read_images([file for files in found.values() for file in files], image_size, colour)
        labels = np.repeat([classes.index(each) for each in found], [len(files) for files in found.values()])
        splits[part] = Split(as_tensor(images, image_size, colour), torch.from_numpy(labels))
        sizes |= part_sizes
    return _dataset(name, splits, classes if classes != [""] else [], path, sizes)


def image_files(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the image files below a folder in sorted order, and its folders; warn of other files, counted by ending.

    Links are followed, but each real folder is read once: no loop, and no image in two parts or classes.

    Raises:
        DataError: A folder cannot be read, or there is no image.
    """
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    kinds = Image.registered_extensions().items()
    known = {ending for ending, kind in kinds if kind in Image.OPEN and kind not in NOT_DRAWN}
    found, folders, seen, left = [], [path], {os.path.realpath(path)}, Counter[str]()
    for folder in folders:  # which grows meanwhile, level by level
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith(".") and name not in LITTER)
        except OSError as error:
            raise DataError(f"the folder {folder} cannot be read: {error.strerror}") from error
        for each in (folder / name for name in names):
            ending = each.suffix.lower()
            if os.path.isdir(each):
                if (real := os.path.realpath(each)) in seen:
                    left["links to folders that are read already"] += 1
                else:
                    seen.add(real)
                    folders.append(each)
            elif ending in known and (os.path.isfile(each) or not os.path.exists(each)):
                found.append(each)  # also a link that leads nowhere, so that reading it says so
            elif ending not in NOTES:
                left[ending or "without ending"] += 1
    out = ", ".join(f"{count} {what}" for what, count in left.most_common())
    out += "; `pip install pillow-heif` reads .heic" if {".heic", ".heif"} & left.keys() else ""
    if not found:
        raise DataError(f"{path} must hold images or class folders with images, but has {out or 'no file'}")
    if left:
        log.warning(f"left out of {path}: {out}")
    found.sort(key=lambda file: [*((1, _nfc(each)) for each in file.parts[:-1]), (0, _nfc(file.name))])
    return found, folders


def _parts(path: Path, files: Sequence[Path], folders: Sequence[Path]) -> dict[str, dict[str, list[Path]]]:
    """Return image files by part and class: all are "train" in a folder of one level, and "" is no class."""
    inner = [folder.relative_to(path).parts for folder in folders[1:]]
    tops = {PARTS.get(names[0].lower(), names[0]) for names in inner}
    only = tops & {"train", "test"}
    # "train" may be a class beside "car" and "bus"; with class folders in it, or beside none, it is a part.
    if len(only) == 1 and (tops <= {*PARTS} or any(names[0].lower() in only for names in inner if len(names) > 1)):
        raise DataError(f"{path} must have both train/ and test/, or class folders, but has only {only.pop()}/")

    def place(folder: Path) -> tuple[str, str]:
        names = ("train", *folder.relative_to(path).parts)[len(only) == 2 :]
        return PARTS.get(names[0].lower(), "") if names else "", _nfc(names[1]) if len(names) > 1 else ""

    found: dict[str, dict[str, list[Path]]] = {}
    for part, name in sorted(map(place, folders)):
        found.setdefault(part, {}).setdefault(name, [])
    for file in files:
        part, name = place(file.parent)
        found[part][name].append(file)
    beside = sum(map(len, found.pop("", {}).values()))
    for part, classes in found.items():
        loose, empty = classes.pop("", []), listed(name for name, inside in classes.items() if not inside)
        if loose and not any(classes.values()):
            found[part] = {"": loose}
        elif empty or not classes:
            where = f"{part}/ of {path}" if len(only) == 2 else path
            raise DataError(f"{where} must hold images in every class folder, but has none{empty and f' in {empty}'}")
        else:
            beside += len(loose)
    if beside:
        log.warning(f"{beside} images beside the parts or class folders of {path} are left out")
    return found


def _dataset(
    name: str, splits: Mapping[str, Split], classes: Sequence[str], path: Path, sizes: set[tuple[int, int]]
) -> Dataset:
    """Return the data set of these splits; validation and test images that are not there are taken from train."""
    train = splits["train"]
    tell_of_resizing(name, sizes, train.images.shape[-1])
    absent = {part: fraction for part, fraction in FRACTIONS.items() if part not in splits}
    whole = {part: shuffled(split) for part, split in splits.items()}
    if absent:
        cut = map(train.take, stratified_split(train.labels, list(absent.values()), classes))
        whole |= dict(zip(("train", *absent), cut, strict=True))
    return Dataset(name, whole["train"], whole["val"], whole["test"], classes=tuple(classes), source=str(path))


def tell_of_resizing(name: str, sizes: set[tuple[int, int]], size: int) -> None:
    """Warn that images are resized to size x size pixels, unless all these widths and heights are so."""
    if sizes != {(size, size)}:
        what = "of {}x{} pixels".format(*min(sizes)) if len(sizes) == 1 else f"of {len(sizes)} different sizes"
        log.warning(f"images of {name} are {what}: all are resized to {size}x{size}; --image-size sets another size")


def read_images(files: Sequence[Path], image_size: int, colour: bool) -> tuple[np.ndarray, set[tuple[int, int]]]:
    """Return the images of files, resized, as uint8 [N, S, S] or [N, S, S, 3], and the widths and heights they had.

    Raises:
        DataError: A file is no image, is damaged, has too many pixels, or may not be read; or all images of 16 bits
            use only 12 of them.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of broken EXIF data
        read = list(pool.map(lambda file: _read_image(file, image_size, colour), files))
    high, file = max((high, file) for (_, _, high), file in zip(read, files, strict=True))
    if 0 <= high < 2**12:
        rule = "pixels of 16 bits must use the range from 0 to 65535"
        raise DataError(f"{rule}, but those of {file} are at most {high}: scale them first")
    return np.stack([pixels for pixels, _, _ in read]), {size for _, size, _ in read}


def _read_image(path: Path, image_size: int, colour: bool) -> tuple[np.ndarray, tuple[int, int], int]:
    """Return an image, upright by its EXIF data, its width and height, and its highest pixel of 16 bits (-1: of 8)."""
    try:
        with Image.open(path) as image:
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"it must have at most {Image.MAX_IMAGE_PIXELS} pixels, but has more")
            upright, high = ImageOps.exif_transpose(image), -1
            if upright.mode.startswith(("I", "F")):  # Pillow's own conversion would cut all above 255 off
                values = np.asarray(upright)
                low, high = values.min(), values.max()
                if upright.mode == "F" or low < 0 or high > 65_535:
                    raise ValueError(f"pixels must be whole numbers of 8 or 16 bits, but are from {low} to {high}")
                upright = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
            return _resized(upright, image_size, colour), upright.size, int(high)
    except Exception as error:  # Pillow's readers raise nearly everything on damaged files
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        what = _kind_of(path) if isinstance(error, UnidentifiedImageError) else reason
        raise DataError(f"{path} cannot be read as an image: {what}") from error


def _resized(image: Image.Image, image_size: int, colour: bool) -> np.ndarray:
    """Return an image of 8 bits of any mode as uint8 [S, S] (grey) or [S, S, 3] (colour), antialiased."""
    if image.has_transparency_data:  # on white, as in most viewers
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    image = image.convert("RGB" if colour else "L")
    return np.array(image.resize((image_size, image_size), Image.Resampling.BILINEAR))


def as_tensor(images: np.ndarray, image_size: int, colour: bool) -> Tensor:
    """Return arrays uint8 [N, H, W] or [N, H, W, 3] as a tensor uint8 [N, C, S, S], resized where needed."""
    if images.shape[1:3] != (image_size, image_size) or (images.ndim == 4) != colour:
        images = np.stack([_resized(Image.fromarray(image), image_size, colour) for image in images])
    pixels = torch.from_numpy(np.ascontiguousarray(images)).reshape(-1, image_size, image_size, 3 if colour else 1)
    return pixels.permute(0, 3, 1, 2).contiguous()


def load_arrays(path: Path, name: str, image_size: int, colour: bool) -> Dataset:
    """Return the images of an .npz file, each split in a random order that never changes.

    Images are uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3]; labels are whole numbers from 0 to classes - 1, [N] or
    [N, 1]; the optional array `class_names` holds one text per class. Validation images may be missing.

    Raises:
        DataError: The file cannot be read, or an array is missing or breaks a rule; the message names it.
    """
    arrays = read_arrays(path, [*KERAS, *KERAS.values(), "class_names"])
    names = {KERAS.get(each, each): each for each in arrays}
    parts = [part for part in ("train", "val", "test") if part != "val" or {"val_images", "val_labels"} & names.keys()]
    missing = [array for part in parts for _, kind in KINDS if (array := f"{part}_{kind}") not in names]
    if missing:
        raise DataError(
            f"{path} must hold train_images, train_labels, test_images, test_labels (as MedMNIST; val_... may be there)"
            f" or x_train, y_train, x_test, y_test (as Keras), but has no {listed(missing)}: it holds {listed(arrays)}"
        )
    splits, sizes = {}, set()
    for part in parts:
        pixels, numbers = (names[f"{part}_{kind}"] for _, kind in KINDS)
        images = check_images(arrays[pixels], f"{pixels} of {path}")
        labels = _labels(arrays[numbers], f"{numbers} of {path}")
        if len(images) != len(labels):
            counts = f"{len(images)} and {len(labels)}"
            raise DataError(f"{pixels} and {numbers} of {path} must be equally many, but are {counts}")
        splits[part] = Split(as_tensor(images, image_size, colour), labels)
        sizes.add(images.shape[2:0:-1])
    texts = arrays.get("class_names", np.arange(len(splits["train"].labels.unique())).astype(str))
    if texts.ndim != 1 or texts.dtype.kind != "U":
        raise DataError(f"class_names of {path} must be texts [classes], but are {texts.dtype} {list(texts.shape)}")
    return _dataset(name, splits, [_nfc(text) for text in texts.tolist()], path, sizes)


def read_arrays(path: Path, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file by name; an empty one in place of each that is not wanted, which stays unread.

    Raises:
        DataError: The file cannot be read, or is none: the message says what it is.
    """
    try:
        with path.open("rb") as stream:  # np.load leaves a damaged file open that it opened itself
            file = np.load(stream, allow_pickle=False)
            return {name: np.asarray(file[name]) if name in wanted else np.empty(0) for name in file.files}
    except Exception as error:  # zipfile, zlib and NumPy raise nearly everything on damaged files
        objects = "Object arrays" in str(error) and "it holds Python objects (a pickle), not numbers"
        what = objects or getattr(error, "strerror", None) or _kind_of(path)
        raise DataError(f"{path} cannot be read as .npz without pickles: {what}") from error


def check_images(images: np.ndarray, what: str) -> np.ndarray:
    """Return images as [N, H, W] or [N, H, W, 3]; DataError unless they are uint8, of one of the shapes."""
    fits = images.ndim in (3, 4) and images.shape[3:] in ((), (1,), (3,)) and images.size
    if images.dtype != np.uint8 or not fits:
        found = f"{images.dtype} {list(images.shape)}"
        raise DataError(f"{what} must be uint8, 0 to 255, [N, H, W], [N, H, W, 1] or [N, H, W, 3], but are {found}")
    return images[..., 0] if images.shape[3:] == (1,) else images


def _labels(labels: np.ndarray, what: str) -> Tensor:
    """Return labels as int64 [N]."""
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or labels.dtype.kind not in "biuf":
        found = f"{labels.dtype} {list(labels.shape)}"
        raise DataError(f"{what} must be whole numbers, one label an image, [N] or [N, 1], but are {found}")
    with np.errstate(invalid="ignore"):
        wrong = labels.astype(np.int64) != labels
    if wrong.any():
        raise DataError(f"{what} must be whole numbers from 0 to classes - 1, but one is {labels[wrong.argmax()]}")
    return torch.from_numpy(labels.astype(np.int64))


def _kind_of(path: Path) -> str:
    """Say what a file is by its first bytes, as it is not what its ending says."""
    with path.open("rb") as stream:
        head = stream.read(30).lstrip()
    text = f"a text that begins with {head.decode()!r}" if head.isascii() else "of another format"
    return "it is " + next((kind for sign, kind in SIGNS.items() if head.startswith(sign)), text if head else "empty")
