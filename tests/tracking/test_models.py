"""Models: a round trip by name without pickle, and what is refused: other weights, strangers' models, other folders."""

import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from servers import MlflowServer

from models.autoencoder import Autoencoder
from models.classifier import Judge
from models.gan import LatentGenerator
from tracking import load_model, registry
from tracking.errors import StoreError
from tracking.models import cached_arrays, delete_model, kept_model, log_model, logged_model, weights_digest
from tracking.registry import Version
from tracking.runs import Run, study_run, trial_run
from tracking.store import Store, open_store, path_of

NAME = "tiny-autoencoder"
MODULE = {"latent_dim": 4, "architecture": "conv", "image_shape": [1, 16, 16]}
GENERATOR = {"input_dim": 5, "latent_dim": 4, "architecture": "conv", "image_shape": [1, 28, 28], "width": 8}
EXAMPLE = torch.rand(2, 1, 16, 16)
IMAGES = torch.rand(5, 1, 16, 16)  # another batch size than the example's
REBUILT = [
    (Judge("conv", image_shape=[3, 28, 28], classes=4), ("conv", [3, 28, 28]), (2, 3, 28, 28), None),  # no keywords
    (Autoencoder(**MODULE), {**MODULE, "latent_dim": 5}, EXAMPLE.shape, None),  # other weights
    (Autoencoder(**MODULE).to(memory_format=torch.channels_last), MODULE, EXAMPLE.shape, "autoencoder:Autoencoder"),
    (LatentGenerator(**GENERATOR), GENERATOR, (2, 5), "gan:LatentGenerator"),
]


def log(store: Store, module: torch.nn.Module, config: dict | None = None, example: torch.Tensor = EXAMPLE) -> Run:
    """The run of a trial that has logged this model."""
    study = study_run(store, store.experiment("tiny/autoencoder"), "tiny/autoencoder/0")
    with study as parent, trial_run(parent, "trial", tags={"input.judge": "models:/tiny-judge/1"}) as run:
        run.log({"val/loss": 1.0})
        log_model(run, module, example, {"module": MODULE} if config is None else config, {"seed": 7})
    return run


def champion(store: Store, module: torch.nn.Module | None = None, **config: dict) -> Version:
    run = log(store, module or Autoencoder(**MODULE), **config)
    registry.promote(registry.register(NAME, run.run_id, "", {}), "val/loss", "minimize")
    return registry.require_version(NAME)


def folder_of(store: Store) -> Path:
    (found,) = path_of(store.artifacts).parent.rglob("model.json")
    return found.parent


def test_a_round_trip_by_name_without_pickle(store: Store, tmp_path: Path) -> None:
    model = Autoencoder(**MODULE)
    state = torch.random.get_rng_state()
    run = log(store, model)
    assert (torch.random.get_rng_state().equal(state), model.training) == (True, True), "both are left alone"
    assert not list((tmp_path / "store").rglob("*.pt2")), "exported only as it is registered"
    registry.promote(registry.register(NAME, run.run_id, "text", {}), "val/loss", "minimize")
    expected = model.eval()(IMAGES).detach()
    for flavor in (mlflow.pytorch, mlflow.pyfunc):
        loaded = flavor.load_model(f"models:/{NAME}@champion")
        found = loaded(IMAGES) if flavor is mlflow.pytorch else torch.from_numpy(loaded.predict(IMAGES.numpy()))
        torch.testing.assert_close(found.detach(), expected)
    assert loaded.metadata.metadata == {"config": {"module": MODULE}, "seed": 7}
    version = registry.require_version(NAME)
    assert (version.config(), version.tags["input.judge"]) == ({"module": MODULE}, "models:/tiny-judge/1")
    assert version.example().equal(EXAMPLE)
    for found in (version.load(), version.rebuild(Autoencoder), load_model(NAME, store=tmp_path / "store")):
        assert (type(found), found.training) == (Autoencoder, False)
        assert found(IMAGES).equal(model(IMAGES))
    assert found.config == {"module": MODULE}
    endings = {path.suffix for path in (tmp_path / "store" / "artifacts").rglob("*") if path.is_file()}
    assert {".pt2", ".safetensors", ".json"} <= endings
    assert not endings & {".pkl", ".pth", ".pickle", ".pt"}


