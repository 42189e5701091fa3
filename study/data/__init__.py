"""Where the images come from: a built-in set, a folder of images or an array file, always as one `Dataset`."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path

from study.data.checks import check_dataset, check_image_size, warn_of_few_images
from study.data.dataset import DataError, Dataset, Split, stratified_split, to_float, to_pixels

__all__ = [
    "BUILT_IN",
    "DataError",
    "Dataset",
    "Split",
    "data_name",
    "load",
    "stratified_split",
    "to_float",
    "to_pixels",
]

BUILT_IN = ("auto", "mnist", "fashion-mnist", "kmnist", "digits")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".rar", ".7z")


def data_name(data: str) -> str:
    """The name of a data set in the names of experiments and models, from what `--data` takes.

    A built-in name stays as it is. Of a path it is the last part without `.npz`, every run of characters outside
    [A-Za-z0-9_.-] replaced by "-", with a fingerprint where it is in another script; where that is nothing or a
    built-in name, "-images" is added.

    Raises:
        DataError: As `expand`.
    """
    if data in BUILT_IN:
        return data
    last = re.sub(r"\.npz$", "", expand(data).name, flags=re.IGNORECASE)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", last)
    if not last.isascii():  # names in other scripts must stay different
        name = f"{name.strip('-') or 'images'}-{hashlib.sha256(last.encode(errors='surrogateescape')).hexdigest()[:6]}"
    return f"{name}-images" if name in ("", *BUILT_IN) else name


def load(data: str, data_dir: Path | None = None, *, image_size: int = 28, colour: bool = False) -> Dataset:
    """The data set, split and checked, on the CPU, with images of image_size x image_size pixels.

    Args:
        data: auto, mnist, fashion-mnist, kmnist, digits, or a path: a folder of images or an array file (.npz).
            auto is MNIST, or scikit-learn's digits where MNIST is neither there nor to be downloaded.
        data_dir: Where MNIST, Fashion-MNIST and KMNIST are or are downloaded to; None is $STUDY_DATA_DIR, or ./data.
        image_size: In pixels, a multiple of 4 from 16 to 64.
        colour: Three channels; else images are turned grey, one channel.

    Raises:
        DataError: A file is missing or broken, or the data break a rule; the message names the rule and the value.
    """
    check_image_size(image_size)
    dataset = _built_in(data, data_dir) if data in BUILT_IN else _from_path(data, image_size, colour)
    if dataset.image_shape != (3 if colour else 1, image_size, image_size):
        from study.data.images import convert_split  # Pillow, for nothing in the usual case

        train, val, test = (convert_split(s, image_size, colour) for s in (dataset.train, dataset.val, dataset.test))
        dataset = replace(dataset, train=train, val=val, test=test)
    check_dataset(dataset)
    warn_of_few_images(dataset)
    return dataset


def _built_in(data: str, data_dir: Path | None) -> Dataset:
    if data == "digits":
        from study.data.digits import load_digits

        return load_digits()
    from study.data.idx import load_idx

    root = expand(str(data_dir or os.environ.get("STUDY_DATA_DIR") or "data"))
    if data != "auto":
        return load_idx(data, root)
    from study.data.idx import find_folder

    if data_dir is not None or find_folder("mnist", root):
        # Who names a folder wants MNIST from there: other data in its place would be a silent surprise.
        return load_idx("mnist", root)
    try:
        return load_idx("mnist", root)
    except DataError as error:
        from study.data.digits import load_digits

        print(f"falling back to scikit-learn's embedded 8x8 digits, upsampled to 28x28: {error}")
        return load_digits()


def _from_path(data: str, image_size: int, colour: bool) -> Dataset:
    path = expand(data)
    known = f"--data takes {', '.join(BUILT_IN)}, or the path of a folder or an .npz file"
    try:
        path.stat()
    except FileNotFoundError:
        raise DataError(f"there is no data set, folder or file {data!r}: {known}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{data!r} cannot be read ({getattr(error, 'strerror', None) or error}): {known}") from error
    if path.is_dir():
        from study.data.folder import load_folder

        return load_folder(path, data_name(data), image_size=image_size, colour=colour)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        from study.data.arrays import load_arrays

        return load_arrays(path, data_name(data), image_size=image_size, colour=colour)
    if suffix in ARCHIVES:
        raise DataError(f"{path} is an archive: unpack it and give the folder to --data")
    raise DataError(f"{path} is neither a folder of images nor an .npz file: {known}")


def expand(path: str) -> Path:
    """An absolute path, with `~` as the home folder.

    Raises:
        DataError: The path is empty, or names a user who is not there.
    """
    if not path.strip():
        raise DataError(f"a path must not be empty: --data takes {', '.join(BUILT_IN)}, or a path")
    try:
        return Path(os.path.abspath(Path(path).expanduser()))
    except (RuntimeError, ValueError) as error:
        raise DataError(f"the path {path!r} cannot be read: {error}") from error
