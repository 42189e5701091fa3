"""MNIST, Fashion-MNIST and KMNIST from IDX files, which are downloaded where they are not there."""

from __future__ import annotations

import gzip
import os
import socket
import struct
import threading
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from study.data.dataset import SPLIT_SEED, DataError, Dataset, Split

MIRROR_DEADLINE = 12.0  # seconds for the first mirror to answer
STALL_TIMEOUT = 15.0  # seconds without a byte during a download
TRAIN_IMAGES, TEST_IMAGES, VALIDATION_IMAGES = 60_000, 10_000, 5_000
FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
"""torchvision's names of the data sets: of its classes, and of the folders that they write."""
CLASSES = {
    "mnist": tuple("0123456789"),
    # `classes` of torchvision.datasets.FashionMNIST and KMNIST
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}
IMAGES, LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"
OF_MNIST = [5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5, 3, 6, 1, 7]  # its first training labels
REMEDY = "delete its folder and run again with a connection to download it anew"


def load_idx(name: str, root: Path) -> Dataset:
    """The data set of this name (mnist, fashion-mnist, kmnist), downloaded to the root if it is not there.

    Args:
        name: mnist, fashion-mnist or kmnist.
        root: torchvision's data folder, or in it `MNIST` or `MNIST/raw` itself (with the data set's own name).

    Raises:
        DataError: A file is missing, truncated or no IDX file, or no mirror answers.
    """
    folder = find_folder(name, root)
    if folder is None:
        _download(FOLDERS[name], root)
        folder = root / FOLDERS[name] / "raw"
    train = _read_split(folder, "train", TRAIN_IMAGES)
    test = _read_split(folder, "t10k", TEST_IMAGES)
    if name != "mnist" and train.labels[: len(OF_MNIST)].tolist() == OF_MNIST:  # all three have the same file names
        raise DataError(f"{folder} must hold {FOLDERS[name]}, but its labels are MNIST's: give the right --data")
    order = torch.randperm(TRAIN_IMAGES, generator=torch.Generator().manual_seed(SPLIT_SEED))
    kept, held_out = order[VALIDATION_IMAGES:], order[:VALIDATION_IMAGES]
    return Dataset(name, train.take(kept), train.take(held_out), test, classes=CLASSES[name], source=name)


def find_folder(name: str, root: Path) -> Path | None:
    """The folder with any of the files of this data set, or None.

    The root may be torchvision's data folder, `MNIST` or `MNIST/raw` in it, or a folder of any other name with the
    files in it, as Kaggle's archives unpack; never one with the name of another of the three data sets.

    Raises:
        DataError: A folder where the files may be must not be read.
    """
    own = FOLDERS[name]
    candidates = [root / own / "raw", root / own]
    of = root.parent.name if root.name == "raw" else root.name
    if of not in FOLDERS.values() or of == own:
        candidates += [root / "raw", root] if of == own else [root]
    files = [form.format(part) for form in (IMAGES, LABELS) for part in ("train", "t10k")]
    if os.path.exists(root) and not os.path.isdir(root):
        raise DataError(f"--data-dir must be a folder, but {root} is a file")
    for folder in (root, *candidates):
        if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):
            raise DataError(f"the folder {folder} cannot be read: permission denied")
    for folder in candidates:
        if any(_find_file(folder, file) for file in files):
            return folder
    return None


def _find_file(folder: Path, file: str) -> Path | None:
    """The file under this name, with Kaggle's dot or in Kaggle's folder of the same name, each perhaps gzipped."""
    dotted = file.replace("-idx", ".idx")
    forms = [Path(file), Path(dotted), Path(file, file), Path(dotted, dotted), Path(file, dotted)]
    paths = [folder / form.with_name(form.name + ending) for ending in ("", ".gz") for form in forms]
    return next((path for path in paths if os.path.isfile(path)), None)


def _read_split(folder: Path, prefix: str, count: int) -> Split:
    paths = [_find_file(folder, form.format(prefix)) or folder / form.format(prefix) for form in (IMAGES, LABELS)]
    images = _read_idx(paths[0], (count, 28, 28)).unsqueeze(1)
    labels = _read_idx(paths[1], (count,)).to(torch.int64)
    if int(labels.max()) > 9:
        raise DataError(f"{paths[1]}: labels must be 0..9, but got {int(labels.max())}")
    return Split(images, labels)


def _read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """An IDX file of uint8 (http://yann.lecun.com/exdb/mnist): two zeros, type 8, rank, sizes, then the data."""
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    size = len(header) + torch.Size(shape).numel()
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                content = file.read(size + 1)
            found = len(content)
        else:
            found = path.stat().st_size
            content = path.read_bytes() if found == size else b""
    except (OSError, EOFError, zlib.error) as error:  # the last two: a broken gzip file
        raise DataError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): {REMEDY}") from error
    if found != size:
        has = f"more than {size}" if found > size and path.suffix == ".gz" else found
        raise DataError(f"{path} must have {size} bytes, but has {has}: {REMEDY}")
    if not content.startswith(header):
        got = content[: len(header)].hex()
        raise DataError(f"{path} must begin with the IDX header {header.hex()}, but begins with {got}: {REMEDY}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=len(header)).reshape(shape)


def _download(name: str, root: Path) -> None:
    from torchvision import datasets  # 2 s to import

    kind = getattr(datasets, name)
    answering = _answering(kind.mirrors, kind.resources[0][0])
    if not answering:
        raise DataError(
            f"{name} is not in {root} and no mirror answers within {MIRROR_DEADLINE:.0f} s:"
            " give its folder with --data-dir, or use --data digits"
        )
    # torchvision tries the mirrors in turn, each for minutes; the name decides the folder.
    reachable = type(name, (kind,), {"mirrors": answering})
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Elsewhere first: a download that is stopped half way leaves nothing that is taken for the data.
        with TemporaryDirectory(prefix=".download-", dir=root) as folder, _socket_timeout(STALL_TIMEOUT):
            reachable(folder, download=True)
            _move(Path(folder, name, "raw"), root / name / "raw")
    except (OSError, RuntimeError) as error:
        raise DataError(f"{name} could not be downloaded to {root}: {error}") from error


def _move(folder: Path, target: Path) -> None:
    """Put a folder's files where they belong, in one step where nothing is there yet."""
    target.parent.mkdir(exist_ok=True)
    try:
        folder.rename(target)
    except OSError:  # other files are there, or another process was faster
        for file in folder.iterdir():
            file.replace(target / file.name)


def _answering(mirrors: list[str], file: str) -> list[str]:
    """The mirrors that answer a request for this file within the deadline, the fastest first.

    Threads, since looking a name up takes no timeout.
    """
    answers: list[str] = []
    one_more = threading.Event()
    open_requests = len(mirrors)

    def ask(mirror: str) -> None:
        nonlocal open_requests
        try:
            request = urllib.request.Request(mirror + file, method="HEAD")
            with urllib.request.urlopen(request, timeout=MIRROR_DEADLINE):
                answers.append(mirror)
        except OSError:
            pass
        open_requests -= 1
        if answers or not open_requests:
            one_more.set()

    for mirror in mirrors:
        threading.Thread(target=ask, args=(mirror,), daemon=True).start()
    one_more.wait(MIRROR_DEADLINE)
    return list(answers)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
