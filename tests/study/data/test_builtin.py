"""MNIST and its like through torchvision, the digits through scikit-learn."""

import re
import shutil
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from study import data
from study.data import DataError, builtin

NAMES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}


def write(folder: Path) -> None:
    """Four files like MNIST's, fewer images; an image is as bright everywhere as its position, modulo 256."""
    folder.mkdir(parents=True)
    for part, count in {"train": 6_000, "t10k": 1_000}.items():
        images = np.arange(count).astype(np.uint8)[:, None].repeat(784, 1)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, count, 28, 28) + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels.tobytes())


@pytest.fixture(scope="module")
def fake_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in torchvision's layout; to be read only."""
    root = tmp_path_factory.mktemp("data")
    write(root / "MNIST" / "raw")
    return root


@pytest.fixture
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Mirrors of all three sets: one refuses, one takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as other:
        urls = [f"http://127.0.0.1:{server.getsockname()[1]}/" for server in (silent, other)]
        other.close()
        for name in NAMES.values():
            monkeypatch.setattr(getattr(torchvision.datasets, name), "mirrors", urls)
        monkeypatch.setattr(builtin, "STALL_TIMEOUT", 0.2)
        yield


@pytest.mark.parametrize("name", NAMES)
def test_files_of_mnist_and_its_siblings_are_read_and_split(name: str, fake_mnist: Path, tmp_path: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in fake_mnist.rglob("*"))
    (tmp_path / NAMES[name]).symlink_to(fake_mnist / "MNIST")
    found = data.load(name, tmp_path)
    splits = found.train, found.val, found.test
    assert list(map(len, splits)) == [1_000, 5_000, 1_000]
    classes = "0123456789" if name == "mnist" else getattr(torchvision.datasets, NAMES[name]).classes
    assert (found.name, found.source, found.classes) == (name, name, tuple(classes))
    positions = [split.images[:, 0, 0, 0].to(torch.int64) for split in splits]
    for split, position in zip(splits, positions, strict=True):
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        assert split.images.shape[1:] == found.image_shape == (1, 28, 28)
        assert bool(((split.labels - position % 2) % 2 == 0).all())  # labels stay with their images
    expected = (torch.arange(6_000) % 256).sort().values
    assert torch.equal(torch.cat(positions[:2]).sort().values, expected)
    assert sorted((path, path.stat().st_mtime_ns) for path in fake_mnist.rglob("*")) == before, "nothing is written"


@pytest.mark.mnist
def test_the_real_mnist_has_the_digest_that_all_results_name(mnist_dir: Path) -> None:
    assert data.load("auto", mnist_dir).digest == "9ecc32acb7fee785"


def test_the_digits_have_the_digest_that_all_results_name(caplog) -> None:
    found = data.load("digits")
    assert (caplog.records, found.digest) == ([], "cc8f090c60ff4d75")
    assert (found.name, found.source, found.classes) == ("digits", "digits", tuple("0123456789"))
    assert (len(found.train), len(found.val), len(found.test)) == (1197 * 9, 200, 400)


def test_where_auto_looks(fake_mnist: Path, tmp_path: Path, monkeypatch, no_mirror: None, capsys, caplog) -> None:
    monkeypatch.setenv("HOME", str(fake_mnist.parent))
    monkeypatch.setenv("STUDY_DATA_DIR", f"~/{fake_mnist.name}")
    assert data.load("auto").name == "mnist"
    monkeypatch.delenv("STUDY_DATA_DIR")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(fake_mnist)
    assert data.load("auto").name == "mnist"
    (tmp_path / "data").unlink()
    assert (data.load("auto").name, capsys.readouterr().out) == ("digits", "")
    (record,) = caplog.records
    assert re.fullmatch(".*falling back to scikit-learn's 8x8 digits.*", record.getMessage())
    with pytest.raises(DataError, match="MNIST cannot be downloaded"):  # who names a folder wants MNIST from there
        data.load("auto", tmp_path)
    with pytest.raises(DataError, match=r"MNIST cannot be downloaded .*--data-dir, or use --data digits"):
        data.load("mnist")


DAMAGED = "MNIST/raw cannot be read: a file is damaged"
BROKEN_FILES = [
    ("t10k-labels-idx1-ubyte", lambda content: content[:-1], DAMAGED),
    ("train-labels-idx1-ubyte", lambda content: b"", DAMAGED),
    ("t10k-images-idx3-ubyte", lambda content: b"\xff" + content[1:], DAMAGED),
    ("t10k-labels-idx1-ubyte", lambda content: content[:-1] + b"\x0a", "from 0 to 9, but one is 10"),
]


@pytest.mark.parametrize(("file", "change", "rule"), BROKEN_FILES)
def test_a_broken_file_is_told_in_one_sentence(fake_mnist: Path, tmp_path: Path, file: str, change, rule: str) -> None:
    folder = Path(shutil.copytree(fake_mnist / "MNIST" / "raw", tmp_path / "MNIST" / "raw"))
    (folder / file).write_bytes(change((folder / file).read_bytes()))
    with pytest.raises(DataError, match=rf"\A.*{rule}.*\Z"):  # in one line
        data.load("auto", tmp_path)


def test_a_data_folder_that_is_none_or_may_not_be_entered(fake_mnist: Path, tmp_path: Path, denied) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/MNIST/raw cannot be read: Not a directory"):
        data.load("auto", tmp_path / "file")
    for folder in (fake_mnist, fake_mnist / "MNIST" / "raw"):
        with denied(folder), pytest.raises(DataError, match=r"MNIST/raw.* cannot be read: Permission denied"):
            data.load("auto", fake_mnist)


def test_a_download_that_was_stopped_goes_on(fake_mnist: Path, tmp_path: Path, monkeypatch) -> None:
    source, stops = fake_mnist / "MNIST" / "raw", True

    def extract(url: str, download_root: str, filename: str, md5: str) -> None:
        print("something of torchvision's")
        name = filename.removesuffix(".gz")
        if stops and "t10k" in name:
            Path(download_root, name.replace("t10k", "part")).touch()
            raise KeyboardInterrupt
        shutil.copy(source / name, download_root)

    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", extract)
    root = tmp_path / "new" / "data"
    with pytest.raises(KeyboardInterrupt):
        data.load("mnist", root)
    stops = False
    expected = data.load("mnist", fake_mnist).digest
    assert data.load("mnist", root).digest == expected
    monkeypatch.setattr(torchvision.datasets.mnist, "download_and_extract_archive", None)
    assert data.load("mnist", root).digest == expected, "downloaded once"
