"""Data that cannot be used: one sentence, exit code 2, and nothing is trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import SHAPES, folder_of_shapes, letters
from studies import Studies, copied

Make = Callable[[Path], "tuple[Path, list[str]]"]


def missing(place: Path) -> tuple[Path, list[str]]:
    return place / "nowhere", ["there is no data set, folder or file", "nowhere", "--data takes auto, mnist"]


def empty_folder(place: Path) -> tuple[Path, list[str]]:
    (place / "empty").mkdir()
    return place / "empty", ["empty"]


def one_class(place: Path) -> tuple[Path, list[str]]:
    folder = folder_of_shapes(place / "one", {"": 5})
    for name in SHAPES[1:]:
        shutil.rmtree(folder / name)
    return folder, ["must have from 2 to 200 classes, but has 1 ('Größe L')"]


def unreadable_image(place: Path) -> tuple[Path, list[str]]:
    folder = folder_of_shapes(place / "broken", {"": 5})
    file = folder / SHAPES[1] / "002.png"
    file.write_bytes(file.read_bytes()[:100])
    return folder, [f"{file} cannot be read as an image"]


def no_image(place: Path) -> tuple[Path, list[str]]:
    folder = folder_of_shapes(place / "text", {"": 5})
    (folder / SHAPES[0] / "note.png").write_text("no image")
    return folder, ["note.png cannot be read as an image: its content is of no format that Pillow knows"]


def a_class_with_one_image(place: Path) -> tuple[Path, list[str]]:
    folder = folder_of_shapes(place / "lonely", {"": 5}, size=28)
    for number in range(1, 5):
        (folder / SHAPES[1] / f"{number:03}.png").unlink()
    return folder, ["a split needs 3 or more images of each class, but class 'green disc' has only 1"]


def a_class_without_test_images(place: Path) -> tuple[Path, list[str]]:
    folder = folder_of_shapes(place / "untested", {"train": 5, "test": 2})
    shutil.rmtree(folder / "test" / SHAPES[2])
    return folder, ["untested", "'stripe'"]


def archive(place: Path) -> tuple[Path, list[str]]:
    folder = folder_of_shapes(place / "packed", {"": 2})
    file = Path(shutil.make_archive(str(folder), "zip", folder))
    return file, ["packed.zip is an archive: unpack it and give the folder to --data"]


def text_file(place: Path) -> tuple[Path, list[str]]:
    (place / "data.csv").write_text("1,2\n")
    return place / "data.csv", ["data.csv is neither a folder of images nor an .npz file"]


def arrays(place: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    (x_train, y_train), (x_test, y_test) = letters(5, 0, "ABC"), letters(2, 1, "ABC")
    parts = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    change(parts)
    np.savez(place / "letters.npz", **parts)  # type: ignore[arg-type]
    return place / "letters.npz"


def floats(place: Path) -> tuple[Path, list[str]]:
    def change(parts: dict[str, np.ndarray]) -> None:
        parts["x_train"] = parts["x_train"] / 255

    return arrays(place, change), ["x_train of ", "must be of uint8, 0 to 255, but are of float64"]


def four_channels(place: Path) -> tuple[Path, list[str]]:
    def change(parts: dict[str, np.ndarray]) -> None:
        parts["x_test"] = np.stack([parts["x_test"]] * 4, -1)

    return arrays(place, change), ["x_test of ", "must have the shape [N, H, W]", "but have [6, 28, 28, 4]"]


def label_too_large(place: Path) -> tuple[Path, list[str]]:
    def change(parts: dict[str, np.ndarray]) -> None:
        parts["y_test"][3] = 7

    return arrays(place, change), ["y_test of ", "must be from 0 to 2, as there are 3 classes, but one label is 7"]


def too_few_labels(place: Path) -> tuple[Path, list[str]]:
    def change(parts: dict[str, np.ndarray]) -> None:
        parts["y_train"] = parts["y_train"][1:]

    return arrays(place, change), ["x_train and y_train of ", "must be equally many, but are 15 and 14"]


def no_arrays(place: Path) -> tuple[Path, list[str]]:
    (place / "letters.npz").write_bytes(b"nothing of the kind")
    return place / "letters.npz", ["letters.npz cannot be read as .npz without pickles"]


MISTAKES: list[Make] = [
    *(missing, empty_folder, one_class, unreadable_image, no_image, a_class_with_one_image),
    *(a_class_without_test_images, archive, text_file, floats, four_channels, label_too_large, too_few_labels),
    no_arrays,
]


@pytest.mark.parametrize("make", MISTAKES, ids=lambda make: make.__name__)
def test_data_that_cannot_be_used(
    make: Make, empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, parts = make(tmp_path)
    studies = Studies(copied(empty_store, tmp_path / "store"), capsys)
    refused = studies.call("smoke", "--data", data)
    for part in parts:
        assert part in refused.error
    assert refused.errors.count("\n") == 1
    assert refused.out == ""
    assert studies.runs() == []
    assert not (studies.store / "optuna.db").exists()
    assert not studies.client.search_registered_models()


@pytest.mark.parametrize("size", [30, 12, 68])
def test_image_sizes_that_the_networks_do_not_take(
    size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = Studies(tmp_path / "store", capsys)
    refused = studies.call("smoke", "--data", "digits", "--image-size", size)
    assert refused.code == 2
    shown = " ".join(refused.errors.replace("│", " ").split())
    assert f"`image_size` must be a multiple of 4 from 16 to 64, but got {size}" in shown
    assert "Traceback" not in shown
    assert not studies.store.exists()
