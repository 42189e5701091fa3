"""Only models that this study has logged, unchanged, from the store's own folder, are loaded."""

from __future__ import annotations

import http.server
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
import torch
from servers import MlflowServer

from models.autoencoder import Autoencoder
from tracking import registry
from tracking.errors import StoreError
from tracking.registry import Version
from tracking.runs import study_run, trial_run
from tracking.store import Store, open_store
from tracking.stored import delete_model, log_model, logged_model

NAME = "tiny-autoencoder"


def register(store: Store) -> Version:
    about = {"title": "", "description": "", "tags": {}}
    module = {"latent_dim": 4, "architecture": "conv", "image_shape": [1, 28, 28]}
    with (
        study_run(store, store.experiment("tiny/autoencoder"), "tiny/autoencoder/0", **about) as parent,
        trial_run(parent, "trial", {}, {}) as run,
    ):
        run.log({"val/loss": 1.0})
        log_model(Autoencoder(**module), torch.rand(2, 1, 28, 28), {"module": module}, {})
    return registry.register(NAME, run.run_id, "", {})


def folder_of(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "store" / "artifacts").rglob("MLmodel")
    return found.parent


def test_a_file_managers_litter_is_no_change(store: Store, tmp_path: Path) -> None:
    version = register(store)
    for name in (".DS_Store", "Thumbs.db", "data/._model.pt2"):
        (folder_of(tmp_path) / name).write_bytes(b"litter")
    version.load()


def test_a_changed_file_is_named(store: Store, tmp_path: Path) -> None:
    version = register(store)
    file = folder_of(tmp_path) / "data" / "model.pt2"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StoreError, match=r"the file data/model\.pt2 of models:/tiny-autoencoder/1 was changed"):
        version.load()
    file.unlink()
    with pytest.raises(StoreError, match=r"the file data/model\.pt2 of models:/tiny-autoencoder/1 is missing"):
        version.load()


def test_a_version_that_somebody_else_has_registered_is_refused(store: Store) -> None:
    with mlflow.start_run(experiment_id=store.experiment("tiny/x")) as run:
        mlflow.pytorch.log_model(
            torch.nn.Linear(1, 1), name="model", input_example=torch.zeros(2, 1).numpy(), pip_requirements=["torch"]
        )
    version = registry.register("tiny-foreign", run.info.run_id, "", {})
    for use in (version.load, version.config, version.state_dict, lambda: version.weights_digest):
        with pytest.raises(StoreError, match="was not logged by this study"):
            use()


def test_code_beside_a_model_is_never_run(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if it were there as the files were logged."""
    version = register(store)
    folder = folder_of(tmp_path)
    model = folder / "MLmodel"
    model.write_text(model.read_text().replace("code: null", "code: code"))
    (folder / "code").mkdir()
    (folder / "code" / "evil.py").write_text("raise AssertionError")
    with pytest.raises(StoreError, match=r"the file MLmodel of .* was changed"):
        version.load()
    monkeypatch.setattr("tracking.stored._digest", lambda _: "x")
    tags = {**version.tags, "model.files": '{"MLmodel": "x"}'}
    forged = Version(version.name, 1, version.run_id, version.source, version.metrics, tags, "", version.root)
    with pytest.raises(StoreError, match="brings code along"):
        forged.load()


@pytest.fixture
def stranger() -> Iterator[tuple[str, list[str]]]:
    """A web server that notes what it is asked, with the credentials that came along."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


@pytest.mark.parametrize("path", ["/model", "/api/2.0/mlflow-artifacts/artifacts/1/model"])
def test_a_source_elsewhere_is_not_asked_for(
    store: Store, stranger: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    url, asked = stranger
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    version = register(store)
    created = mlflow.MlflowClient().create_model_version(NAME, f"{url}{path}", run_id=version.run_id)
    found = registry.version(NAME, int(created.version))
    for use in (found.load, found.config, found.state_dict):
        with pytest.raises(StoreError, match="are outside the store"):
            use()
    assert asked == []


@pytest.mark.parametrize(
    "away", ["/etc", "{artifacts}/../../elsewhere", "{artifacts}/a/%2e%2e/%2E%2E/%2e%2e/elsewhere"]
)
def test_a_folder_elsewhere_is_not_read(store: Store, tmp_path: Path, away: str) -> None:
    version = register(store)
    source = away.format(artifacts=store.artifacts) if "{" in away else Path(away).as_uri()
    tampered = Version(NAME, 1, version.run_id, source, version.metrics, version.tags, "", version.root)
    with pytest.raises(StoreError, match="are outside the store"):
        tampered.load()


@pytest.mark.parametrize("form", ["{root}/../../../../victim", "{root}/%2e%2e/%2e%2e/%2e%2e/%2e%2e/victim", "{victim}"])
def test_a_folder_that_only_the_database_names_is_neither_loaded_nor_deleted(
    store: Store, tmp_path: Path, form: str
) -> None:
    version = register(store)
    database = tmp_path / "store" / "mlflow.db"
    victim = Path(shutil.copytree(folder_of(tmp_path), tmp_path / "victim" / "model"))
    address = form.format(root=version.root, victim=(tmp_path / "victim").as_uri())
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE logged_models SET artifact_location = ?", (f"{address}/model",))
        if "victim}" in form:  # the root too
            connection.execute("UPDATE experiments SET artifact_location = ?", (address,))
    for use in (lambda: delete_model(version.run_id), lambda: logged_model(version.run_id).load()):
        with pytest.raises(StoreError, match="are outside the store"):
            use()
    assert (victim / "MLmodel").is_file()


@pytest.mark.parametrize("tag", ["no JSON", "[]", "{}", '{"other": "0"}'])
def test_an_edited_list_of_files_is_refused(store: Store, tag: str) -> None:
    version = register(store)
    mlflow.MlflowClient().set_tag(version.run_id, "model.files", tag)
    with pytest.raises(StoreError, match=r"the run's tag model\.files .* was changed"):
        registry.version(NAME, 1).load()


def test_on_a_server_no_copy_of_a_model_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = MlflowServer(tmp_path)
    server.start()
    try:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))
        version = register(open_store(tmp_path / "store", server.url))
        version.load()
        version.config()
        left = [path for path in scratch.rglob("*") if path.is_file()]
        assert left == []
    finally:
        server.stop()
