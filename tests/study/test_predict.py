"""What `study.predict` writes, compared with MLflow's own loader, scikit-learn's images and `study.sample`."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from commands import Done
from PIL import Image
from registered import NOISE

from study import data
from tracking.store import read_store

Write = Callable[..., Done]


@pytest.fixture
def write(models_store: Path, called: Write) -> Write:
    """Writes outputs of a model of the store: `write("judge", inputs, out)`."""
    return lambda model, inputs, out, *more: called(
        "predict", f"digits-{model}", "--store", models_store, "--inputs", inputs, "--out", out, *more
    )


def kept(store: Path, model: str, inputs: np.ndarray) -> np.ndarray:
    """The registered model's output through MLflow's own loader."""
    read_store(store)
    return mlflow.pyfunc.load_model(f"models:/digits-{model}@champion").predict(inputs)


def same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * max(10, abs(expected).max()))


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Real digits, uint8 [30, 28, 28]."""
    return data.load("digits").test.images[:30].squeeze(1).numpy()


def test_the_classes_of_images_from_all_kinds_of_files(
    models_store: Path, write: Write, tmp_path: Path, digits: np.ndarray
) -> None:
    np.savez(tmp_path / "arrays.npz", images=digits)
    rows = digits.reshape(len(digits), -1)
    np.savetxt(tmp_path / "plain.csv", rows, "%d", ",")
    np.savetxt(tmp_path / "kaggle.csv", rows, "%d", ",", header=",".join(f"pixel{n}" for n in range(784)), comments="")
    np.savetxt(tmp_path / "pandas.csv", rows, "%d", ",", header=",".join(map(str, range(784))), comments="")
    (tmp_path / "excel.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "plain.csv").read_bytes())
    (tmp_path / "folder" / "below").mkdir(parents=True)
    for number, image in enumerate(digits):
        Image.fromarray(image).save(tmp_path / "folder" / "below" / f"{number:02}.png")
    Image.fromarray(digits[0]).save(tmp_path / "one.png")
    expected = kept(models_store, "judge", digits[:, None].astype(np.float32) / 255)
    for name in ("arrays.npz", "plain.csv", "kaggle.csv", "pandas.csv", "excel.csv", "folder", "one.png"):
        assert write("judge", tmp_path / name, tmp_path / "OUT.NPZ").code == 0
        found = np.load(tmp_path / "OUT.NPZ")
        count = 1 if name == "one.png" else 30
        same(found["outputs"], expected[:count])
        assert found["labels"].tolist() == expected[:count].argmax(1).tolist()
        assert found["class_names"].tolist() == list("0123456789")

    assert write("judge", tmp_path / "folder", tmp_path / "out.csv").code == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["file", "class", *"0123456789"]
    assert [line[0] for line in lines] == [f"below/{number:02}.png" for number in range(30)]
    assert [line[1] for line in lines] == [str(label) for label in expected.argmax(1)]
    same(np.array([line[2:] for line in lines], float), expected)


def test_images_of_another_size_are_resized_as_for_the_training(
    models_store: Path, write: Write, tmp_path: Path, caplog
) -> None:
    large = np.random.default_rng(0).integers(0, 256, (3, 40, 50), dtype=np.uint8)
    np.savez(tmp_path / "large.npz", images=large)
    box = (28, 28)
    small = np.stack([np.asarray(Image.fromarray(each).resize(box, Image.Resampling.BILINEAR)) for each in large])
    assert write("judge", tmp_path / "large.npz", tmp_path / "out.npz").code == 0
    expected = kept(models_store, "judge", small[:, None].astype(np.float32) / 255)
    same(np.load(tmp_path / "out.npz")["outputs"], expected)
    assert "of 50x40 pixels: all are resized to 28x28" in caplog.text


def test_to_latents_and_back_is_the_autoencoder_and_a_translation_has_images(
    models_store: Path, write: Write, tmp_path: Path, digits: np.ndarray
) -> None:
    np.savez(tmp_path / "a.npz", images=digits)
    assert write("autoencoder", tmp_path / "a.npz", tmp_path / "latents.csv", "--part", "encoder").code == 0
    assert write("autoencoder", tmp_path / "latents.csv", tmp_path / "b.npz", "--part", "decoder").code == 0
    found, expected = np.load(tmp_path / "b.npz"), kept(models_store, "autoencoder", digits[:, None] / np.float32(255))
    same(found["outputs"], expected)
    assert found["images"].shape == digits.shape
    assert write("translator", tmp_path / "a.npz", tmp_path / "c.npz").code == 0
    expected = kept(models_store, "translator", digits[:, None] / np.float32(255))
    np.testing.assert_allclose(np.load(tmp_path / "c.npz")["images"], (expected[:, 0] * 255).round(), atol=1)


def test_what_sample_has_written_gives_the_same_images_again(
    models_store: Path, write: Write, tmp_path: Path, called: Write
) -> None:
    given = ("--data", "digits", "--store", models_store, "--label", 7, "--count", 5)
    assert called("sample", *given, "--out", tmp_path / "a.npz").code == 0
    drawn = np.load(tmp_path / "a.npz")
    np.savetxt(tmp_path / "a.csv", drawn["inputs"], delimiter=",")
    for name in ("a.npz", "a.csv"):
        assert write("conditional-gan", tmp_path / name, tmp_path / "b.npz").code == 0
        np.testing.assert_array_equal(np.load(tmp_path / "b.npz")["images"], drawn["images"])


ROW = "1," * 783 + "1\n"
PIXELS = "must be 784 numbers with decimal points, with commas between them, but has"
NUMBERS = f"must be {NOISE} numbers with decimal points, with commas between them, but has"


@pytest.mark.parametrize(
    ("model", "file", "content", "message"),
    [
        ("judge", "none.npz", None, "none.npz cannot be read as .npz without pickles: No such file"),
        ("judge", "none.csv", None, "none.csv cannot be read: No such file"),
        ("judge", "a" * 300 + ".npz", None, "File name too long"),
        ("judge", "a.csv", "", "a.csv must have numbers, but has none"),
        ("judge", "a.csv", ROW + "1,2\n", f"line 2 of {{path}} {PIXELS} 2"),
        ("judge", "a.csv", ROW.replace("1", "1;2", 1) + ROW, "line 1 of {path} must be 784 numbers"),
        ("judge", "a.csv", "NA" + ",1" * 783 + "\n" + ROW, "but has 'NA'"),
        ("judge", "a.csv", ROW + ROW.replace(",", "\t"), "but has '1\\t1\\t1\\t1\\t1\\t1\\t1\\t1\\t1\\t1\\t'\n"),
        ("judge", "a.csv", "0.5," * 783 + "1\n", "whole numbers from 0 to 255"),
        ("judge", "a.csv", "nan," * 783 + "1\n", "whole numbers from 0 to 255"),
        ("latent-gan", "a.csv", "1,2\n", f"line 1 of {{path}} {NUMBERS} 2\n"),
        ("latent-gan", "a.csv", "0,5;0,7;0,1\n" * 2, f"{NUMBERS} '5;0'"),
        ("latent-gan", "a.csv", "1,2,3,4,5,1e39\n", "must be finite 32-bit numbers [N, 6]"),
        ("latent-gan", "a.npz", {"images": np.zeros((2, 28, 28), np.uint8)}, "`inputs`, but it holds images"),
        ("latent-gan", "a.npz", {"inputs": np.zeros((0, NOISE), np.float32)}, "but {path} has float32 [0, 6]"),
        ("latent-gan", "a.npz", {"inputs": np.array([["x"]])}, "but {path} has <U1 [1, 1]"),
        ("judge", "a.npz", {"images": np.zeros((2, 28, 28))}, "[N, H, W, 3], but are float64"),
        ("judge", "a.npz", {"images": np.array([{}], object)}, "it holds Python objects"),
        ("none", "a.npz", {"images": np.zeros((2, 28, 28), np.uint8)}, "is registered as digits-none@champion"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit(
    write: Write, tmp_path: Path, model: str, file: str, content: str | dict[str, np.ndarray] | None, message: str
) -> None:
    path = tmp_path / file
    if isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        np.savez(path, **content)  # type: ignore[arg-type]
    assert "`out` must end in .csv or .npz, but got" in write(model, path, tmp_path / "out.json").error
    done = write(model, path, tmp_path / "out.npz")
    assert message.replace("{path}", str(path)) in f"{done.error}\n"
    assert done.errors.count("\n") == 1
    assert len(done.errors) < 600
    assert not (tmp_path / "out.npz").exists()
