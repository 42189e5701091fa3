"""What `study.export` writes, read by others (onnxruntime, onnx, safetensors) and compared with the model itself."""

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
from registered import CLASSES, NOISE, SHAPE
from safetensors import safe_open

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


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("conditional-gan@champion", (NOISE + CLASSES,)),
        pytest.param("latent-gan", (NOISE,), marks=pytest.mark.slow),
        pytest.param("autoencoder/1", SHAPE, marks=pytest.mark.slow),
        pytest.param("judge", SHAPE, marks=pytest.mark.slow),
        pytest.param("translator", SHAPE, marks=pytest.mark.slow),
    ],
)
def test_onnxruntime_gives_what_mlflow_gives_for_any_batch_size(
    models_store: Path, tmp_path: Path, model: str, shape: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.onnx"
    assert write(models_store, f"digits-{model}", out) == 0
    name = f"models:/digits-{model.partition('@')[0].partition('/')[0]}/1"
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{out}: {name}, within ")
    assert printed.err == ""
    read_store(models_store)
    kept = mlflow.pyfunc.load_model(name)
    for count in (1, 3, 64):
        inputs = np.random.default_rng(7).random((count, *shape), dtype=np.float32)
        expected = kept.predict(inputs)
        np.testing.assert_allclose(run(out, inputs), expected, rtol=1e-3, atol=1e-5 * max(1, abs(expected).max()))
    onnx.checker.check_model(str(out), full_check=True)
    facts = {each.key: each.value for each in onnx.load(out).metadata_props}
    logged = version(name.split("/")[1], 1)
    assert (facts["model"], facts["weights.sha256"], facts["dataset"]) == (name, logged.weights_digest, "digits")
    assert (json.loads(facts["config"]), json.loads(facts["classes"])) == (logged.config(), list("0123456789"))


@pytest.mark.slow
def test_parts_of_an_autoencoder_one_after_the_other_are_the_whole(models_store: Path, tmp_path: Path) -> None:
    for part in ("encoder", "decoder"):
        assert write(models_store, "digits-autoencoder", tmp_path / f"{part}.onnx", "--part", part) == 0
    images = np.random.default_rng(7).random((5, *SHAPE), dtype=np.float32)
    latents = run(tmp_path / "encoder.onnx", images)
    read_store(models_store)
    whole = require_version("digits-autoencoder")
    assert latents.shape == (5, whole.config()["module"]["latent_dim"])
    expected = whole.load()(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(run(tmp_path / "decoder.onnx", latents), expected, atol=1e-5)


def test_weights_build_the_model_again(models_store: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    assert write(models_store, "digits-conditional-gan", file) == 0
    with safe_open(file, "pt") as opened:
        facts, weights = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    module = LatentGenerator(**json.loads(facts["config"])["module"])
    module.load_state_dict(weights)
    read_store(models_store)
    kept = require_version("digits-conditional-gan")
    inputs = kept.example()
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(inputs), kept.load()(inputs))
    assert (facts["weights.sha256"], facts["dataset"], facts["part"]) == (kept.weights_digest, "digits", "all")
    assert write(models_store, "digits-autoencoder", file, "--part", "encoder") == 0, "an existing file is replaced"
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["part"] == "encoder"


@pytest.mark.parametrize(
    ("model", "out", "arguments", "message"),
    [
        ("digits-judge", "a.pt", [], "`out` must end in .onnx or .safetensors, but got"),
        ("digits-judge/0", "a.onnx", [], "must be given as NAME, NAME@ALIAS or NAME/NUMBER, but got 'digits-judge/0'"),
        (
            "digits-judge@none",
            "a.onnx",
            [],
            "no model is registered as digits-judge@none in this store (it has: digits-",
        ),
        ("digits", "a.onnx", [], "no model is registered as digits@champion in this store"),
        ("digits-latent-gan", "a.onnx", ["--part", "encoder"], "--part can be given of an autoencoder only, but got"),
        ("digits-judge", "a.safetensors", ["--part", "decoder"], "--part can be given of an autoencoder only"),
    ],
)
def test_what_cannot_be_exported(
    models_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    out: str,
    arguments: list[str],
    message: str,
) -> None:
    assert write(models_store, model, tmp_path / out, *arguments) == 2
    errors = capsys.readouterr().err
    assert message in " ".join(errors.replace("│", " ").split())
    assert "Traceback" not in errors
    assert not (tmp_path / out).exists()


def test_a_model_whose_file_was_changed_is_not_exported(
    models_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(models_store, tmp_path / "store"))
    for file in store.rglob("weights.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"~")
    for ending in ("onnx", "safetensors"):
        assert write(store, "digits-latent-gan", tmp_path / f"a.{ending}") == 2
        assert "of models:/digits-latent-gan/1 was changed" in capsys.readouterr().err
        assert not (tmp_path / f"a.{ending}").exists()


@pytest.mark.slow
def test_a_program_that_differs_is_not_written(
    models_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
    assert write(models_store, "digits-judge", tmp_path / "a.onnx") == 2
    assert "the program differs from the model by" in capsys.readouterr().err
    assert not (tmp_path / "a.onnx").exists()


def test_without_the_extra_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else name)
    assert write(tmp_path, "digits-judge", tmp_path / "a.onnx") == 2
    assert "needs onnxruntime: pip install -e '.[export]'" in capsys.readouterr().err
