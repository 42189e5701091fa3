"""`study.sample`, `predict` and `export`: their files, read by others and compared with what MLflow's loader gives."""

import csv
import json
import re
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import mlflow
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from commands import Call, Done
from PIL import Image
from registered import CLASSES, NOISE, SHAPE
from safetensors import safe_open
from studies import copied

from models.gan import LatentGenerator
from study import data, export, sample
from tracking.registry import require_version, version
from tracking.store import read_store

ZOOM, CELL = 2, 30  # screen pixels of an image's pixel; pixels from one image of a grid to the next
DRAWN = [
    ([], "latent-gan", []),
    (["--label", "7"], "conditional-gan", [7] * 12),
    (["--model", "digits-conditional-gan/1"], "conditional-gan", [*range(10), 0, 1]),
]
NOT_DRAWN = [
    ("--interpolate 3 10", "one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 or a number from 0 to 9, but got '10'"),
    ("--label -1", "or a number from 0 to 9, but got '-1'"),
    ("--interpolate 3 8 --label 1", "only one of `label` and `interpolate` can be given"),
    ("--count 0", "`1 <= count` must hold, but got 0"),
    ("--count 10001", "`count <= 10000` must hold, but got 10001"),
    ("--out picture.gif", "must end in .png or .npz, or be a folder's name"),
    ("--out tests", "the folder --out must be new or empty"),
    ("--data mnist", "mnist-latent-gan@champion in this store (it has: digits-"),
    ("--data=", "a path must not be empty"),
    ("--model digits-latent-gan/4", "digits-latent-gan/4 in this store"),
    ("--model digits-judge", "--model must be a generator, but got models:/digits-judge/1"),
    ("--model digits-latent-gan --label 3", "can be asked of a conditional generator only"),
    ("--model ../../etc/passwd", "NAME, NAME@ALIAS or NAME/NUMBER"),
]
EXPORTED = [
    ("conditional-gan@champion", (NOISE + CLASSES,)),
    pytest.param("latent-gan", (NOISE,), marks=pytest.mark.slow),
    pytest.param("autoencoder/1", SHAPE, marks=pytest.mark.slow),
    pytest.param("judge", SHAPE, marks=pytest.mark.slow),
    pytest.param("translator", SHAPE, marks=pytest.mark.slow),
]
NOT_EXPORTED = [
    ("judge a.pt", "`out` must end in .onnx or .safetensors, but got"),
    ("judge/0 a.onnx", "must be given as NAME, NAME@ALIAS or NAME/NUMBER, but got 'digits-judge/0'"),
    ("judge@none a.onnx", "no model is registered as digits-judge@none in this store (it has: digits-"),
    ("none a.onnx", "no model is registered as digits-none@champion in this store"),
    ("latent-gan a.onnx --part encoder", "--part can be given of an autoencoder only, but got"),
]


@dataclass(frozen=True)
class Models:
    """The commands on a store of digits' models."""

    store: Path
    called: Call

    def draw(self, out: Path, *more: object) -> Done:
        """Draw digits to a file or folder."""
        return self.called("sample", "--data", "digits", "--store", self.store, "--out", out, *more)

    def read(self, model: str, inputs: Path, out: Path, *more: object) -> Done:
        """Write outputs of a model."""
        given = ("--store", self.store, "--inputs", inputs, "--out", out)
        return self.called("predict", f"digits-{model}", *given, *more)

    def write(self, model: str, out: Path, *more: object) -> Done:
        """Write a model to a file."""
        return self.called("export", f"digits-{model}", "--store", self.store, "--out", out, *more)

    def kept(self, model: str, inputs: np.ndarray) -> np.ndarray:
        """The registered model's output through MLflow's own loader."""
        read_store(self.store)
        return mlflow.pyfunc.load_model(f"models:/digits-{model}@champion").predict(inputs)


@pytest.fixture
def models(models_store: Path, called: Call) -> Models:
    return Models(models_store, called)


