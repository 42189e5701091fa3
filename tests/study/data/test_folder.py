import logging
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from study import data
from study.data import DataError, Dataset, Split

CLASSES = ("ant", "bee", "Cat")
RANDOM = np.random.default_rng(0)


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
    return sorted(
        (image.tobytes(), label)
        for split in splits
        for image, label in zip(data.to_pixels(split.images), split.labels.tolist(), strict=True)
    )


def torchvisions(folder: Path, mode: str, size: int) -> tuple[list[str], list[tuple[bytes, int]]]:
    found = ImageFolder(str(folder))
    box = (size, size)
    return found.classes, sorted(
        (np.asarray(image.convert(mode).resize(box, Image.Resampling.BILINEAR)).tobytes(), label)
        for image, label in found
    )


@pytest.mark.parametrize(("size", "colour"), [(28, True), (32, True), (16, False)])
@pytest.mark.parametrize("val", [False, True])
def test_the_parts_are_what_image_folder_reads(tmp_path: Path, size: int, colour: bool, val: bool) -> None:
    for part in ("train", "test", "val")[: 3 if val else 2]:
        fill(tmp_path / "my set" / part, size=(28, 20), mode="RGB")
    found = load(tmp_path / "my set", image_size=size, colour=colour)
    mode = "RGB" if colour else "L"
    classes, train = torchvisions(tmp_path / "my set" / "train", mode, size)
    assert list(found.classes) == classes == ["Cat", "ant", "bee"]
    assert (pairs(found.train) if val else pairs(found.train, found.val)) == train
    assert pairs(found.test) == torchvisions(tmp_path / "my set" / "test", mode, size)[1]
    if val:
        assert pairs(found.val) == torchvisions(tmp_path / "my set" / "val", mode, size)[1]
    else:
        assert found.val.labels.bincount().tolist() == [1, 1, 1]
    assert (found.name, found.source) == ("my-set", str(tmp_path / "my set"))
    assert found.image_shape == (3 if colour else 1, size, size)


def test_one_level_is_split_by_class(tmp_path: Path) -> None:
    sizes = {"ant": 30, "bee": 11, "cow": 3}
    for name, count in sizes.items():
        fill(tmp_path / name, count, ())
    found = load(tmp_path)
    assert pairs(found.train, found.val, found.test) == torchvisions(tmp_path, "L", 28)[1]
    assert found.test.labels.bincount().tolist() == [6, 2, 1]  # 20 %, at least one
    assert found.val.labels.bincount().tolist() == [3, 1, 1]  # 10 %
    assert load(tmp_path).digest == found.digest
    assert len(found.train.labels[:8].unique()) > 1  # not one class after the other


@pytest.mark.parametrize("parts", [("",), ("train", "test"), ("train", "val", "test")])
def test_images_without_classes(tmp_path: Path, parts: tuple[str, ...], caplog) -> None:
    for part in parts:
        fill(tmp_path / "flat" / part, 20, ())
    with caplog.at_level(logging.WARNING, logger="study"):
        found = load(tmp_path / "flat")
    sizes = {1: (14, 2, 4), 2: (18, 2, 20), 3: (20, 20, 20)}[len(parts)]
    assert (len(found.train), len(found.val), len(found.test)) == sizes
    assert found.classes == ()
    files = [path for part in parts for path in (tmp_path / "flat" / part).iterdir()]
    assert pairs(found.train, found.val, found.test) == sorted((np.asarray(Image.open(f)).tobytes(), 0) for f in files)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"flat has only {sizes[0]} training, {sizes[1]} validation and {sizes[2]} test images")
    assert "accuracy" not in message


def test_the_order_of_the_file_system_does_not_matter(root: Path, monkeypatch) -> None:
    expected = load(root).digest
    original, shuffle = os.listdir, random.Random(3).shuffle

    def listdir(folder: Path) -> list[str]:
        names = original(folder)
        shuffle(names)
        return names

    monkeypatch.setattr(os, "listdir", listdir)
    assert load(root).digest == expected


def test_litter_is_left_out(root: Path) -> None:
    expected = load(root).digest
    (root / ".DS_Store").write_bytes(b"x")
    (root / "train" / "ant" / "Thumbs.db").write_bytes(b"x")
    (root / "train" / "ant" / "._000.png").write_bytes(b"x")
    (root / "train" / "ant" / "README.txt").write_bytes(b"x")
    (root / "train" / "ant" / "features.h5").write_bytes(b"x")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    picture(root / "__MACOSX" / "train" / "ant" / "000.png")
    picture(root / "train" / "bee" / "@eaDir" / "thumb.png")
    os.mkfifo(root / "test" / "ant" / "pipe.png")
    assert load(root).digest == expected


def test_what_is_left_out_of_a_set_is_told(root: Path, caplog) -> None:
    picture(root / "train" / "overview.png")
    fill(root / "extra")
    with caplog.at_level(logging.WARNING, logger="study"):
        assert len(load(root).test) == 18
    told = " | ".join(record.getMessage() for record in caplog.records)
    assert f"images beside the class folders of {root / 'train'} are left out: 'overview.png'" in told
    assert "only train/, val/ and test/" in told
    assert "'extra' is left out" in told


