"""Stores wherever they lie: any characters in the path, a second path of one folder, a disk that cannot be written."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import mlflow
import optuna
import pytest

from study.engine.slots import _open
from tracking.errors import StoreError
from tracking.runs import study_run
from tracking.servers import sqlite_path, sqlite_url
from tracking.store import Store, open_store, read_store, served_as

NAMES = ["a b", "a%20b", "a%2Fb", "a?b", "a#b", "a'b\"c", "a;b", "a\\b", "ä{x}", "a&b=c", "$HOME"]


def log_note(store: Store) -> tuple[str, str]:
    """A run with an artifact. Returns its id, and where the file lies."""
    about = {"title": "", "description": "", "tags": {}}
    with study_run(store, store.experiment("mnist/judge"), "mnist/judge/0", **about) as run:
        return run.run_id, run.log_text("note.txt", "kept")


@pytest.mark.parametrize("name", NAMES)
def test_a_store_lies_where_its_path_says(tmp_path: Path, empty_store: Path, name: str) -> None:
    shutil.copytree(empty_store, tmp_path / "home" / name)
    store = open_store(tmp_path / "home" / name)
    _, place = log_note(store)
    assert Path(place).read_text() == "kept", "what is printed is a path as it is"
    storage = _open(store)
    optuna.create_study(storage=storage, study_name="q")
    storage.engine.dispose()
    assert [path.name for path in (tmp_path / "home").iterdir()] == [name], "nothing is made elsewhere"
    assert {"mlflow.db", "optuna.db", "locks", "artifacts"} <= {
        path.name for path in (tmp_path / "home" / name).iterdir()
    }
    read = read_store(tmp_path / "home" / name)
    assert read.artifacts == store.artifacts
    assert served_as(read, tmp_path / "home" / name) == store.tracking_uri, "the store itself, not a copy"


@pytest.mark.parametrize("name", NAMES)
def test_the_url_of_a_file_gives_the_file(name: str) -> None:
    assert sqlite_path(sqlite_url(Path("/tmp") / name)) == Path("/tmp") / name


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("sqlite://", "must name a file that all processes share"),
        ("sqlite:///:memory:", "must name a file that all processes share"),
        ("sqlite:///{store}/mlflow.db", "must be another file than MLflow's"),
        ("sqlite:///{store}/../store/mlflow.db", "must be another file than MLflow's"),
        ("mysql://h/d", "must be a postgresql:// or sqlite:/// URL"),
        ("nonsense", "must be a postgresql:// or sqlite:/// URL"),
        ("http://h:port/x", "must be a postgresql:// or sqlite:/// URL"),
    ],
)
def test_a_storage_that_cannot_be_shared_is_refused(store: Store, tmp_path: Path, storage: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        open_store(tmp_path / "store", None, storage.format(store=tmp_path / "store"))


def locations(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        return {path for (path,) in connection.execute("SELECT artifact_uri FROM runs")}


def test_a_second_path_of_the_same_folder_rewrites_nothing(store: Store, tmp_path: Path) -> None:
    log_note(store)
    before = locations(tmp_path / "store")
    (tmp_path / "link").symlink_to(tmp_path / "store")
    open_store(tmp_path / "link")
    assert locations(tmp_path / "store") == before


def test_a_copy_knows_its_own_artifacts_and_leaves_the_original_alone(store: Store, tmp_path: Path) -> None:
    log_note(store)
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    open_store(tmp_path / "copy")
    assert all(path.startswith((tmp_path / "copy").as_uri()) for path in locations(tmp_path / "copy"))
    assert all(path.startswith((tmp_path / "store").as_uri()) for path in locations(tmp_path / "store"))


def test_paths_are_not_changed_under_a_process_that_works(store: Store, tmp_path: Path) -> None:
    log_note(store)
    (tmp_path / "store").rename(tmp_path / "moved")
    moved = Store(sqlite_url(tmp_path / "moved" / "mlflow.db"), None, sqlite_url(tmp_path / "moved" / "optuna.db"))
    with moved.locks.alive("a worker"), pytest.raises(StoreError, match="another process works on the store"):
        open_store(tmp_path / "moved")
    assert all(path.startswith((tmp_path / "store").as_uri()) for path in locations(tmp_path / "moved"))
    open_store(tmp_path / "moved")
    assert all(path.startswith((tmp_path / "moved").as_uri()) for path in locations(tmp_path / "moved"))


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


def test_reading_changes_nothing_and_finds_what_was_moved(store: Store, tmp_path: Path) -> None:
    run_id, _ = log_note(store)
    (tmp_path / "store").rename(tmp_path / "moved")
    before = snapshot(tmp_path / "moved")
    read_store(tmp_path / "moved")
    uri = mlflow.MlflowClient().get_run(run_id).info.artifact_uri
    assert mlflow.artifacts.load_text(f"{uri}/note.txt") == "kept"
    assert snapshot(tmp_path / "moved") == before


def test_a_store_on_a_disk_that_cannot_be_written_is_read(store: Store, tmp_path: Path) -> None:
    run_id, _ = log_note(store)
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", disk], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a file system cannot be mounted here: {made.stderr.strip()}")
    try:
        shutil.copytree(tmp_path / "store", disk / "store")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        read_store(disk / "store")
        uri = mlflow.MlflowClient().get_run(run_id).info.artifact_uri
        assert uri.startswith((disk / "store").as_uri())
        assert mlflow.artifacts.load_text(f"{uri}/note.txt") == "kept"
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_database_that_is_none_is_told_in_its_own_words(tmp_path: Path, empty_store: Path) -> None:
    shutil.copytree(empty_store, tmp_path / "store")
    (tmp_path / "store" / "mlflow.db").write_bytes(b"my diary " * 1000)
    with pytest.raises(StoreError, match="file is not a database"):
        read_store(tmp_path / "store")
