"""What `study.sample` draws, compared with the registered models' own output."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from commands import Done
from conftest import ROOT
from PIL import Image
from registered import CLASSES, NOISE

from study import sample
from tracking.store import read_store

Draw = Callable[..., Done]
ZOOM, CELL = 2, 30  # screen pixels of an image's pixel; pixels from one image of a grid to the next


@pytest.fixture
def draw(models_store: Path, called: Draw) -> Draw:
    """Draws digits to a file or folder."""
    return lambda out, *more: called("sample", "--data", "digits", "--store", models_store, "--out", out, *more)


def outputs(store: Path, model: str, inputs: np.ndarray) -> np.ndarray:
    """The registered model's output, through MLflow's own loader, uint8 [N, 28, 28]."""
    read_store(store)
    images = mlflow.pyfunc.load_model(f"models:/digits-{model}/1").predict(inputs)
    return (images.squeeze(1) * 255).round().astype(np.uint8)


def cut(sheet: np.ndarray, columns: int, count: int) -> np.ndarray:
    """The images of a grid."""
    plain = sheet[::ZOOM, ::ZOOM]
    corners = [(CELL * (n // columns), CELL * (n % columns)) for n in range(count)]
    return np.stack([plain[top : top + 28, left : left + 28] for top, left in corners])


@pytest.mark.parametrize(
    ("arguments", "model", "labels"),
    [
        ([], "latent-gan", None),
        (["--label", "7"], "conditional-gan", [7] * 12),
        (["--model", "digits-conditional-gan/1"], "conditional-gan", [*range(10), 0, 1]),
    ],
)
def test_all_forms_hold_what_the_registered_model_makes_of_the_seed(
    models_store: Path, draw: Draw, tmp_path: Path, arguments: list, model: str, labels: list[int] | None
) -> None:
    asked = [*arguments, "--count", 12, "--seed", 5]
    for name, *flags in (["grid.png"], ["strip.PNG", "--strip"], ["folder"], ["arrays.npz"]):
        assert draw(tmp_path / name, *flags, *asked).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"grid.png", "strip.PNG", "folder", "arrays.npz"}
    arrays = np.load(tmp_path / "arrays.npz")
    inputs = arrays["inputs"]
    expected = outputs(models_store, model, inputs)
    if labels is not None:
        assert arrays["labels"].tolist() == labels
        np.testing.assert_array_equal(inputs[:, -CLASSES:], np.eye(CLASSES)[labels])
    grid, strip = (np.asarray(Image.open(tmp_path / name)) for name in ("grid.png", "strip.PNG"))
    assert grid.shape == (ZOOM * (3 * CELL - 2), ZOOM * (4 * CELL - 2))
    assert strip.shape == (ZOOM * 28, ZOOM * (12 * CELL - 2))
    singles = [np.asarray(Image.open(file)) for file in sorted((tmp_path / "folder").iterdir())]
    for images in (cut(grid, 4, 12), cut(strip, 12, 12), np.stack(singles), arrays["images"]):
        np.testing.assert_allclose(images.astype(int), expected.astype(int), atol=1)
    assert draw(tmp_path / "other.npz", *asked[:-1], 6).code == 0
    assert (np.load(tmp_path / "other.npz")["images"] != arrays["images"]).any()


def test_a_class_is_found_by_its_name_first_and_else_by_its_number() -> None:
    assert [sample.class_number(name, ["2", "1", "0"]) for name in ("1", "2")] == [1, 0]
    assert [sample.class_number(name, ["a b", "Größe L"]) for name in ("Größe L", "1")] == [1, 1]


def test_an_interpolation_goes_from_one_digit_to_the_other_with_the_same_noise(draw: Draw, tmp_path: Path) -> None:
    assert draw(tmp_path / "a.npz", "--interpolate", 3, 8, "--count", 16).code == 0
    arrays = np.load(tmp_path / "a.npz")
    inputs = arrays["inputs"].reshape(4, 4, NOISE + CLASSES)  # [rows, steps, noise and label]
    noise = inputs[:, 0, :NOISE]
    np.testing.assert_array_equal(inputs[:, :, :NOISE], noise[:, None].repeat(4, 1))
    assert (np.diff(noise, axis=0) != 0).all(), "each row has its own"
    three, eight = np.eye(CLASSES)[[3, 8]]
    for step in range(4):
        np.testing.assert_allclose(inputs[:, step, NOISE:], [(1 - step / 3) * three + step / 3 * eight] * 4, atol=1e-6)
    assert draw(tmp_path / "b.npz", "--interpolate", 3, 8, "--count", 5, "--strip").code == 0
    assert np.load(tmp_path / "b.npz")["labels"][:, 8].tolist() == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        ("--interpolate 3 10", "one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 or a number from 0 to 9, but got '10'"),
        ("--label -1", "or a number from 0 to 9, but got '-1'"),
        ("--interpolate 3 8 --label 1", "only one of `label` and `interpolate` can be given"),
        ("--count 0", "`1 <= count` must hold, but got 0"),
        ("--count 10001", "`count <= 10000` must hold, but got 10001"),
        ("--out picture.gif", "must end in .png or .npz, or be a folder's name"),
        ("--out /nowhere/a.png", "--out"),
        ("--out tests", "the folder --out must be new or empty"),
        ("--data mnist", "mnist-latent-gan@champion in this store (it has: digits-"),
        ("--data=", "a path must not be empty"),
        ("--model digits-latent-gan/4", "digits-latent-gan/4 in this store"),
        ("--model digits-judge", "--model must be a generator, but got models:/digits-judge/1"),
        ("--model digits-latent-gan --label 3", "can be asked of a conditional generator only"),
        ("--model ../../etc/passwd", "NAME, NAME@ALIAS or NAME/NUMBER"),
        ("--model digits-latent-gan'OR/1", "NAME, NAME@ALIAS or NAME/NUMBER"),
    ],
)
def test_samples_that_cannot_be_drawn(draw: Draw, tmp_path: Path, flags: str, rule: str) -> None:
    assert rule in draw(tmp_path / "out.png", *flags.split()).error
    assert not (tmp_path / "out.png").exists()


def test_drawing_imports_only_what_it_needs(models_store: Path, tmp_path: Path) -> None:
    """Each of the others takes half a second or more, and the whole command not much longer."""
    heavy = ("optuna", "matplotlib", "sklearn", "torch._dynamo", "torchvision")
    code = "import sys; from study import sample; sample.main(sys.argv[1:]); "
    code += f"print(set({heavy}) & sys.modules.keys())"
    arguments = ["--data", "digits", "--store", models_store, "--label", 3, "--out", tmp_path / "three.png"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "set()", done.stdout
    assert (tmp_path / "three.png").exists()


def test_a_folder_that_is_stopped_half_way_leaves_nothing_in_the_way(
    draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", stop)
        assert draw(tmp_path / "pictures", "--count", 5).code == 130
    assert [*tmp_path.rglob("*")] == [tmp_path / "pictures"], "empty"
    assert draw(tmp_path / "pictures", "--count", 5).code == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 5
