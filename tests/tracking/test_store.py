import http.server
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from conftest import ROOT

from tracking.store import Store, StoreError, open_existing_store, open_store, without_password


def test_a_fresh_store_is_made_and_opens_again(tmp_path: Path) -> None:
    first, second = open_store(tmp_path / "a" / "b"), open_store(tmp_path / "a" / "b")
    assert first == second
    assert first.experiment("mnist/judge") == second.experiment("mnist/judge")
    assert (tmp_path / "a" / "b" / "mlflow.db").is_file()
    assert "--host 127.0.0.1" in first.ui_command


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="must be a writable folder"):
        open_store(tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="must be a writable folder"):
        open_store(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(StoreError, match="must be a writable folder"):
        open_store(Path("/proc/study"))


def test_a_database_that_is_none_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("my diary " * 100)
    with pytest.raises(StoreError, match="must be a writable SQLite database"):
        open_store(tmp_path)
    assert (tmp_path / "mlflow.db").read_text().startswith("my diary")


def test_reading_needs_a_store_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no store"):
        open_existing_store(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_deleted_experiment_is_told(store: Store) -> None:
    import mlflow

    mlflow.delete_experiment(store.experiment("mnist/judge"))
    with pytest.raises(StoreError, match="was deleted"):
        store.experiment("mnist/judge")


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def strange_server() -> Iterator[str]:
    """A web server that is no MLflow server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_never_answers_is_given_up_within_ten_seconds(silent_server: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError, match="does not answer"):
        open_store(tmp_path, silent_server)
    assert time.monotonic() - began < 10


def test_a_server_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(StoreError, match=r"does not answer: .*refused"):
        open_store(tmp_path, f"http://127.0.0.1:{port}")


def test_a_server_that_is_none_of_mlflows_is_told(strange_server: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        open_store(tmp_path, strange_server)


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    assert without_password("http://me:secret@host:5000/x") == "http://me:***@host:5000/x"
    assert without_password("postgresql://host/x?user=me&password=secret") == "postgresql://host/x?user=me&password=***"
    http, postgres = "http://me:secret@127.0.0.1:9", "postgresql://me:secret@127.0.0.1:9/db"
    for arguments in ((http,), (postgres,), (None, postgres), (None, "mysql://me:secret@127.0.0.1/db")):
        began = time.monotonic()
        with pytest.raises(StoreError) as caught:
            open_store(tmp_path, *arguments)
        assert "secret" not in str(caught.value)
        assert "me:***@" in str(caught.value)
        assert time.monotonic() - began < 10


def test_a_moved_store_knows_its_artifacts(tmp_path: Path) -> None:
    import mlflow
    import numpy as np
    import torch

    from tracking import registry

    old, new = tmp_path / "old", tmp_path / "else where" / "new"
    experiment = open_store(old).experiment("mnist/judge")
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_text("kept", "note.txt")
        mlflow.log_metric("val/accuracy", 1.0)
        registry.log_model(torch.nn.Linear(2, 1), torch.zeros(2, 2), {"width": 2}, {})
    registry.promote(registry.register("mnist-judge", run.info.run_id, ""), "val/accuracy", "maximize")
    new.parent.mkdir()
    old.rename(new)
    store = open_store(new)
    assert str(old) not in _dump(new / "mlflow.db")
    assert mlflow.artifacts.load_text(f"{mlflow.get_run(run.info.run_id).info.artifact_uri}/note.txt") == "kept"
    version = registry.require_champion("mnist-judge")
    assert version.config() == {"width": 2}
    assert np.asarray(version.state_dict()["weight"]).shape == (1, 2)
    assert store.experiment("mnist/judge") == experiment
    before = _dump(new / "mlflow.db")
    open_store(new)
    assert _dump(new / "mlflow.db") == before


def _dump(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return "\n".join(connection.iterdump())


def test_several_processes_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tracking.store import open_store\n"
        "store = open_store(Path(sys.argv[1])); store.experiment('mnist/judge')\n"
        "import optuna\n"
        "with store.lock('opening'): optuna.storages.RDBStorage(store.optuna_url)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "s"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], errors


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def _fill(folder: Path) -> Path:
    """A file that takes up all there is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(folder).free == 0
    return ballast


def test_a_full_disk_is_told_and_the_store_opens_afterwards(
    small_disk: Path, empty_store: Path, capsys: pytest.CaptureFixture
) -> None:
    import mlflow

    from study.cli import exit_code
    from study.search import Search, log_uniform, run_search
    from tracking.runs import study_run

    folder = small_disk / "store"
    shutil.copytree(empty_store, folder)
    ballast: list[Path] = []

    def objective(trial) -> tuple[float, ...]:
        if not ballast:
            ballast.append(_fill(small_disk))
        for step in range(20):
            trial.run.log({f"metric/{number}": 0.0 for number in range(100)}, step)
        return (1.0,)

    def study() -> None:
        store = open_store(folder)
        search = Search({"loss": "minimize"}, {"x": log_uniform(1, 2)}, [{"x": 1.5}])
        with study_run(store, store.experiment("tiny/test"), "tiny/test/0", "", {}) as parent:
            assert len(run_search("tiny/test/0", search, objective, store, parent, 0, "test")) == 1

    assert exit_code(study) == 2
    assert "error: the store was lost: database or disk is full" in capsys.readouterr().err
    assert exit_code(study) == 2, "still full"
    ballast[0].unlink()
    assert exit_code(study) == 0, capsys.readouterr().err
    runs = mlflow.MlflowClient().search_runs([open_store(folder).experiment("tiny/test")])
    assert "RUNNING" not in [run.info.status for run in runs]


def test_a_full_disk_is_told_as_a_store_is_made(small_disk: Path) -> None:
    ballast = _fill(small_disk)
    with pytest.raises(StoreError, match=r"full|No space left"):
        open_store(small_disk / "store")
    ballast.unlink()
    open_store(small_disk / "store").experiment("mnist/judge")


def test_a_read_only_file_system_is_told(small_disk: Path, empty_store: Path) -> None:
    folder = small_disk / "store"
    shutil.copytree(empty_store, folder)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match="must be a writable folder: Read-only file system"):
        open_store(folder)
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    open_store(folder).experiment("mnist/judge")
