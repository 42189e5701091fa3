"""Array files (.npz): what is read unchanged, and what is refused by name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from study import data
from study.data import DataError, Dataset, Split

SIZES = {"train": 60, "val": 12, "test": 18}
RESIZED = [((28, 28, 3), 28, False), ((40, 50), 28, False), ((8, 8), 32, True)]
Arrays = dict[str, np.ndarray]
DAMAGES = [
    (lambda content: b"no zip at all", "a text that begins with 'no zip at all'"),
    (lambda content: content[: len(content) // 2], "a cut or damaged archive"),
    (lambda content: content[:2000] + bytes(200) + content[2200:], "a cut or damaged archive"),
    (lambda content: b"\x93NUMPY" + content, r"a single array without a name \(.npy\)"),
    (lambda content: b"\x80\x04]\x94.", "a pickle of Python objects"),
    (lambda content: b"\x1f\x8b" + content, "of another format"),
]


def medmnist(*shape: int, classes: int = 3) -> Arrays:
    """Random images of this shape under MedMNIST's names, labels [N, 1] as it has them."""
    random = np.random.default_rng(0)
    arrays = {}
    for part, count in SIZES.items():
        arrays[f"{part}_images"] = random.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % classes).astype(np.uint8)[:, None]
    return arrays


def load(folder: Path, arrays: Arrays, **options) -> Dataset:
    np.savez_compressed(folder / "set.npz", **arrays)  # type: ignore[arg-type]
    return data.load(str(folder / "set.npz"), **options)


def pairs(images: np.ndarray | Split, labels: np.ndarray | None = None) -> list[tuple[bytes, int]]:
    """Images with their labels in an order that does not depend on how they were shuffled."""
    if isinstance(images, Split):
        images, labels = data.to_pixels(images.images), images.labels.numpy()
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels.ravel(), strict=True))


@pytest.mark.parametrize(("shape", "colour"), [((28, 28), False), ((28, 28, 1), False), ((28, 28, 3), True)])
def test_medmnists_arrays_come_through_unchanged(tmp_path: Path, shape: tuple[int, ...], colour: bool) -> None:
    arrays = medmnist(*shape)
    found = load(tmp_path, arrays, colour=colour)
    for part, split in (("train", found.train), ("val", found.val), ("test", found.test)):
        assert pairs(split) == pairs(arrays[f"{part}_images"], arrays[f"{part}_labels"])
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
    assert found.image_shape == (3 if colour else 1, 28, 28)
    assert (found.name, found.classes, found.source) == ("set", ("0", "1", "2"), str(tmp_path / "set.npz"))


def test_kerass_arrays_get_a_stratified_validation_split(tmp_path: Path) -> None:
    given, arrays = medmnist(28, 28), {}
    for part in ("train", "test"):
        arrays |= {f"x_{part}": given[f"{part}_images"], f"y_{part}": given[f"{part}_labels"][:, 0]}
    found = load(tmp_path, arrays)
    assert sorted(pairs(found.train) + pairs(found.val)) == pairs(arrays["x_train"], arrays["y_train"])
    assert pairs(found.test) == pairs(arrays["x_test"], arrays["y_test"])
    assert found.val.labels.bincount().tolist() == [2, 2, 2]  # 10 % of 20 each
    assert found.digest == "73fc043144b50b48", "the split of earlier results"


@pytest.mark.parametrize("dtype", ["uint64", "float32", ">i4"])
def test_labels_of_any_whole_kind_sorted_by_class_are_mixed(tmp_path: Path, dtype: str) -> None:
    arrays = medmnist(28, 28) | {"class_names": np.array(["cafe\u0301", "dog", "cow"])}
    for part in SIZES:
        arrays[f"{part}_labels"] = np.sort(arrays[f"{part}_labels"], axis=0).astype(dtype)
    found = load(tmp_path, arrays)
    assert all(len(split.labels[:6].unique()) > 1 for split in (found.train, found.val, found.test))
    assert found.classes == ("caf\u00e9", "dog", "cow"), "one spelling of accents"


@pytest.mark.parametrize(("shape", "size", "colour"), RESIZED)
def test_grey_colour_and_size_are_pillows(tmp_path: Path, caplog, shape, size: int, colour: bool) -> None:
    arrays = medmnist(*shape)
    found = load(tmp_path, arrays, image_size=size, colour=colour)
    pictures = [Image.fromarray(image).convert("RGB" if colour else "L") for image in arrays["test_images"]]
    expected = np.stack([np.asarray(each.resize((size, size), Image.Resampling.BILINEAR)) for each in pictures])
    assert pairs(found.test) == pairs(expected, arrays["test_labels"])
    told = f"of {shape[1]}x{shape[0]} pixels: all are resized to {size}x{size}; --image-size"
    assert caplog.text.count(told) == (shape[:2] != (size, size))


def with_(**others: object):
    return lambda arrays: arrays | others


def label(value: float, dtype: str, part: str = "train"):
    def change(arrays: Arrays) -> Arrays:
        labels = arrays[f"{part}_labels"].astype(dtype)
        labels[4] = value
        return arrays | {f"{part}_labels": labels}

    return change


IMAGES = np.zeros((60, 28, 28), dtype=np.uint8)
BROKEN_RULES = [
    (label(3, "int64", "test"), "labels of the test images of set must be from 0 to 2, but one is 3"),
    (label(1.5, "float32"), r"train_labels of .* must be whole numbers from 0 to classes - 1, but one is 1\.5"),
    (with_(train_labels=np.zeros((60, 14), dtype=np.uint8)), r"must be .* one label an image, .* \[60, 14\]"),
    (with_(train_labels=np.array(["a"] * 60)), "train_labels .* must be whole numbers, .* <U1"),
    (with_(train_labels=np.zeros(59, dtype=np.uint8)), "train_images and train_labels .* but are 60 and 59"),
    (with_(class_names=np.array(list("abcd"))), "among the training images of set, but there is no 'd'"),
    (with_(class_names=np.arange(3)), r"class_names of .* must be texts \[classes\], but are int64"),
    (with_(train_images=IMAGES / 255), r"train_images of .* must be uint8, 0 to 255, .* float64"),
    (with_(train_images=np.zeros((60, 28, 28, 4), np.uint8)), r"\[N, H, W, 3\], but are uint8 \[60, 28, 28, 4\]"),
    (with_(train_images=IMAGES), "pixels must use the range from 0 to 255, .* training images .* from 0 to 0"),
    (with_(train_images=np.full((60,), None)), r"set.npz cannot be read .* \(a pickle\)"),
    (lambda _: {"train_images": IMAGES}, "must hold train_images, .* no 'train_labels', .* holds 'train_images'"),
]


@pytest.mark.parametrize(("change", "rule"), BROKEN_RULES)
def test_arrays_that_break_a_rule(tmp_path: Path, change, rule: str) -> None:
    with pytest.raises(DataError, match=rf"\A.*{rule}.*\Z"):  # in one line
        load(tmp_path, change(medmnist(28, 28)))


@pytest.mark.parametrize(("damage", "what"), DAMAGES)
def test_what_is_no_array_file_is_named(tmp_path: Path, denied, damage, what: str) -> None:
    load(tmp_path, medmnist(28, 28))
    path = tmp_path / "set.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=rf"\A.*set\.npz cannot be read .*: it is {what}.*\Z"):  # in one line
        data.load(str(path))
    with denied(path), pytest.raises(DataError, match=r"set\.npz.* cannot be read.*Permission denied"):
        data.load(str(path))