def cut(sheet: np.ndarray, columns: int, count: int) -> np.ndarray:
    """The images of a grid."""
    plain = sheet[::ZOOM, ::ZOOM]
    corners = [(CELL * (n // columns), CELL * (n % columns)) for n in range(count)]
    return np.stack([plain[top : top + 28, left : left + 28] for top, left in corners])


@pytest.mark.parametrize(("arguments", "model", "labels"), DRAWN)
def test_all_forms_hold_the_same_images(models: Models, tmp_path: Path, arguments, model, labels) -> None:
    asked = [*arguments, "--count", 12, "--seed", 5]
    for name, *flags in (["grid.png"], ["strip.PNG", "--strip"], ["folder"], ["arrays.npz"]):
        assert models.draw(tmp_path / name, *flags, *asked).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"grid.png", "strip.PNG", "folder", "arrays.npz"}
    arrays = np.load(tmp_path / "arrays.npz")
    inputs = arrays["inputs"]
    expected = (models.kept(model, inputs).squeeze(1) * 255).round()
    if labels:
        assert arrays["labels"].tolist() == labels
        np.testing.assert_array_equal(inputs[:, -CLASSES:], np.eye(CLASSES)[labels])
    grid, strip = (np.asarray(Image.open(tmp_path / name)) for name in ("grid.png", "strip.PNG"))
    shapes = [(ZOOM * (3 * CELL - 2), ZOOM * (4 * CELL - 2)), (ZOOM * 28, ZOOM * (12 * CELL - 2))]
    assert [grid.shape, strip.shape] == shapes
    singles = [np.asarray(Image.open(file)) for file in sorted((tmp_path / "folder").iterdir())]
    for images in (cut(grid, 4, 12), cut(strip, 12, 12), np.stack(singles), arrays["images"]):
        np.testing.assert_allclose(images.astype(int), expected, atol=1)
    assert models.draw(tmp_path / "other.npz", *asked[:-1], 6).code == 0
    assert (np.load(tmp_path / "other.npz")["images"] != arrays["images"]).any()


def test_a_class_is_found_by_its_name_first_and_else_by_its_number() -> None:
    assert [sample.class_number(name, ["2", "1", "0"]) for name in ("1", "2")] == [1, 0]
    assert [sample.class_number(name, ["a b", "Größe L"]) for name in ("Größe L", "1")] == [1, 1]


def test_an_interpolation_goes_from_one_digit_to_the_other_with_the_same_noise(models: Models, tmp_path: Path) -> None:
    assert models.draw(tmp_path / "a.npz", "--interpolate", 3, 8, "--count", 16).code == 0
    arrays = np.load(tmp_path / "a.npz")
    inputs = arrays["inputs"].reshape(4, 4, NOISE + CLASSES)  # [rows, steps, noise and label]
    noise = inputs[:, 0, :NOISE]
    np.testing.assert_array_equal(inputs[:, :, :NOISE], noise[:, None].repeat(4, 1))
    assert (np.diff(noise, axis=0) != 0).all(), "each row has its own"
    three, eight = np.eye(CLASSES)[[3, 8]]
    for step in range(4):
        np.testing.assert_allclose(inputs[:, step, NOISE:], [(1 - step / 3) * three + step / 3 * eight] * 4, atol=1e-6)
    assert models.draw(tmp_path / "b.npz", "--interpolate", 3, 8, "--count", 5, "--strip").code == 0
    assert np.load(tmp_path / "b.npz")["labels"][:, 8].tolist() == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(("flags", "rule"), NOT_DRAWN)
def test_samples_that_cannot_be_drawn(models: Models, tmp_path: Path, flags: str, rule: str) -> None:
    assert rule in models.draw(tmp_path / "out.png", *flags.split()).error
    assert not (tmp_path / "out.png").exists()


def test_a_folder_that_is_stopped_half_way_leaves_nothing_in_the_way(models: Models, tmp_path: Path) -> None:
    with patch.object(Image.Image, "save", side_effect=KeyboardInterrupt):
        assert models.draw(tmp_path / "pictures", "--count", 5).code == 130
    assert [*tmp_path.rglob("*")] == [tmp_path / "pictures"], "empty"
    assert models.draw(tmp_path / "pictures", "--count", 5).code == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 5


def same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 * max(10, abs(expected).max()))


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Real digits, uint8 [30, 28, 28]."""
    return data.load("digits").test.images[:30].squeeze(1).numpy()


def test_the_classes_of_images_from_all_kinds_of_files(models: Models, tmp_path: Path, digits: np.ndarray) -> None:
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
    expected = models.kept("judge", digits[:, None].astype(np.float32) / 255)
    for name in ("arrays.npz", "plain.csv", "kaggle.csv", "pandas.csv", "excel.csv", "folder", "one.png"):
        assert models.read("judge", tmp_path / name, tmp_path / "OUT.NPZ").code == 0
        found = np.load(tmp_path / "OUT.NPZ")
        count = 1 if name == "one.png" else 30
        same(found["outputs"], expected[:count])
        assert found["labels"].tolist() == expected[:count].argmax(1).tolist()
        assert found["class_names"].tolist() == list("0123456789")
    assert models.read("judge", tmp_path / "folder", tmp_path / "out.csv").code == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["file", "class", *"0123456789"]
    assert [line[:2] for line in lines] == [[f"below/{n:02}.png", f"{row.argmax()}"] for n, row in enumerate(expected)]
    same(np.array([line[2:] for line in lines], float), expected)


def test_images_of_another_size_are_resized_as_for_the_training(models: Models, tmp_path: Path, caplog) -> None:
    large = np.random.default_rng(0).integers(0, 256, (3, 40, 50), dtype=np.uint8)
    np.savez(tmp_path / "large.npz", images=large)
    box = (28, 28)
    small = np.stack([np.asarray(Image.fromarray(each).resize(box, Image.Resampling.BILINEAR)) for each in large])
    assert models.read("judge", tmp_path / "large.npz", tmp_path / "out.npz").code == 0
    expected = models.kept("judge", small[:, None].astype(np.float32) / 255)
    same(np.load(tmp_path / "out.npz")["outputs"], expected)
    assert "of 50x40 pixels: all are resized to 28x28" in caplog.text


def test_to_latents_and_back_is_the_autoencoder(models: Models, tmp_path: Path, digits: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", images=digits)
    assert models.read("autoencoder", tmp_path / "a.npz", tmp_path / "latents.csv", "--part", "encoder").code == 0
    assert models.read("autoencoder", tmp_path / "latents.csv", tmp_path / "b.npz", "--part", "decoder").code == 0
    found, expected = np.load(tmp_path / "b.npz"), models.kept("autoencoder", digits[:, None] / np.float32(255))
    same(found["outputs"], expected)
    assert found["images"].shape == digits.shape
    assert models.read("translator", tmp_path / "a.npz", tmp_path / "c.npz").code == 0
    expected = models.kept("translator", digits[:, None] / np.float32(255))
    np.testing.assert_allclose(np.load(tmp_path / "c.npz")["images"], (expected[:, 0] * 255).round(), atol=1)


def test_what_sample_has_written_gives_the_same_images_again(models: Models, tmp_path: Path) -> None:
    assert models.draw(tmp_path / "a.npz", "--label", 7, "--count", 5).code == 0
    drawn = np.load(tmp_path / "a.npz")
    np.savetxt(tmp_path / "a.csv", drawn["inputs"], delimiter=",")
    for name in ("a.npz", "a.csv"):
        assert models.read("conditional-gan", tmp_path / name, tmp_path / "b.npz").code == 0
        np.testing.assert_array_equal(np.load(tmp_path / "b.npz")["images"], drawn["images"])


ROW = "1," * 783 + "1\n"
PIXELS = "must be 784 numbers with decimal points, with commas between them, but has"
NUMBERS = f"must be {NOISE} numbers with decimal points, with commas between them, but has"
NOT_READ = [
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
]  # fmt: skip


@pytest.mark.parametrize(("model", "file", "content", "message"), NOT_READ)
def test_files_that_do_not_fit(models: Models, tmp_path: Path, model: str, file: str, content, message) -> None:
    path = tmp_path / file
    if isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        np.savez(path, **content)
    assert "`out` must end in .csv or .npz, but got" in models.read(model, path, tmp_path / "out.json").error
    done = models.read(model, path, tmp_path / "out.npz")
    assert message.replace("{path}", str(path)) in f"{done.error}\n"
    assert (done.errors.count("\n"), len(done.errors) < 600, (tmp_path / "out.npz").exists()) == (1, True, False)


def run(file: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(["outputs"], {"inputs": inputs})[0]


@pytest.mark.parametrize(("model", "shape"), EXPORTED)
def test_onnxruntime_gives_what_mlflow_gives(models: Models, tmp_path: Path, model: str, shape: tuple) -> None:
    out, kind = tmp_path / "model.onnx", re.split("[@/]", model)[0]
    done = models.write(model, out)
    name = f"models:/digits-{kind}/1"
    assert (done.code, done.out.startswith(f"{out}: {name}, within "), done.errors) == (0, True, "")
    for count in (1, 3, 64):
        inputs = np.random.default_rng(7).random((count, *shape), dtype=np.float32)
        expected = models.kept(kind, inputs)
        near = {"rtol": 1e-3, "atol": 1e-5 * max(1, abs(expected).max())}
        np.testing.assert_allclose(run(out, inputs), expected, **near)
    onnx.checker.check_model(str(out), full_check=True)
    facts = {each.key: each.value for each in onnx.load(out).metadata_props}
    logged = version(f"digits-{kind}", 1)
    assert (facts["model"], facts["weights.sha256"], facts["dataset"]) == (name, logged.weights_digest, "digits")
    assert (json.loads(facts["config"]), json.loads(facts["classes"])) == (logged.config(), list("0123456789"))
    if kind == "autoencoder":  # its parts, one after the other, are the whole
        for part in ("encoder", "decoder"):
            assert models.write(model, out.with_stem(part), "--part", part).code == 0
        latents = run(tmp_path / "encoder.onnx", inputs)
        assert latents.shape == (64, logged.config()["module"]["latent_dim"])
        np.testing.assert_allclose(run(tmp_path / "decoder.onnx", latents), expected, **near)


def test_weights_build_the_model_again(models: Models, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    assert models.write("autoencoder", file, "--part", "encoder").code == 0
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["part"] == "encoder"
    assert models.write("conditional-gan", file).code == 0, "an existing file is replaced"
    with safe_open(file, "pt") as opened:
        facts, weights = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    module = LatentGenerator(**json.loads(facts["config"])["module"])
    module.load_state_dict(weights)
    read_store(models.store)
    stored = require_version("digits-conditional-gan")
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(stored.example()), stored.load()(stored.example()))
    assert (facts["weights.sha256"], facts["dataset"], facts["part"]) == (stored.weights_digest, "digits", "all")


@pytest.mark.parametrize(("asked", "rule"), NOT_EXPORTED)
def test_what_cannot_be_exported(models: Models, tmp_path: Path, asked: str, rule: str) -> None:
    model, out, *more = asked.split()
    assert rule in models.write(model, tmp_path / out, *more).error
    assert not (tmp_path / out).exists()


def test_a_model_whose_file_was_changed_is_not_exported(models: Models, tmp_path: Path) -> None:
    changed = replace(models, store=copied(models.store, tmp_path / "store"))
    for file in changed.store.rglob("weights.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"~")
    for out in (tmp_path / "a.onnx", tmp_path / "a.safetensors"):
        assert "of models:/digits-latent-gan/1 was changed" in changed.write("latent-gan", out).error
        assert not out.exists()


@pytest.mark.slow
def test_a_program_that_differs_is_not_written(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a fault of the exporter would make it: here of a module whose weights change on its way."""
    exported = torch.onnx.export

    def wrong(module: torch.nn.Module, *given: object, **named: object) -> object:
        changed = deepcopy(module)
        for weight in changed.parameters():
            weight.data *= 1.01
        return exported(changed, *given, **named)

    monkeypatch.setattr(torch.onnx, "export", wrong)
    assert "the program differs from the model by" in models.write("judge", tmp_path / "a.onnx").error
    assert not (tmp_path / "a.onnx").exists()


def test_without_the_extra_one_sentence_says_what_to_install(models: Models, tmp_path: Path) -> None:
    with patch.object(export, "find_spec", lambda name: None if name == "onnxruntime" else name):
        assert "needs onnxruntime: pip install -e '.[export]'" in models.write("judge", tmp_path / "a.onnx").error
