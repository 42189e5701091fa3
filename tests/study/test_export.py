"""What `study.export` writes, read by others (onnxruntime, onnx, safetensors) and compared with the model itself."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import mlflow
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from commands import Done
from registered import CLASSES, NOISE, SHAPE
from safetensors import safe_open

from models.gan import LatentGenerator
from study import export
from tracking.registry import require_version, version
from tracking.store import read_store

Write = Callable[..., Done]


@pytest.fixture
def write(models_store: Path, called: Write) -> Write:
    """Writes a model of the store to a file: `write("digits-judge", file)`."""
    return lambda model, out, *more: called("export", f"digits-{model}", "--store", models_store, "--out", out, *more)


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
    models_store: Path, write: Write, tmp_path: Path, model: str, shape: tuple[int, ...]
) -> None:
    out, kind = tmp_path / "model.onnx", re.split("[@/]", model)[0]
    done = write(model, out)
    name = f"models:/digits-{kind}/1"
    assert (done.code, done.out.startswith(f"{out}: {name}, within "), done.errors) == (0, True, "")
    read_store(models_store)
    kept = mlflow.pyfunc.load_model(name)
    for count in (1, 3, 64):
        inputs = np.random.default_rng(7).random((count, *shape), dtype=np.float32)
        expected = kept.predict(inputs)
        np.testing.assert_allclose(run(out, inputs), expected, rtol=1e-3, atol=1e-5 * max(1, abs(expected).max()))
    onnx.checker.check_model(str(out), full_check=True)
    facts = {each.key: each.value for each in onnx.load(out).metadata_props}
    logged = version(f"digits-{kind}", 1)
    assert (facts["model"], facts["weights.sha256"], facts["dataset"]) == (name, logged.weights_digest, "digits")
    assert (json.loads(facts["config"]), json.loads(facts["classes"])) == (logged.config(), list("0123456789"))


@pytest.mark.slow
def test_parts_of_an_autoencoder_one_after_the_other_are_the_whole(
    models_store: Path, write: Write, tmp_path: Path
) -> None:
    for part in ("encoder", "decoder"):
        assert write("autoencoder", tmp_path / f"{part}.onnx", "--part", part).code == 0
    images = np.random.default_rng(7).random((5, *SHAPE), dtype=np.float32)
    latents = run(tmp_path / "encoder.onnx", images)
    read_store(models_store)
    whole = require_version("digits-autoencoder")
    assert latents.shape == (5, whole.config()["module"]["latent_dim"])
    expected = whole.load()(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(run(tmp_path / "decoder.onnx", latents), expected, atol=1e-5)


def test_weights_build_the_model_again(models_store: Path, write: Write, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    assert write("autoencoder", file, "--part", "encoder").code == 0
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["part"] == "encoder"
    assert write("conditional-gan", file).code == 0, "an existing file is replaced"
    with safe_open(file, "pt") as opened:
        facts, weights = opened.metadata(), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    module = LatentGenerator(**json.loads(facts["config"])["module"])
    module.load_state_dict(weights)
    read_store(models_store)
    kept = require_version("digits-conditional-gan")
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(kept.example()), kept.load()(kept.example()))
    assert (facts["weights.sha256"], facts["dataset"], facts["part"]) == (kept.weights_digest, "digits", "all")


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ("judge a.pt", "`out` must end in .onnx or .safetensors, but got"),
        ("judge/0 a.onnx", "must be given as NAME, NAME@ALIAS or NAME/NUMBER, but got 'digits-judge/0'"),
        ("judge@none a.onnx", "no model is registered as digits-judge@none in this store (it has: digits-"),
        ("none a.onnx", "no model is registered as digits-none@champion in this store"),
        ("latent-gan a.onnx --part encoder", "--part can be given of an autoencoder only, but got"),
    ],
)
def test_what_cannot_be_exported(write: Write, tmp_path: Path, asked: str, rule: str) -> None:
    model, out, *more = asked.split()
    assert rule in write(model, tmp_path / out, *more).error
    assert not (tmp_path / out).exists()


def test_a_model_whose_file_was_changed_is_not_exported(models_store: Path, called: Write, tmp_path: Path) -> None:
    store = Path(shutil.copytree(models_store, tmp_path / "store"))
    for file in store.rglob("weights.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"~")
    for out in (tmp_path / "a.onnx", tmp_path / "a.safetensors"):
        refused = called("export", "digits-latent-gan", "--store", store, "--out", out).error
        assert "of models:/digits-latent-gan/1 was changed" in refused
        assert not out.exists()


@pytest.mark.slow
def test_a_program_that_differs_is_not_written(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a fault of the exporter would make it: here of a module whose weights change on its way."""
    exported = torch.onnx.export

    def wrong(module: torch.nn.Module, *given: object, **named: object) -> object:
        changed = deepcopy(module)
        for weight in changed.parameters():
            weight.data *= 1.01
        return exported(changed, *given, **named)

    monkeypatch.setattr(torch.onnx, "export", wrong)
    assert "the program differs from the model by" in write("judge", tmp_path / "a.onnx").error
    assert not (tmp_path / "a.onnx").exists()


def test_without_the_extra_one_sentence_says_what_to_install(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else name)
    assert "needs onnxruntime: pip install -e '.[export]'" in write("judge", tmp_path / "a.onnx").error
