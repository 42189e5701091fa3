"""A folder of images, compared with torchvision's `ImageFolder`; and how Pillow reads a picture."""

import io
import os
import shutil
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from study import data
from study.data import DataError, Dataset, Split
from study.data.own import read_images

CLASSES = ("ant", "bee", "Cat")
FLAT = {("",): (14, 2, 4), ("train", "test"): (18, 2, 20), ("train", "val", "test"): (20, 20, 20)}
RANDOM = np.random.default_rng(0)
BROKEN_IMAGES = [
    (lambda: b"", "it is empty"),
    (lambda: b"\n<html>not found</html>", r"it is a web page \(HTML\)"),
    (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "it is a pointer of Git LFS"),
    (lambda: valid("jpeg")[:500], "truncated"),
    (lambda: valid("png")[:60] + bytes(60) + valid("png")[120:], ""),
    (lambda: valid("png", np.zeros((28, 29), np.uint8)), "must have at most 784 pixels"),
    (lambda: valid("tiff", np.ones((28, 28), np.float32)), "pixels must be whole numbers"),
    (lambda: valid("tiff", np.full((28, 28), 70_000, np.int32)), "pixels must be whole numbers"),
]


def picture(path: Path, size: tuple[int, int] = (28, 28), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(RANDOM.integers(0, 256, shape, dtype=np.uint8)).save(path)


def fill(folder: Path, count: int = 6, classes: tuple[str, ...] = CLASSES, **options) -> None:
    """`count` random images a class, or directly in the folder without classes."""
    for name in classes or ("",):
        for i in range(count):
            picture(folder / name / f"{i:03}.png", **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """train/ and test/ with three classes of six images each."""
    fill(tmp_path / "set" / "train")
    fill(tmp_path / "set" / "test")
    return tmp_path / "set"


def load(folder: Path, **options) -> Dataset:
    return data.load(str(folder), **options)


def pairs(*splits: Split) -> list[tuple[bytes, int]]:
    """Images with labels, in an order that does not depend on how they were shuffled."""
    found = [zip(data.to_pixels(split.images), split.labels.tolist(), strict=True) for split in splits]
    return sorted((image.tobytes(), label) for image, label in chain(*found))


def torchvisions(folder: Path, mode: str, size: int) -> tuple[list[str], list[tuple[bytes, int]]]:
    found = ImageFolder(str(folder))
    resized = ((image.convert(mode).resize((size, size), Image.Resampling.BILINEAR), label) for image, label in found)
    return found.classes, sorted((np.asarray(image).tobytes(), label) for image, label in resized)


@pytest.mark.parametrize(("size", "mode", "val"), [(32, "RGB", None), (16, "L", "val"), (16, "L", "Validation")])
def test_the_parts_are_what_image_folder_reads(tmp_path: Path, size: int, mode: str, val: str | None) -> None:
    root = tmp_path / "my set"
    for part in ("train", "test", *([val] if val else [])):
        fill(root / part, size=(28, 20), mode="RGB")
    found = load(root, image_size=size, colour=mode == "RGB")
    classes, train = torchvisions(root / "train", mode, size)
    assert list(found.classes) == classes == ["Cat", "ant", "bee"]
    assert pairs(found.test) == torchvisions(root / "test", mode, size)[1]
    if val:
        assert (pairs(found.train), pairs(found.val)) == (train, torchvisions(root / val, mode, size)[1])
    else:
        assert (pairs(found.train, found.val), found.val.labels.bincount().tolist()) == (train, [1, 1, 1])
    assert (found.name, found.source) == ("my-set", str(root))
    assert found.image_shape == (len(mode), size, size)


def test_one_level_is_split_by_class_and_resizing_is_told_once(tmp_path: Path, caplog) -> None:
    for name, count in {"ant": 30, "bee": 11, "train": 3}.items():  # which may be a class
        fill(tmp_path / name, count, (), size=(count, 28))
    found = load(tmp_path)
    assert pairs(found.train, found.val, found.test) == torchvisions(tmp_path, "L", 28)[1]
    assert found.test.labels.bincount().tolist() == [6, 2, 1]  # 20 %, at least one
    assert found.val.labels.bincount().tolist() == [3, 1, 1]  # 10 %
    assert len(found.train.labels[:8].unique()) > 1  # not one class after the other
    assert caplog.text.count("--image-size") == 1
    assert "of 3 different sizes: all are resized to 28x28" in caplog.text


@pytest.mark.parametrize(("parts", "sizes"), FLAT.items())
def test_images_without_classes(tmp_path: Path, parts: tuple[str, ...], sizes: tuple[int, int, int]) -> None:
    for part in parts:
        fill(tmp_path / "flat" / part, 20, ())
    found = load(tmp_path / "flat")
    splits = found.train, found.val, found.test
    assert (found.classes, tuple(map(len, splits))) == ((), sizes)
    files = [path for part in parts for path in (tmp_path / "flat" / part).iterdir()]
    assert pairs(*splits) == sorted((np.asarray(Image.open(f)).tobytes(), 0) for f in files)


def test_the_split_of_earlier_results_does_not_follow_the_order_of_listing(tmp_path: Path, monkeypatch) -> None:
    listdir = os.listdir
    for number, name in enumerate(["b", "a", "a/deeper/still", "a/deep"]):
        (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
        for i in range(9):
            image = np.random.default_rng(9 * number + i).integers(0, 256, (28, 28), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "set" / name / f"{i}.png")
    for backwards in (False, True):
        monkeypatch.setattr(os, "listdir", lambda folder, way=backwards: sorted(listdir(folder), reverse=way))
        assert load(tmp_path / "set").digest == "880b9b1590bbed29"


def test_litter_and_notes_are_left_out_in_silence_and_other_files_are_counted(root: Path, caplog) -> None:
    expected = load(root).digest
    for name in (".DS_Store", "labels.csv", "train/ant/Thumbs.db", "train/ant/._000.png", "train/ant/README.txt"):
        (root / name).write_bytes(b"x")
    picture(root / "train" / "bee" / "@eaDir" / "thumb.png")
    assert (load(root).digest, "left out" in caplog.text) == (expected, False)
    for number in range(16):
        (root / "train" / "ant" / f"{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    for name in ("test/bee/x.svg", "train/bee/x.dcm", "test/bee/IMG1", "train/bee/y.h5"):
        (root / name).write_bytes(b"x")
    os.mkfifo(root / "test" / "ant" / "pipe.png")
    picture(root / "train" / "overview.png")
    fill(root / "extra", 2)
    assert load(root).digest == expected
    counted = ("16 .heic", "1 .svg", "1 .dcm", "1 without ending", "1 .h5", "1 .png", "7 images beside the parts or")
    assert [part for part in (*counted, "pip install pillow-heif") if part not in caplog.text] == []


def test_heic_is_read_with_pillow_heif(tmp_path: Path, monkeypatch) -> None:
    def register_heif_opener() -> None:
        monkeypatch.setitem(Image.EXTENSION, ".heic", "PNG")  # in place of libheif

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register_heif_opener))
    fill(tmp_path / "set", 5)
    expected = load(tmp_path / "set").digest
    for file in (tmp_path / "set" / "ant").iterdir():
        file.rename(file.with_suffix(".heic"))
    assert load(tmp_path / "set").digest == expected


def test_links_are_followed_and_each_folder_is_read_once(root: Path, tmp_path: Path, caplog) -> None:
    fill(tmp_path / "elsewhere", 5, ())
    (root / "train" / "dog").symlink_to(tmp_path / "elsewhere")
    fill(root / "test" / "dog", 2, ())
    (root / "train" / "ant" / "again").symlink_to(root / "train")  # a loop
    (root / "train" / "ant" / "self").symlink_to(root / "train" / "ant")
    (root / "train" / "bee" / "test").symlink_to(root / "test")  # a leak
    (root / "val").symlink_to(root / "test")  # another
    picture(root / "train" / "bee" / "deeper" / "still" / "one.PNG")
    found = load(root)
    assert found.classes == ("Cat", "ant", "bee", "dog")
    counts = found.train.labels.bincount() + found.val.labels.bincount(), found.test.labels.bincount()
    assert [count.tolist() for count in counts] == [[6, 6, 7, 5], [6, 6, 6, 2]]
    assert "4 links to folders that are read already" in caplog.text
    (root / "train" / "bee" / "gone.png").symlink_to(root / "nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png cannot be read as an image: No such file"):
        load(root)


def test_accents_are_one_spelling(tmp_path: Path) -> None:
    fill(tmp_path / "one", classes=("caf\u00e9", "cafz"))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    (tmp_path / "two" / "caf\u00e9").rename(tmp_path / "two" / "cafe\u0301")
    one, two = load(tmp_path / "one"), load(tmp_path / "two")
    assert (one.digest, two.classes) == (two.digest, ("cafz", "caf\u00e9"))


def move(source: str, target: str) -> Callable[[Path], object]:
    return lambda root: (root / source).rename(root / target)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (move("test", "unused"), "both train/ and test/, or class folders, but has only train/"),
        (move("test/bee", "bee"), "every class must be among the test images of set, but there is no 'bee'"),
        (move("train/bee", "bee"), "test/ of .*set must have the classes of train/ only, but has 'bee'"),
        (lambda root: (root / "val").mkdir(), "val/ of .*set must hold images in every class folder, but has none"),
        (lambda root: (root / "train" / "dog").mkdir(), "train/ of .*set must hold .* but has none in 'dog'"),
        (lambda root: fill(root / "val", 2, ()), "val/ of .*set must have .* but has 'images in no class folder'"),
        (lambda root: (root / "../b/a").mkdir(parents=True), "must hold images or class folders .* has no file"),
        (lambda root: fill(root / "../b", 2, ()), "3 or more images of each class, but there are only 2"),
    ],
)
def test_folders_that_break_a_rule(root: Path, change: Callable[[Path], object], rule: str) -> None:
    """Changes are made in the set, or a new one is made beside it."""
    change(root)
    with pytest.raises(DataError, match=rf"\A.*{rule}.*\Z"):  # in one line
        load(root.parent / "b" if (root.parent / "b").exists() else root)


