"""Where the images come from: a built-in set, a folder of images or an array file, always as one `Dataset`."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from stat import S_ISDIR

from study.checks import expanded
from study.data.dataset import DataError, Dataset, Split, check_dataset, to_float, to_pixels

__all__ = ["BUILT_IN", "DataError", "Dataset", "Split", "data_name", "load", "to_float", "to_pixels"]

BUILT_IN = ("auto", "mnist", "fashion-mnist", "kmnist", "digits")
KNOWN = f"--data takes {', '.join(BUILT_IN)}, or the path of a folder or an .npz file"


def data_name(data: str) -> str:
    """Return the name of a data set in the names of experiments and models, from the value of `--data`.

    A built-in name stays as it is. Of a path it is the last part without `.npz`, every run of characters outside
    [A-Za-z0-9_.-] replaced by "-", with a fingerprint where it is in another script; where that is nothing or a
    built-in name, "-images" is added.

    Raises:
        UsageError: The path cannot be read.
    """
    if data in BUILT_IN:
        return data
    last = re.sub(r"\.npz$", "", expand(data).name, flags=re.IGNORECASE)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", last)
    if not last.isascii():  # names in other scripts must stay different
        name = f"{name.strip('-') or 'images'}-{hashlib.sha256(last.encode(errors='surrogateescape')).hexdigest()[:6]}"
    return f"{name}-images" if name in ("", *BUILT_IN) else name


def load(data: str, data_dir: Path | None = None, *, image_size: int = 28, colour: bool = False) -> Dataset:
    """Return the data set, split and checked, on the CPU, with images of image_size x image_size pixels.

    Args:
        data: auto, mnist, fashion-mnist, kmnist, digits, or a path: a folder of images or an array file (.npz).
        data_dir: Where MNIST, Fashion-MNIST and KMNIST are or are downloaded to; None is $STUDY_DATA_DIR, or ./data.
            auto is MNIST; with None, it is scikit-learn's digits where MNIST is neither there nor to be downloaded.
        image_size: In pixels, a multiple of 4 (the models halve it twice) from 16 to 64.
        colour: Three channels; else images are turned grey, one channel.

    Raises:
        DataError: A file is missing or broken, or the data break a rule; the message names the rule and the value.
    """
    if image_size % 4 or not 16 <= image_size <= 64:
        raise DataError(f"--image-size must be a multiple of 4 from 16 to 64, but is {image_size}")
    if data in BUILT_IN:
        from study.data.builtin import load_built_in

        root = expand(str(data_dir or os.environ.get("STUDY_DATA_DIR") or "data"))
        dataset = load_built_in(data, root, fall_back=data_dir is None)
    else:
        path = expand(data)
        try:
            is_folder = S_ISDIR(path.stat().st_mode)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{data!r} cannot be read ({getattr(error, 'strerror', None) or error}): {KNOWN}"
            ) from error
        if not is_folder and path.suffix.lower() != ".npz":
            raise DataError(f"{path} is neither a folder of images nor an .npz file (unpack an archive first): {KNOWN}")
        from study.data import own

        dataset = (own.load_folder if is_folder else own.load_arrays)(path, data_name(data), image_size, colour)
    if dataset.image_shape != (3 if colour else 1, image_size, image_size):
        from study.data.own import as_tensor  # Pillow, for nothing in the usual case

        dataset = dataset.each(lambda part: Split(as_tensor(to_pixels(part.images), image_size, colour), part.labels))
    check_dataset(dataset)
    return dataset


def expand(path: str) -> Path:
    """Return an absolute path, with `~` as the home folder.

    Raises:
        UsageError: The path is empty, or names a user who is not there.
    """
    if not path.strip():
        raise DataError(f"a path must not be empty: {KNOWN}")
    return Path(os.path.abspath(expanded(Path(path), "a path")))