def test_links_are_followed_and_each_folder_is_read_once(root: Path, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", 5, ())
    (root / "train" / "dog").symlink_to(tmp_path / "elsewhere")
    fill(root / "test" / "dog", 2, ())
    (root / "train" / "ant" / "again").symlink_to(root / "train")  # a loop
    (root / "train" / "ant" / "self").symlink_to(root / "train" / "ant")
    (root / "train" / "bee" / "test").symlink_to(root / "test")  # a leak
    picture(root / "train" / "bee" / "deeper" / "still" / "one.PNG")
    found = load(root)
    assert found.classes == ("Cat", "ant", "bee", "dog")
    assert (found.train.labels.bincount() + found.val.labels.bincount()).tolist() == [6, 6, 7, 5]
    assert found.test.labels.bincount().tolist() == [6, 6, 6, 2]


def test_a_part_must_not_be_another_part(root: Path) -> None:
    (root / "val").symlink_to(root / "test")
    with pytest.raises(DataError, match=r"val and .*test must be different folders, but both are .*test"):
        load(root)


def test_train_may_be_a_class(tmp_path: Path) -> None:
    fill(tmp_path, 5, ("train", "car", "bus"))
    assert load(tmp_path).classes == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("sizes", "what"), [([(50, 40)], "of 50x40 pixels"), ([(9, 9), (28, 28)], "of 2 different sizes")]
)
def test_resizing_is_told_once(tmp_path: Path, caplog, sizes: list[tuple[int, int]], what: str) -> None:
    for i in range(6):
        picture(tmp_path / "set" / "a" / f"{i}.png", sizes[i % len(sizes)])
        picture(tmp_path / "set" / "b" / f"{i}.png", sizes[i % len(sizes)])
    with caplog.at_level(logging.WARNING, logger="study"):
        load(tmp_path / "set")
    told = [record.getMessage() for record in caplog.records]
    assert [message for message in told if "resized" in message] == [
        f"the images of set are {what}: all are resized to 28x28; --image-size sets another size"
    ]


def test_a_broken_image_is_named(root: Path) -> None:
    path = root / "train" / "bee" / "003.png"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=rf"^{path} cannot be read as an image: .*truncated"):
        load(root)


def test_a_link_that_leads_nowhere_is_named(root: Path) -> None:
    (root / "train" / "bee" / "gone.png").symlink_to(root / "nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png cannot be read as an image: No such file"):
        load(root)


def move(source: str, target: str | None = None) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        if target is None:
            for path in (root / source).iterdir():
                path.unlink()
            (root / source).rmdir()
        else:
            (root / source).rename(root / target)

    return change


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (move("test", "unused"), "set has train/, but no test/"),
        (move("train", "unused"), "set has test/, but no train/"),
        (move("test", "val"), "set has train/, but no test/"),
        (move("test/bee"), r"test must have every class folder of train/, but has no 'bee'"),
        (move("train/bee"), r"test must have no class folders beyond those of train/, but has 'bee'"),
        (
            lambda root: (root / "train" / "dog").mkdir(),
            "every class folder must hold images, but none are in 'dog' of .*train",
        ),
        (lambda root: fill(root / "val", 2, ("ant", "bee")), r"val must have every class folder .* no 'Cat'"),
        (lambda root: fill(root / "val", 2, ()), r"train/ and val/ of .*set must both have class folders, or neither"),
        (lambda root: (root / "val").mkdir(), r"val must hold images or class folders with images, but no image"),
        (lambda root: fill(root / "train" / "one\ntwo", 2, ()), r"printable text, but one is 'one\\ntwo'"),
    ],
)
def test_folders_that_break_a_rule(root: Path, change, rule: str) -> None:
    change(root)
    with pytest.raises(DataError, match=rule) as caught:
        load(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda root: root.mkdir(), "set must hold images or class folders with images, but no image is there"),
        (lambda root: (root / "a" / "b").mkdir(parents=True), "but no image is there"),
        (lambda root: fill(root, 5, ("only",)), r"set must have from 2 to 200 classes, but has 1 \('only'\)"),
        (
            lambda root: (fill(root, 5, ("a",)), fill(root, 2, ("b",))),
            "3 or more .* class 'b' has only 2",
        ),
        (lambda root: fill(root, 2, ()), "3 or more images of each class, but there are only 2"),
        (lambda root: fill(root, 1, tuple(f"c{i}" for i in range(201))), "from 2 to 200 classes, but has 201"),
        (
            lambda root: (fill(root / "train", 1), fill(root / "test")),
            "2 or more .* 'Cat' has only 1",
        ),
    ],
)
def test_folders_with_too_little_or_too_much(tmp_path: Path, make, rule: str) -> None:
    make(tmp_path / "set")
    with pytest.raises(DataError, match=rule):
        load(tmp_path / "set")


def test_no_permission(root: Path, monkeypatch) -> None:
    original = os.listdir

    def refuse(folder: Path) -> list[str]:  # root may read everything
        if folder.name == "ant":
            raise PermissionError(13, "Permission denied")
        return original(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(DataError, match=r"the folder .*ant cannot be read: Permission denied"):
        load(root)


def test_accents_are_one_spelling(tmp_path: Path) -> None:
    for name, root in (("caf\u00e9", tmp_path / "one"), ("cafe\u0301", tmp_path / "two")):
        for part in ("train", "test"):
            for i in range(3):
                for each in (name, "cafz"):
                    path = root / part / each / f"{i}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.new("L", (28, 28), 10 * i + len("cafz" if each == "cafz" else "e")).save(path)
    assert load(tmp_path / "one").digest == load(tmp_path / "two").digest
    assert load(tmp_path / "two").classes == ("cafz", "caf\u00e9")
