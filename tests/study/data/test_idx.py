import gzip
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision

from study import data
from study.data import DataError, Dataset, idx

SIZES = {"train": 60_000, "t10k": 10_000}
NAMES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}


def contents() -> dict[str, bytes]:
    """MNIST's files in its sizes, with easy content: an image is as bright everywhere as its position, modulo 256."""
    files = {}
    for prefix, count in SIZES.items():
        images = torch.arange(count).to(torch.uint8)[:, None, None].expand(count, 28, 28)
        labels = (torch.arange(count) % 10).to(torch.uint8)
        files[f"{prefix}-images-idx3-ubyte"] = struct.pack(">4I", 0x803, count, 28, 28) + images.numpy().tobytes()
        files[f"{prefix}-labels-idx1-ubyte"] = struct.pack(">2I", 0x801, count) + labels.numpy().tobytes()
    return files


FILES = contents()


def write(folder: Path, form: Callable[[str], str] = str) -> None:
    """All four files, under what `form` makes of their names, gzipped where that ends with .gz."""
    for name, content in FILES.items():
        path = folder / form(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


@pytest.fixture
def fake_mnist(tmp_path: Path) -> Path:
    """A data folder in torchvision's layout."""
    write(tmp_path / "MNIST" / "raw")
    return tmp_path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of what `write` writes."""
    root = tmp_path_factory.mktemp("plain")
    write(root / "MNIST" / "raw")
    return data.load("mnist", root).digest


def check_splits(found: Dataset) -> None:
    assert (len(found.train), len(found.val), len(found.test)) == (55_000, 5_000, 10_000)
    for split in (found.train, found.val, found.test):
        assert split.images.dtype == torch.uint8
        assert split.images.shape[1:] == found.image_shape == (1, 28, 28)
        assert split.labels.dtype == torch.int64
        assert set(split.labels.unique().tolist()) == set(range(10))


def test_mnist_files_are_read_and_split(fake_mnist: Path) -> None:
    found = data.load("mnist", fake_mnist)
    check_splits(found)
    for split in (found.train, found.val, found.test):  # labels stay with their images
        position = split.images[:, 0, 0, 0].to(torch.int64)
        assert bool(((split.labels - position % 2) % 2 == 0).all())
    assert torch.equal(found.val.images, data.load("mnist", fake_mnist).val.images)
    assert (found.name, found.source) == ("mnist", "mnist")


@pytest.mark.mnist
def test_mnist_is_what_torchvision_reads(mnist_dir: Path) -> None:
    found = data.load("auto", mnist_dir)
    check_splits(found)
    assert found.name == found.source == "mnist"
    train = torchvision.datasets.MNIST(mnist_dir, train=True, download=False)
    test = torchvision.datasets.MNIST(mnist_dir, train=False, download=False)
    assert torch.equal(found.test.images[:, 0], test.data)
    assert torch.equal(found.test.labels, test.targets)
    ours = torch.cat([found.train.images, found.val.images])[:, 0].flatten(1).sum(1)
    assert torch.equal(ours.sort().values, train.data.flatten(1).sum(1).sort().values)
    found = data.load("mnist", mnist_dir, image_size=16, colour=True)
    assert found.image_shape == (3, 16, 16)
    assert torch.equal(found.test.images[:, 0], found.test.images[:, 2])


@pytest.mark.parametrize("name", NAMES)
def test_class_names_are_torchvisions(name: str) -> None:
    theirs = getattr(torchvision.datasets, NAMES[name]).classes
    assert list(idx.CLASSES[name]) == ([each[0] for each in theirs] if name == "mnist" else theirs)
    assert idx.FOLDERS == NAMES


@pytest.mark.parametrize(
    "form",
    [
        lambda name: name + ".gz",
        lambda name: name.replace("-idx", ".idx"),
        lambda name: name.replace("-idx", ".idx") + ".gz",
        lambda name: f"{name}/{name}",
        lambda name: f"{name}.gz" if "labels" in name else name,
    ],
)
def test_gzipped_files_and_kaggles_names(tmp_path: Path, expected: str, form: Callable[[str], str]) -> None:
    write(tmp_path / "MNIST" / "raw", form)
    assert data.load("mnist", tmp_path).digest == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_may_be_the_root_or_in_it(tmp_path: Path, expected: str, name: str, dead_mirrors) -> None:
    folder = NAMES[name]
    write(tmp_path / folder / "raw")
    found = [data.load(name, tmp_path / below) for below in ("", folder, f"{folder}/raw")]
    assert len({each.digest for each in found}) == 1
    assert found[0].name == found[0].source == name
    assert (found[0].digest == expected) == (name == "mnist")  # the class names count
    for other in NAMES.keys() - {name}:  # the same file names, but other images
        for below in ("", folder, f"{folder}/raw"):
            with pytest.raises(DataError, match="no mirror answers"):
                data.load(other, tmp_path / below)


def test_a_folder_of_any_name_with_the_files_in_it(tmp_path: Path, expected: str, monkeypatch) -> None:
    write(tmp_path / "archive", lambda name: f"{name}/{name}")
    assert data.load("mnist", tmp_path / "archive").digest == expected
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.load("auto", Path("~/archive")).digest == expected
    monkeypatch.chdir(tmp_path / "archive")
    assert data.load("auto", Path(".")).digest == expected


def test_where_auto_looks(fake_mnist: Path, expected: str, monkeypatch, dead_mirrors) -> None:
    monkeypatch.setenv("STUDY_DATA_DIR", str(fake_mnist))
    assert data.load("auto").digest == expected
    monkeypatch.setenv("HOME", str(fake_mnist.parent))
    monkeypatch.setenv("STUDY_DATA_DIR", f"~/{fake_mnist.name}")
    assert data.load("auto").digest == expected
    monkeypatch.delenv("STUDY_DATA_DIR")
    here = fake_mnist / "here"
    here.mkdir()
    shutil.move(fake_mnist / "MNIST", here / "data" / "MNIST")
    monkeypatch.chdir(here)
    assert data.load("auto").digest == expected


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
@pytest.mark.parametrize("zipped", [False, True])
def test_a_broken_file_is_named_with_its_rule(fake_mnist: Path, name, file: str, change, rule: str, zipped) -> None:
    path = fake_mnist / "MNIST" / "raw" / file
    content = path.read_bytes()
    path.unlink()
    if change is not None:
        path = path.with_name(file + ".gz") if zipped else path
        path.write_bytes(gzip.compress(change(content), 1) if zipped else change(content))
    with pytest.raises(DataError, match=rule) as caught:
        data.load(name, fake_mnist)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-100],
        lambda packed: b"no gzip" + packed,
        lambda packed: packed[:40] + bytes(400) + packed[440:],
        lambda packed: packed[:-8] + bytes(8),
    ],
)
def test_a_broken_gzip_file(fake_mnist: Path, damage: Callable[[bytes], bytes]) -> None:
    path = fake_mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    packed = damage(gzip.compress(path.read_bytes()))
    path.unlink()
    path.with_name(path.name + ".gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"ubyte\.gz (cannot be read|must have) .*: delete its") as caught:
        data.load("mnist", fake_mnist)
    assert "\n" not in str(caught.value)


def test_a_gzip_file_that_grows_without_end(fake_mnist: Path) -> None:
    path = fake_mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    content = path.read_bytes()
    path.unlink()
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(content + bytes(10**7)))
    with pytest.raises(DataError, match="must have 60008 bytes, but has more than 60008"):
        data.load("mnist", fake_mnist)


@pytest.mark.parametrize("name", ["fashion-mnist", "kmnist"])
def test_mnist_is_not_taken_for_another_data_set(tmp_path: Path, name: str) -> None:
    """All three have the same file names."""
    write(tmp_path)
    labels = tmp_path / "train-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[8:24] = bytes([5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5, 3, 6, 1, 7])
    labels.write_bytes(content)
    assert data.load("mnist", tmp_path).name == "mnist"
    with pytest.raises(DataError, match=f"must hold {NAMES[name]}, but its labels are MNIST's"):
        data.load(name, tmp_path)


def test_a_data_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"--data-dir must be a folder, but .*file is a file"):
        data.load("auto", tmp_path / "file")


def test_a_data_folder_without_permission(fake_mnist: Path, monkeypatch) -> None:
    monkeypatch.setattr(idx.os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(DataError, match="cannot be read: permission denied"):
        data.load("auto", fake_mnist)


@pytest.fixture
def dead_mirrors(monkeypatch: pytest.MonkeyPatch):
    """Mirrors of all three sets: one refuses, one takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as other:
        urls = [f"http://127.0.0.1:{server.getsockname()[1]}/" for server in (silent, other)]
        other.close()
        for name in NAMES.values():
            monkeypatch.setattr(getattr(torchvision.datasets, name), "mirrors", urls)
        monkeypatch.setattr(idx, "MIRROR_DEADLINE", 0.2)
        yield


def test_silent_mirrors_are_given_up(dead_mirrors, tmp_path: Path, monkeypatch, capsys) -> None:
    with pytest.raises(DataError, match=r"no mirror answers within 0 s: .*--data digits"):
        data.load("mnist", tmp_path)
    monkeypatch.setenv("STUDY_DATA_DIR", str(tmp_path))
    found = data.load("auto")
    assert found.name == found.source == "digits"
    assert "falling back to scikit-learn's embedded 8x8 digits" in capsys.readouterr().out


def test_a_folder_that_was_given_is_never_replaced_by_digits(dead_mirrors, tmp_path: Path, capsys) -> None:
    with pytest.raises(DataError, match=f"MNIST is not in {tmp_path} and no mirror answers"):
        data.load("auto", tmp_path)
    assert not capsys.readouterr().out


@pytest.mark.parametrize("there", [None, "notes.txt"])
def test_a_download_that_is_stopped_half_way_does_not_stand_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: str, there: str | None
) -> None:
    stops = True

    def download(self: torchvision.datasets.MNIST) -> None:
        for number, (name, content) in enumerate(FILES.items()):
            Path(self.raw_folder).mkdir(parents=True, exist_ok=True)
            Path(self.raw_folder, name).write_bytes(content[:1000] if stops and number == 1 else content)
            if stops and number == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(idx, "_answering", lambda *_: ["http://mirror/"])
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", download)
    root = tmp_path / "new" / "data"
    if there:
        (root / "MNIST" / "raw").mkdir(parents=True)
        (root / "MNIST" / "raw" / there).write_text("mine")
    with pytest.raises(KeyboardInterrupt):
        data.load("mnist", root)
    stops = False
    assert data.load("mnist", root).digest == expected
    assert data.load("mnist", root).digest == expected, "downloaded once"
    assert [path.name for path in root.iterdir()] == ["MNIST"]
