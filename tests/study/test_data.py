import socket
import struct
import time
from pathlib import Path

import pytest
import torch
import torchvision

from study import data
from study.data import DataError, Dataset

SIZES = {"train": 60_000, "t10k": 10_000}


@pytest.fixture
def fake_mnist(tmp_path: Path) -> Path:
    """A folder in MNIST's layout and sizes, with easy content."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in SIZES.items():
        images = torch.arange(count).to(torch.uint8)[:, None, None].expand(count, 28, 28)
        labels = (torch.arange(count) % 10).to(torch.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">4I", 0x803, count, 28, 28) + images.numpy().tobytes()
        )
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels.numpy().tobytes())
    return tmp_path


def check_splits(found: Dataset, sizes: tuple[int, int, int]) -> None:
    assert (len(found.train), len(found.val), len(found.test)) == sizes
    for split in (found.train, found.val, found.test):
        assert split.images.dtype == torch.uint8
        assert split.images.shape[1:] == (1, 28, 28)
        assert split.labels.dtype == torch.int64
        assert set(split.labels.unique().tolist()) == set(range(10))


def test_mnist_files_are_read_and_split(fake_mnist: Path) -> None:
    found = data.load("mnist", fake_mnist)
    check_splits(found, (55_000, 5_000, 10_000))
    for split in (found.train, found.val, found.test):  # labels stay with their images
        position = split.images[:, 0, 0, 0].to(torch.int64)
        assert bool(((split.labels - position % 2) % 2 == 0).all())
    assert torch.equal(found.val.images, data.load("mnist", fake_mnist).val.images)


@pytest.mark.mnist
def test_mnist_is_what_torchvision_reads(mnist_dir: Path) -> None:
    found = data.load("auto", mnist_dir)
    check_splits(found, (55_000, 5_000, 10_000))
    assert found.name == "mnist"
    train = torchvision.datasets.MNIST(mnist_dir, train=True, download=False)
    test = torchvision.datasets.MNIST(mnist_dir, train=False, download=False)
    assert torch.equal(found.test.images[:, 0], test.data)
    assert torch.equal(found.test.labels, test.targets)
    ours = torch.cat([found.train.images, found.val.images])[:, 0].flatten(1).sum(1)
    assert torch.equal(ours.sort().values, train.data.flatten(1).sum(1).sort().values)


@pytest.mark.parametrize(
    ("file", "change", "rule"),
    [
        ("train-images-idx3-ubyte", None, "cannot be read"),
        ("t10k-labels-idx1-ubyte", lambda content: content[:-1], "must have 10008 bytes, but has 10007"),
        ("train-labels-idx1-ubyte", lambda content: b"", "must have 60008 bytes, but has 0"),
        ("t10k-images-idx3-ubyte", lambda content: b"\xff" + content[1:], "must begin with the IDX header"),
        ("t10k-labels-idx1-ubyte", lambda content: content[:-1] + b"\x0a", "labels must be 0..9, but got 10"),
    ],
)
@pytest.mark.parametrize("name", ["mnist", "auto"])
def test_a_broken_file_is_named_with_its_rule(fake_mnist: Path, name, file: str, change, rule: str) -> None:
    path = fake_mnist / "MNIST" / "raw" / file
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=rule) as caught:
        data.load(name, fake_mnist)
    assert file in str(caught.value)


def test_digits_keep_their_splits_apart() -> None:
    found = data.load("digits", None)
    check_splits(found, (1197 * 9, 200, 400))
    train = {image.numpy().tobytes() for image in found.train.images}
    assert not train & {image.numpy().tobytes() for image in found.test.images}
    assert torch.equal(found.train.images, data.load("digits", None).train.images)


@pytest.fixture
def dead_mirrors(monkeypatch: pytest.MonkeyPatch):
    """Mirrors of MNIST: one refuses, one takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as other:
        urls = [f"http://127.0.0.1:{server.getsockname()[1]}/" for server in (silent, other)]
        other.close()
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", urls)
        yield


def test_silent_mirrors_are_given_up_in_time(dead_mirrors, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(data, "MIRROR_DEADLINE", 1.0)
    began = time.monotonic()
    with pytest.raises(DataError, match=r"no mirror answers within 1 s: .*--data digits"):
        data.load("mnist", tmp_path)
    assert data.load("auto", tmp_path).name == "digits"
    assert "falling back to scikit-learn's embedded 8x8 digits" in capsys.readouterr().out
    assert time.monotonic() - began < 5


def test_pictures_of_images() -> None:
    pixels = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    assert (data.to_pixels(data.to_float(pixels)) == pixels[:, 0].numpy()).all()
    assert (data.to_pixels(pixels) == pixels[:, 0].numpy()).all()
