"""What `study.predict` writes, held against MLflow's own loader, scikit-learn's images and `study.sample`."""

from __future__ import annotations

import csv
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

from study import predict, sample
from study.data.digits import load_digits
from tracking.store import read_store


def write(store: Path, model: str, inputs: Path, out: Path, *arguments: object) -> int:
    """Run the command in this process. Returns its exit code."""
    given = (f"digits-{model}", "--store", store, "--inputs", inputs, "--out", out, *arguments)
    try:
        return predict.main([str(part) for part in given])
    except SystemExit as done:
        return int(done.code or 0)


def kept(store: Path, model: str, inputs: np.ndarray) -> np.ndarray:
    """The registered model's output through MLflow's own loader."""
    read_store(store)
    return mlflow.pyfunc.load_model(f"models:/digits-{model}@champion").predict(inputs)


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Real digits, uint8 [30, 28, 28]."""
    return load_digits().test.images[:30].squeeze(1).numpy()


def test_the_classes_of_images_from_all_kinds_of_files(smoke_store: Path, tmp_path: Path, digits: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", images=digits)
    rows = digits.reshape(len(digits), -1)
    np.savetxt(tmp_path / "plain.csv", rows, "%d", ",")
    np.savetxt(tmp_path / "kaggle.csv", rows, "%d", ",", header=",".join(f"pixel{n}" for n in range(784)), comments="")
    np.savetxt(tmp_path / "pandas.csv", rows, "%d", ",", header=",".join(map(str, range(784))), comments="")
    (tmp_path / "excel.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "plain.csv").read_bytes())
    Image.fromarray(digits[0]).save(tmp_path / "one.png")
    expected = kept(smoke_store, "judge", digits[:, None].astype(np.float32) / 255)
    assert len(set(expected.argmax(1))) > 5
    (tmp_path / "labels.csv").write_text((tmp_path / "kaggle.csv").read_text().replace("pixel0,", ",", 1))
    tables = dict.fromkeys(("plain.csv", "kaggle.csv", "pandas.csv", "excel.csv", "labels.csv"), 30)
    for name, count in {"a.npz": 30, **tables, "one.png": 1}.items():
        assert write(smoke_store, "judge", tmp_path / name, tmp_path / "out.npz") == 0
        found = np.load(tmp_path / "out.npz")
        np.testing.assert_allclose(found["outputs"], expected[:count], atol=1e-5)
        assert found["labels"].tolist() == expected[:count].argmax(1).tolist()
        assert found["class_names"].tolist() == list("0123456789")

    assert write(smoke_store, "judge", tmp_path / "a.npz", tmp_path / "out.csv") == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["class", *"0123456789"]
    assert [line[0] for line in lines] == [str(label) for label in expected.argmax(1)]
    np.testing.assert_allclose(np.array([line[1:] for line in lines], float), expected, atol=1e-5)


def test_what_sample_has_written_gives_the_same_images_again(smoke_store: Path, tmp_path: Path) -> None:
    given = ("--data", "digits", "--store", smoke_store, "--digit", 7, "--count", 5, "--out", tmp_path / "a.npz")
    assert sample.main([str(part) for part in given]) == 0
    drawn = np.load(tmp_path / "a.npz")
    assert write(smoke_store, "conditional-gan", tmp_path / "a.npz", tmp_path / "b.npz") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "b.npz")["images"], drawn["images"])
    np.savetxt(tmp_path / "a.csv", drawn["inputs"], delimiter=",")
    assert write(smoke_store, "conditional-gan", tmp_path / "a.csv", tmp_path / "c.npz") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "c.npz")["images"], drawn["images"])


def test_to_latents_and_back_is_the_autoencoder(smoke_store: Path, tmp_path: Path, digits: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", images=digits)
    assert write(smoke_store, "autoencoder", tmp_path / "a.npz", tmp_path / "latents.csv", "--part", "encoder") == 0
    assert write(smoke_store, "autoencoder", tmp_path / "latents.csv", tmp_path / "b.npz", "--part", "decoder") == 0
    found, expected = np.load(tmp_path / "b.npz"), kept(smoke_store, "autoencoder", digits[:, None] / np.float32(255))
    np.testing.assert_allclose(found["outputs"], expected, atol=1e-5)
    assert found["images"].shape == digits.shape


@pytest.mark.parametrize(
    ("model", "file", "content", "message"),
    [
        ("judge", "none.npz", None, "must be an .npz file with the array `images`: No such file"),
        ("judge", "none.csv", None, "must have as many numbers in each line, with commas between"),
        ("judge", "a.csv", "", "a.csv must have numbers, but has none"),
        ("judge", "a.csv", "pixel0,pixel1\n", "a.csv must have numbers, but has none"),
        ("judge", "a.csv", "1,2\n1\n", "a.csv must have as many numbers in each line, with commas between them"),
        ("judge", "a.csv", ",1" * 784 + "\n" + "1," * 784 + "1\n", "could not convert string to float: ''"),
        ("judge", "a.csv", "NA" + ",1" * 783 + "\n" + "1," * 783 + "1\n", "could not convert string to float: 'NA'"),
        ("judge", "a.csv", "1,2\n1,x\n", "could not convert string to float: 'x'"),
        ("judge", "a.csv", "1,2\n", "a.csv must have 784 pixels, as the model takes them, but has 2"),
        ("judge", "a.csv", "0.5," * 783 + "1\n", "the pixels of"),
        ("judge", "a.csv", "256," * 783 + "1\n", "must be whole numbers from 0 to 255, but it has others"),
        ("judge", "a.csv", "nan," * 783 + "1\n", "must be whole numbers from 0 to 255, but it has others"),
        ("latent-gan", "a.csv", "1,2\n", "the inputs must be numbers [N, "),
        ("latent-gan", "a.npz", {"images": np.zeros((2, 28, 28), np.uint8)}, "with the array `inputs`: 'inputs"),
        ("latent-gan", "a.npz", {"inputs": np.zeros((0, 16), np.float32)}, "must not be empty, but has the shape"),
        ("latent-gan", "a.npz", {"inputs": np.array([["x"]])}, "as the model takes them, but"),
        ("judge", "a.npz", {"images": np.zeros((2, 27, 28), np.uint8)}, "images must be of 28x28 pixels"),
        ("judge", "a.npz", {"images": np.zeros((2, 28, 28))}, "[N, H, W, 3], but are float64"),
        ("judge", "a.npz", {"images": np.array([{}], object)}, "Object arrays cannot be loaded"),
        ("none", "a.npz", {"images": np.zeros((2, 28, 28), np.uint8)}, "is registered as digits-none@champion"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit(
    smoke_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    file: str,
    content: str | dict[str, np.ndarray] | None,
    message: str,
) -> None:
    if isinstance(content, str):
        (tmp_path / file).write_text(content)
    elif content is not None:
        np.savez(tmp_path / file, **content)
    assert write(smoke_store, model, tmp_path / file, tmp_path / "out.npz") == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "out.npz").exists()


def test_vectors_must_be_finite(smoke_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read_store(smoke_store)
    width = mlflow.pyfunc.load_model("models:/digits-latent-gan/1").metadata.get_input_schema().inputs[0].shape[-1]
    for value in (np.inf, 1e39):  # the second is too large for 32 bits
        np.savez(tmp_path / "a.npz", inputs=np.full((1, width), value))
        assert write(smoke_store, "latent-gan", tmp_path / "a.npz", tmp_path / "out.npz") == 2
        error = capsys.readouterr().err
        assert "the inputs must be finite" in error
        assert "Warning" not in error


def test_an_ending_in_capitals_is_kept(smoke_store: Path, tmp_path: Path, digits: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", images=digits)
    assert write(smoke_store, "judge", tmp_path / "a.npz", tmp_path / "OUT.NPZ") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["OUT.NPZ", "a.npz"]
    assert len(np.load(tmp_path / "OUT.NPZ")["labels"]) == len(digits)


def test_a_name_that_is_too_long_is_told(smoke_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write(smoke_store, "judge", tmp_path / ("a" * 300 + ".npz"), tmp_path / "out.npz") == 2
    assert "must be an .npz file with the array `images`: File name too long" in capsys.readouterr().err


def test_the_ending_of_out(smoke_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write(smoke_store, "judge", tmp_path / "a.npz", tmp_path / "out.json") == 2
    assert "`out` must end in .csv or .npz, but got" in " ".join(capsys.readouterr().err.replace("│", " ").split())
