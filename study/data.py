"""Data sets as tensors: one uint8 tensor of images and one of labels a split, on the device, no DataLoader."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from study.config import DataName, UsageError

SPLIT_SEED = 0
MIRROR_DEADLINE = 12.0  # seconds for the first mirror to answer
STALL_TIMEOUT = 15.0  # seconds without a byte during a download
TORCHVISION_CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
TRAIN_IMAGES, TEST_IMAGES, VALIDATION_IMAGES = 60_000, 10_000, 5_000


class DataError(UsageError):
    """A data set is missing or broken; the message is one sentence for the user."""


@dataclass(frozen=True)
class Split:
    images: Tensor  # uint8 [N, 1, 28, 28]
    labels: Tensor  # int64 [N], 0..9

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """Train for training, val for every choice (selection, pruning), test to be reported only."""

    name: str
    train: Split
    val: Split
    test: Split

    @property
    def digest(self) -> str:
        """The first eight digits of the SHA-256 of the training images."""
        return hashlib.sha256(self.train.images.cpu().numpy().tobytes()).hexdigest()[:8]

    def to(self, device: torch.device) -> Dataset:
        return Dataset(self.name, self.train.to(device), self.val.to(device), self.test.to(device))


def to_float(images: Tensor) -> Tensor:
    """uint8 images to float32 in [0, 1]."""
    return images.to(torch.float32) / 255


def to_pixels(images: Tensor) -> np.ndarray:
    """Images [N, 1, 28, 28], uint8 or float in [0, 1], as a uint8 array [N, 28, 28] for a picture."""
    if images.dtype != torch.uint8:
        images = (images * 255).round().to(torch.uint8)
    return images.squeeze(1).cpu().numpy()


def load(name: DataName, data_dir: Path | None) -> Dataset:
    """The data set of this name, split and checked, on the CPU.

    Raises:
        DataError: A file is missing, truncated or no IDX file, or no mirror answers.
    """
    root = data_dir or Path(os.environ.get("STUDY_DATA_DIR", "data"))
    if name == "digits":
        return _digits()
    if name != "auto":
        return _torchvision(name, root)
    if (root / "MNIST" / "raw").is_dir():
        return _torchvision("mnist", root)
    try:
        return _torchvision("mnist", root)
    except DataError as error:
        print(f"falling back to scikit-learn's embedded 8x8 digits, upsampled to 28x28: {error}")
        return _digits()


def _torchvision(name: str, root: Path) -> Dataset:
    from torchvision import datasets  # 2 s to import

    kind = getattr(datasets, TORCHVISION_CLASSES[name])
    raw = root / kind.__name__ / "raw"
    if not raw.is_dir() or not any(raw.iterdir()):
        _download(kind, root)
    train = _read_split(raw, "train", TRAIN_IMAGES)
    test = _read_split(raw, "t10k", TEST_IMAGES)
    order = torch.randperm(TRAIN_IMAGES, generator=torch.Generator().manual_seed(SPLIT_SEED))
    kept, held_out = order[VALIDATION_IMAGES:], order[:VALIDATION_IMAGES]
    return Dataset(name, _take(train, kept), _take(train, held_out), test)


def _read_split(raw: Path, prefix: str, count: int) -> Split:
    images = _read_idx(raw / f"{prefix}-images-idx3-ubyte", (count, 28, 28)).unsqueeze(1)
    labels = _read_idx(raw / f"{prefix}-labels-idx1-ubyte", (count,)).to(torch.int64)
    if int(labels.max()) > 9:
        raise DataError(f"{raw}/{prefix}-labels-idx1-ubyte: labels must be 0..9, but got {int(labels.max())}")
    return Split(images, labels)


def _read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """An IDX file of uint8 (http://yann.lecun.com/exdb/mnist): two zeros, type 8, rank, sizes, then the data."""
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    size = len(header) + torch.Size(shape).numel()
    mend = "delete its folder and run again with a connection to download it anew"
    try:
        found = path.stat().st_size
        if found != size:
            raise DataError(f"{path} must have {size} bytes, but has {found}: {mend}")
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {mend}") from error
    if not content.startswith(header):
        got = content[: len(header)].hex()
        raise DataError(f"{path} must begin with the IDX header {header.hex()}, but begins with {got}: {mend}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=len(header)).reshape(shape)


def _download(kind: type, root: Path) -> None:
    mirrors: list[str] = kind.mirrors  # type: ignore[attr-defined]
    answering = _answering(mirrors, kind.resources[0][0])  # type: ignore[attr-defined]
    if not answering:
        raise DataError(
            f"{kind.__name__} is not in {root} and no mirror answers within {MIRROR_DEADLINE:.0f} s:"
            " give its folder with --data-dir, or use --data digits"
        )
    # torchvision tries the mirrors in turn, each for minutes; the name decides the folder.
    reachable = type(kind.__name__, (kind,), {"mirrors": answering})
    try:
        with _socket_timeout(STALL_TIMEOUT):
            reachable(root, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{kind.__name__} could not be downloaded to {root}: {error}") from error


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


def _digits() -> Dataset:
    """scikit-learn's 1,797 digits of 8x8 pixels, upsampled to 24x24 within a margin of 2, as MNIST has one.

    So few images give too few steps an epoch: every training image is kept in nine places, shifted by at
    most one pixel. Validation and test images are the originals.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = torch.from_numpy(bunch.images).to(torch.float32).unsqueeze(1) / 16  # [1797, 1, 8, 8]
    large = torch.nn.functional.interpolate(small, size=24, mode="bilinear")
    large = torch.nn.functional.pad(large, (2, 2, 2, 2))  # [1797, 1, 28, 28]
    everything = Split((large * 255).round().to(torch.uint8), torch.from_numpy(bunch.target).to(torch.int64))
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(SPLIT_SEED))
    test, val, train = (_take(everything, part) for part in order.split([400, 200, len(order) - 600]))
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    shifted = Split(
        torch.cat([torch.roll(train.images, shift, dims=(2, 3)) for shift in shifts]),
        train.labels.repeat(len(shifts)),
    )
    return Dataset("digits", shifted, val, test)


def _take(split: Split, index: Tensor) -> Split:
    return Split(split.images[index].contiguous(), split.labels[index].contiguous())
