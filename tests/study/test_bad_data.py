"""Data that cannot be used: one sentence, exit code 2, and nothing is trained. (The rules: tests/study/data.)"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pictures import SHAPES, folder_of_shapes, letters
from studies import Studies, copied


def missing(place: Path) -> Path:
    return place / "nowhere"


def no_image(place: Path) -> Path:
    folder = folder_of_shapes(place / "text", {"": 5})
    (folder / SHAPES[0] / "note.png").write_text("no image")
    return folder


def labels_out_of_range(place: Path) -> Path:
    images, labels = letters(5, 0, "ABC")
    np.savez(place / "set.npz", x_train=images, y_train=labels, x_test=images, y_test=labels + 1)
    return place / "set.npz"


def constant_images(place: Path) -> Path:
    images, labels = np.zeros((30, 28, 28), np.uint8), np.arange(30) % 3
    np.savez(place / "set.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return place / "set.npz"


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (missing, "nowhere' cannot be read (No such file or directory): --data takes auto, mnist"),
        (no_image, "note.png cannot be read as an image: it is a text that begins with 'no image'"),
        (labels_out_of_range, "must be from 0 to 2, but one is 3"),
        (constant_images, "pixels must use the range from 0 to 255, but those of the training images"),
    ],
)
def test_data_that_cannot_be_used(
    make: Callable[[Path], Path], rule: str, empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = Studies(copied(empty_store, tmp_path / "store"), capsys)
    refused = studies.call("smoke", "--data", make(tmp_path))
    assert rule in refused.error
    assert refused.errors.count("\n") == 1
    assert refused.out == ""
    assert studies.runs() == []
    assert not studies.client.search_registered_models()


def test_an_image_size_that_the_networks_do_not_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    studies = Studies(tmp_path / "store", capsys)
    refused = studies.call("smoke", "--data", "digits", "--image-size", 30)
    shown = " ".join(refused.errors.replace("│", " ").split())
    assert (refused.code, "multiple of 4 from 16 to 64, but got 30" in shown) == (2, True)
    assert "Traceback" not in shown
    assert not studies.store.exists()