@pytest.mark.parametrize("place", ["", "train/ant", "train/ant/000.png"])
def test_no_permission(root: Path, denied, place: str) -> None:
    with denied(root / place), pytest.raises(DataError, match=r"cannot be read.*Permission denied"):
        load(root)


def read(path: Path, colour: bool = False) -> np.ndarray:
    return read_images([path], 28, colour)[0][0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    stored = RANDOM.integers(0, 256, (28, 28), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    # which side of the stored image is the top: the EXIF standard's table
    upright = [stored, stored[:, ::-1], stored[::-1, ::-1], stored[::-1]]
    upright += [stored.T, np.rot90(stored, -1), stored[::-1, ::-1].T, np.rot90(stored)]
    assert (read(tmp_path / "turned.png") == upright[orientation - 1]).all()
    Image.new("L", (50, 20)).save(tmp_path / "turned.png", exif=exif)
    assert read_images([tmp_path / "turned.png"], 32, True)[1] == {(50, 20) if orientation < 5 else (20, 50)}


@pytest.mark.parametrize(("ending", "dtype"), [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2"), ("pgm", "<u2")])
def test_grey_of_16_bits_is_scaled(tmp_path: Path, ending: str, dtype: str) -> None:
    values = np.linspace(0, 65_535, 784).round().reshape(28, 28)
    path = tmp_path / f"deep.{ending}"
    Image.fromarray(values.astype(dtype)).save(path)
    assert abs(read(path) - values / 257).max() <= 0.5
    assert abs(read(path, colour=True) - values[..., None] / 257).max() <= 0.5


def test_a_picture_of_12_bits_in_16_is_refused_before_it_becomes_black(root: Path) -> None:
    values = np.linspace(0, 4095, 784).round().reshape(28, 28).astype(np.uint16)
    Image.fromarray(values).save(root / "train" / "ant" / "deep.png")
    with pytest.raises(DataError, match=r"from 0 to 65535, but those of .*deep\.png are at most 4095"):
        load(root)


def test_transparent_images_lie_on_white_and_broken_exif_data_bring_no_warning(tmp_path: Path) -> None:
    stroke = np.zeros((28, 28, 4), dtype=np.uint8)
    stroke[4:8, :, 3] = 255  # black, all the same but for the transparency
    palette = Image.fromarray(stroke[..., 3] // 255, mode="L").convert("P")
    palette.putpalette([0] * 768)
    for image, options in ((Image.fromarray(stroke), {}), (palette, {"transparency": bytes([0, 255])})):
        image.save(tmp_path / "stroke.png", **options)
        assert (read(tmp_path / "stroke.png") == 255 - stroke[..., 3]).all()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0"
    Image.new("L", (28, 28), 7).save(tmp_path / "broken.jpg", exif=exif)
    assert (read(tmp_path / "broken.jpg") == 7).all(), "a warning of Pillow's would be an error"


def valid(kind: str, pixels: np.ndarray | None = None) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (28, 28), np.uint8) if pixels is None else pixels).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(("content", "rule"), BROKEN_IMAGES)
def test_a_broken_image_is_named(tmp_path: Path, monkeypatch, content: Callable[[], bytes], rule: str) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 784)
    path = tmp_path / "image.png"
    path.write_bytes(content())
    with pytest.raises(DataError, match=rf"\A.*image\.png cannot be read as an image: .*{rule}.*\Z"):  # in one line
        read(path)
