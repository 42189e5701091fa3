"""What `study.export` writes, read by others: onnxruntime and onnx, and safetensors; held against the model itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import Command
from safetensors import safe_open

from models.autoencoder import Autoencoder
from models.gan import LatentGenerator
from study import export
from tracking.registry import require_version, version
from tracking.store import read_store


def write(store: Path, model: str, out: Path, *arguments: object) -> int:
    """Run the command in this process. Returns its exit code."""
    try:
        return export.main([str(part) for part in (model, "--store", store, "--out", out, *arguments)])
    except SystemExit as done:
        return int(done.code or 0)


def run(file: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(["outputs"], {"inputs": inputs})
    return outputs


def some_images(count: int) -> np.ndarray:
    return np.random.default_rng(7).random((count, 1, 28, 28), dtype=np.float32)


def some_noise(count: int, width: int, labels: int) -> np.ndarray:
    """Noise and one-hot labels, `width` numbers a row in all."""
    noise = np.random.default_rng(7).standard_normal((count, width - labels), dtype=np.float32)
    return np.hstack([noise, np.eye(10, labels, dtype=np.float32)[np.arange(count) % 10]])


@pytest.mark.parametrize(
    ("model", "labels", "shape"),
    [
        ("latent-gan", 0, (1, 28, 28)),
        ("conditional-gan@champion", 10, (1, 28, 28)),
        ("autoencoder/1", None, (1, 28, 28)),
        ("attention-autoencoder", None, (1, 28, 28)),
        ("third-judge", None, (10,)),
        ("translator", None, (1, 28, 28)),
    ],
)
def test_onnxruntime_gives_what_mlflow_gives_for_any_batch_size(
    smoke_store: Path, tmp_path: Path, model: str, labels: int | None, shape: tuple[int, ...]
) -> None:
    out = tmp_path / "model.onnx"
    assert write(smoke_store, f"digits-{model}", out) == 0
    read_store(smoke_store)
    kept = mlflow.pyfunc.load_model(f"models:/digits-{model.partition('@')[0].partition('/')[0]}/1")
    width = kept.metadata.get_input_schema().inputs[0].shape[-1]
    for count in (1, 3, 64):
        inputs = some_images(count) if labels is None else some_noise(count, width, labels)
        found, expected = run(out, inputs), kept.predict(inputs)
        assert found.shape == (count, *shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    onnx.checker.check_model(str(out), full_check=True)


def test_parts_of_an_autoencoder_one_after_the_other_are_the_whole(smoke_store: Path, tmp_path: Path) -> None:
    for part in ("encoder", "decoder"):
        assert write(smoke_store, "digits-autoencoder", tmp_path / f"{part}.onnx", "--part", part) == 0
    assert write(smoke_store, "digits-autoencoder", tmp_path / "whole.onnx") == 0
    images = some_images(5)
    read_store(smoke_store)
    latents = run(tmp_path / "encoder.onnx", images)
    assert latents.shape == (5, version("digits-autoencoder", 1).config()["module"]["latent_dim"])
    np.testing.assert_allclose(run(tmp_path / "decoder.onnx", latents), run(tmp_path / "whole.onnx", images), atol=1e-5)


def test_a_program_says_what_it_is(smoke_store: Path, tmp_path: Path) -> None:
    assert write(smoke_store, "digits-latent-gan", tmp_path / "a.onnx") == 0
    facts = {each.key: each.value for each in onnx.load(tmp_path / "a.onnx").metadata_props}
    read_store(smoke_store)
    kept = version("digits-latent-gan", 1)
    assert facts["model"] == "models:/digits-latent-gan/1"
    assert facts["weights.sha256"] == kept.weights_digest
    assert facts["dataset"] == "digits"
    assert facts["data_digest"] == kept.metadata["data_digest"]
    assert json.loads(facts["config"]) == kept.config()
    assert json.loads(facts["classes"]) == list("0123456789")


def test_weights_build_the_model_again(smoke_store: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    assert write(smoke_store, "digits-conditional-gan", file) == 0
    with safe_open(file, "pt") as opened:
        facts, weights = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    module = LatentGenerator(**json.loads(facts["config"])["module"])
    module.load_state_dict(weights)
    read_store(smoke_store)
    kept = require_version("digits-conditional-gan")
    inputs = kept.example()
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(inputs), kept.load()(inputs))
    assert (facts["weights.sha256"], facts["dataset"]) == (kept.weights_digest, "digits")

    assert write(smoke_store, "digits-autoencoder", file, "--part", "encoder") == 0, "an existing file is replaced"
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["part"] == "encoder"
        whole = require_version("digits-autoencoder").rebuild(Autoencoder)
        assert set(opened.keys()) == set(whole.encoder.state_dict())


@pytest.mark.parametrize(
    ("model", "out", "arguments", "message"),
    [
        ("digits-judge", "a.pt", [], "`out` must end in .onnx or .safetensors, but got"),
        ("digits-judge", "nowhere/a.onnx", [], "the folder of --out must exist"),
        ("digits-judge/0", "a.onnx", [], "must be given as NAME, NAME@ALIAS or NAME/NUMBER, but got 'digits-judge/0'"),
        ("../judge", "a.onnx", [], "must be given as NAME, NAME@ALIAS or NAME/NUMBER, but got"),
        ("x' OR name LIKE '%", "a.onnx", [], "must be given as NAME, NAME@ALIAS or NAME/NUMBER, but got"),
        ("digits-judge/9", "a.onnx", [], "no model is registered as digits-judge/9 in this store (it has: digits-"),
        ("digits-judge@none", "a.onnx", [], "no model is registered as digits-judge@none in this store"),
        ("digits", "a.onnx", [], "no model is registered as digits@champion in this store"),
        ("digits-latent-gan", "a.onnx", ["--part", "encoder"], "--part can be given of an autoencoder only, but got"),
        ("digits-judge", "a.safetensors", ["--part", "decoder"], "--part can be given of an autoencoder only"),
    ],
)
def test_what_cannot_be_exported(
    smoke_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    out: str,
    arguments: list[str],
    message: str,
) -> None:
    assert write(smoke_store, model, tmp_path / out, *arguments) == 2
    errors = capsys.readouterr().err
    assert message in " ".join(errors.replace("│", " ").split())
    assert "Traceback" not in errors
    assert not (tmp_path / out).exists()


def test_a_model_whose_file_was_changed_is_not_exported(
    smoke_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(smoke_store, tmp_path / "store"))
    read_store(store)
    source = Path(version("digits-latent-gan", 1).source.removeprefix("file://"))
    for name in ("data/model.pt2", "input_example.json"):
        content = (source / name).read_bytes()
        (source / name).write_bytes(content + b" ")
        for ending in ("onnx", "safetensors"):
            assert write(store, "digits-latent-gan", tmp_path / f"a.{ending}") == 2
            assert f"the file {name} of models:/digits-latent-gan/1 was changed" in capsys.readouterr().err
            assert not (tmp_path / f"a.{ending}").exists()
        (source / name).write_bytes(content)


def test_a_program_that_differs_is_not_written(
    smoke_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a fault of the exporter would make it: here of a module whose weights change on its way."""
    exported = torch.onnx.export

    def wrong(module: torch.nn.Module, *given: object, **named: object) -> object:
        for weight in (weights := list(module.parameters())):
            weight.data *= 1.01
        program = exported(module, *given, **named)
        for weight in weights:
            weight.data /= 1.01
        return program

    monkeypatch.setattr(torch.onnx, "export", wrong)
    assert write(smoke_store, "digits-judge", tmp_path / "a.onnx") == 2
    assert "the program differs from models:/digits-judge/1 by" in capsys.readouterr().err
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize(("ending", "missing"), [("onnx", "onnxruntime"), ("safetensors", "safetensors")])
def test_without_the_extra_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ending: str, missing: str
) -> None:
    found = export.find_spec
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == missing else found(name))
    assert write(tmp_path, "digits-judge", tmp_path / f"a.{ending}") == 2
    expected = f"error: a file that ends in .{ending} needs {missing}: pip install -e '.[export]'\n"
    assert capsys.readouterr().err == expected


def test_in_a_process_of_its_own_it_says_one_line(smoke_store: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "a.onnx"
    done = command("study.export", "digits-judge", "--store", smoke_store, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out}: models:/digits-judge/1, within ")
    assert len(done.stdout.splitlines()) == 1