class Odd(torch.nn.Module):
    """Weights of every kind that modules could have, of a class that is not ours."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(6.0).view(3, 2))
        self.same = self.weight
        self.register_buffer("counts", torch.tensor([[3, -4]]))
        self.register_buffer("scalar", torch.tensor(2.5, dtype=torch.float64))
        self.register_buffer("flags", torch.tensor([True, False]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.counts.sum() + self.scalar.float()


def test_a_model_of_another_class_is_loaded_as_the_program_that_was_logged(store: Store) -> None:
    module, example = Odd(), torch.rand(2, 3)
    version = champion(store, module, config={"module": {}}, example=example)
    x = torch.rand(7, 3)
    assert version.load()(x).equal(module(x))
    weights = version.state_dict()
    assert weights.keys() == module.state_dict().keys()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(weights[name], value, atol=0, rtol=0)
    file = folder_of(store) / "data" / "model.pt2"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(StoreError, match=r"model\.pt2 of models:/tiny-autoencoder/1 was changed"):
        registry.require_version(NAME).load()


@pytest.mark.parametrize(("module", "config", "example", "named"), REBUILT)
def test_only_what_the_config_rebuilds_is_not_exported(store: Store, module, config, example, named) -> None:
    run = log(store, module, {"module": config}, torch.rand(example))
    kind = json.loads((folder_of(store) / "model.json").read_text())["class"]
    assert (kind, (folder_of(store) / "data" / "model.pt2").exists()) == (named and f"models.{named}", named is None)
    if named is not None:
        loaded = logged_model(run.run_id).load().state_dict()
        assert weights_digest(loaded) == logged_model(run.run_id).weights_digest == weights_digest(module.state_dict())


def test_the_digest_is_that_of_names_types_shapes_and_values() -> None:
    state, plain = torch.nn.Linear(2, 1).state_dict(), hashlib.sha256()
    for name in ("bias", "weight"):
        plain.update(f"{name} torch.float32 {state[name].numpy().shape}\n".encode() + state[name].numpy().tobytes())
    assert weights_digest(state) == plain.hexdigest()


WEIGHTS, FOREIGN = "weights.safetensors", '{"class": "torch.nn:Linear", "metadata": {}}'
CHANGED = "weights.safetensors of {} was changed since it was logged: it is not loaded"
HARMS = [
    (lambda folder: save_file(Autoencoder(**MODULE).state_dict(), folder / WEIGHTS), CHANGED),
    (lambda folder: torch.save(Autoencoder(**MODULE), folder / WEIGHTS), CHANGED),
    (lambda folder: (folder / "model.json").write_text("[]"), r"model\.json of {} was changed"),
    (lambda folder: (folder / "model.json").write_text(FOREIGN), "torch.nn:Linear is not loaded: it is none of"),
    (lambda folder: (folder / WEIGHTS).unlink(), "weights.safetensors of {} is missing"),
    (shutil.rmtree, r"model\.json of {} is missing: .*runs again$"),
]


@pytest.mark.parametrize(("harm", "message"), HARMS)
def test_a_changed_model_is_told_and_not_loaded(store: Store, harm: Callable[[Path], object], message: str) -> None:
    run = log(store, Autoencoder(**MODULE))
    model = logged_model(run.run_id)
    harm(folder_of(store))
    with pytest.raises(StoreError, match=message.format(model.uri)):
        model.load()


def test_code_beside_a_model_and_the_address_of_a_version_are_not_followed(store: Store) -> None:
    """Anybody who may register could send us, and our password, elsewhere."""
    version, folder = champion(store), folder_of(store)
    (folder / "MLmodel").write_text((folder / "MLmodel").read_text().replace("code: null", "code: code"))
    (folder / "code").mkdir()
    for name in ("code/models.py", ".DS_Store"):
        (folder / name).write_text("raise AssertionError")
    made = mlflow.MlflowClient().create_model_version(NAME, "http://127.0.0.1:9/model", run_id=version.run_id)
    for number in (1, int(made.version)):
        assert isinstance(registry.version(NAME, number).load(), Autoencoder)


@pytest.mark.parametrize("form", ["pickle", "pt2"])
def test_a_model_that_somebody_else_has_logged_is_refused(store: Store, form: str) -> None:
    with mlflow.start_run(experiment_id=store.experiment("tiny/x")) as run:
        options = {"serialization_format": form, "pip_requirements": ["torch"]}
        example = torch.zeros(2, 1).numpy()
        made = mlflow.pytorch.log_model(torch.nn.Linear(1, 1), name="model", input_example=example, **options)
    client = mlflow.MlflowClient()
    client.create_registered_model("foreign")
    client.create_model_version("foreign", made.artifact_path, run.info.run_id, model_id=made.model_id)
    version = registry.require_version("foreign", 1)
    for use in (version.load, version.config, version.state_dict, lambda: version.weights_digest):
        with pytest.raises(StoreError, match="was not logged by this study"):
            use()


def test_a_deleted_model_is_gone_with_its_files_but_never_a_folder_elsewhere(store: Store, tmp_path: Path) -> None:
    run, other = log(store, Autoencoder(**MODULE)), log(store, Autoencoder(**MODULE))
    delete_model(run.run_id)
    assert kept_model(run.run_id) is None
    folder_of(store)
    delete_model(run.run_id)
    victim = Path(shutil.copytree(folder_of(store), tmp_path / "victim"))
    for address in (victim.as_uri(), f"{store.artifacts}/a/%2e%2e/../../../victim"):
        with closing(sqlite3.connect(tmp_path / "store" / "mlflow.db")) as connection, connection:
            connection.execute("UPDATE logged_models SET artifact_location = ?", (address,))
        with pytest.raises(StoreError, match="are outside the store"):
            delete_model(other.run_id)
    assert (victim / "model.json").is_file()


def test_a_model_of_a_moved_store_is_loaded_and_a_missing_version_is_told(store: Store, tmp_path: Path) -> None:
    expected = champion(store)
    moved = (tmp_path / "store").rename(tmp_path / "a b%20c")
    assert weights_digest(load_model(NAME, 1, store=moved).state_dict()) == expected.weights_digest
    with pytest.raises(StoreError, match="no model is registered as tiny-autoencoder/7"):
        load_model(NAME, 7, store=moved)


@pytest.mark.server
def test_on_a_server_a_file_that_is_away_is_not_missing_and_no_copy_stays(tmp_path: Path, monkeypatch) -> None:
    with MlflowServer(tmp_path) as server:
        (tmp_path / "scratch").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        version = champion(open_store(tmp_path / "store", server.url))
        assert isinstance(version.load(), Autoencoder)
        assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()]
        run = Run(version.run_id, "1", "")
        run.log_json("kept", {"a": 1})
        assert (run.read_json("kept"), run.read_json("never written")) == ({"a": 1}, None)
        download = mlflow.artifacts.download_artifacts

        def after_it_went(*given: Any, **named: Any) -> str:
            server.stop()
            return download(*given, **named)

        monkeypatch.setattr(mlflow.artifacts, "download_artifacts", after_it_went)
        for read in (lambda: run.read_json("kept"), registry.version(NAME, 1).load):
            with pytest.raises(StoreError, match="the store was lost"):
                read()
            server.start()
        monkeypatch.undo()
        delete_model(version.run_id)
        assert not list(tmp_path.rglob("model.json"))


def test_arrays_are_made_once_and_a_changed_file_is_not_believed(store: Store, tmp_path: Path) -> None:
    run_id, calls = mlflow.MlflowClient().create_run(store.experiment("tiny/judge")).info.run_id, []
    arrays = {"train": np.arange(6, dtype=np.float32).reshape(2, 3), "test": np.zeros(0)}

    def make() -> dict[str, np.ndarray]:
        calls.append(1)
        return arrays

    for _ in range(2):
        found = cached_arrays(run_id, "abc-1.2", make)
        for name, values in arrays.items():
            np.testing.assert_array_equal(found[name], values, strict=True)
    assert len(calls) == 1
    (file,) = (tmp_path / "store" / "artifacts").rglob("abc-1.2.npz")
    for harm in (
        lambda: np.savez(file, train=np.full(3, 7.0)),
        file.unlink,
        lambda: np.savez(file, train=np.array([{}], dtype=object)),  # a pickle
    ):
        harm()
        assert cached_arrays(run_id, "abc-1.2", make)["train"].tolist() == arrays["train"].tolist()
