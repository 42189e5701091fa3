"""The store: wherever it lies, whoever may enter it, whatever was done to it."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import mlflow
import pytest
from conftest import ROOT, no_hang
from sqlalchemy import create_engine

from tracking import runs
from tracking import store as stores
from tracking.errors import StoreError
from tracking.locks import Locks, sqlite_path, sqlite_url
from tracking.runs import Run, study_run
from tracking.store import Store, open_store, read_store, served_as

NAMES = ["a b", "a%20b", "a%2Fb", "a?b", "a#b", "a'b\"c", "a;b", "a\\b", "ä{x}", "$HOME"]


def log_note(store: Store) -> tuple[Run, Path]:
    """A run with an artifact, and where the file lies."""
    with study_run(store, store.experiment("mnist/judge"), "mnist/judge/0") as run:
        return run, Path(run.log_text("note.txt", "kept"))


def sql(folder: Path, command: str) -> list[tuple]:
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        return connection.execute(command).fetchall()


def locations(folder: Path) -> set[str]:
    return {path for (path,) in sql(folder, "SELECT artifact_uri FROM runs")}


def snapshot(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".db-shm"]
    return {f"{path.relative_to(folder)} {path.stat().st_mtime_ns}": path.read_bytes() for path in files}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Inside, this process is another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another user")
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


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


@pytest.mark.parametrize("name", NAMES)
def test_a_store_lies_where_its_path_says(tmp_path: Path, empty_store: Path, name: str) -> None:
    folder = tmp_path / "home" / name
    shutil.copytree(empty_store, folder)
    store = open_store(folder)
    assert open_store(folder) == store
    run, place = log_note(store)
    assert place.read_text() == "kept", "what is printed is a path as it is"
    create_engine(store.optuna_url, **store.locks.engine_options()).connect().close()
    assert [path.name for path in (tmp_path / "home").iterdir()] == [name], "nothing is made elsewhere"
    assert {"mlflow.db", "optuna.db", "locks", "artifacts"} <= {path.name for path in folder.iterdir()}
    read = read_store(folder)
    assert (read.artifacts, run.read("note.txt"), sqlite_path(sqlite_url(folder))) == (store.artifacts, b"kept", folder)
    assert served_as(read, folder) == store.tracking_uri, "the store itself, not a copy"


@pytest.mark.parametrize("name", ["file", "/proc/study", "a" * 300, "a\0b"])
def test_a_folder_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="must be a writable folder"):
        open_store(tmp_path / name)
    with pytest.raises(StoreError, match="holds no store"):
        read_store(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_moved_store_is_read_as_it_is_and_corrected_as_it_is_opened(store: Store, tmp_path: Path) -> None:
    run, _ = log_note(store)
    moved = tmp_path / "else where" / "moved"
    moved.parent.mkdir()
    (tmp_path / "store").rename(moved)
    kept = snapshot(moved)
    read = read_store(moved)
    assert run.read("note.txt") == b"kept"
    assert (served_as(read, moved), snapshot(moved)) == (read.tracking_uri, kept), "it is the copy that is corrected"
    store = open_store(moved)
    assert locations(moved) == {f"{(moved / 'artifacts').as_uri()}/mnist/judge/{run.run_id}/artifacts"}
    assert (run.read("note.txt"), store.experiment("mnist/judge")) == (b"kept", run.experiment_id)
    copies = list(stores._temporary().iterdir())
    store.experiment("mnist/later")
    assert read_store(moved).tracking_uri == read.tracking_uri
    assert runs.names() == ["mnist/judge", "mnist/later"], "the copy is that of today"
    assert list(stores._temporary().iterdir()) == copies, "a process has one copy of a store"


def test_neither_a_copy_nor_a_second_path_changes_the_original(store: Store, tmp_path: Path) -> None:
    log_note(store)
    before = locations(tmp_path / "store")
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    locks = Locks(sqlite_url(tmp_path / "copy" / "optuna.db"))
    with locks.alive("a worker"), pytest.raises(StoreError, match="by one path while a process works on it"):
        open_store(tmp_path / "copy")
    assert locations(tmp_path / "copy") == before
    open_store(tmp_path / "copy")
    assert all(path.startswith((tmp_path / "copy").as_uri()) for path in locations(tmp_path / "copy"))
    (tmp_path / "link").symlink_to(tmp_path / "store")
    open_store(tmp_path / "link")
    assert locations(tmp_path / "store") == before


def test_a_store_that_this_user_may_not_enter_is_told(store: Store, tmp_path: Path) -> None:
    _, place = log_note(store)
    with as_nobody(), pytest.raises(StoreError, match=r"store must be readable by this user: Permission denied"):
        read_store(tmp_path / "store")
    with tempfile.TemporaryDirectory() as open_to_all:  # pytest's own folders are closed to others
        Path(open_to_all).chmod(0o755)
        folder = Path(shutil.copytree(tmp_path / "store", f"{open_to_all}/store"))
        (folder / "mlflow.db").chmod(0o600)
        place = folder / place.relative_to(tmp_path / "store")
        place.chmod(0)
        with as_nobody():
            with pytest.raises(StoreError, match="must be readable by this user"):
                read_store(folder)
            with pytest.raises(StoreError, match="must be a writable folder: Permission denied"):
                open_store(folder)
            with pytest.raises(StoreError, match=r"note\.txt must be readable by this user"):
                stores.read_artifact(place.as_uri())
        folder.chmod(0o777)
        with as_nobody(), pytest.raises(StoreError, match="this user must be able to write"):
            Locks(sqlite_url(folder / "optuna.db")).hold("opening").__enter__()


@pytest.mark.parametrize("use", [open_store, read_store])
def test_a_store_of_another_version_and_a_database_that_is_none_are_told(store: Store, tmp_path: Path, use) -> None:
    store.experiment("mnist/judge")
    shutil.copytree(tmp_path / "store", tmp_path / "newer")  # MLflow looks at a database once a process
    sql(tmp_path / "newer", "UPDATE alembic_version SET version_num = 'ffff01234567'")
    with pytest.raises(StoreError, match=rf"another MLflow than {mlflow.__version__} .*ffff01234567") as told:
        use(tmp_path / "newer")
    assert "db upgrade" not in str(told.value)
    sql(tmp_path / "store", "DELETE FROM experiment_tags WHERE key = 'study.format'")
    with pytest.raises(StoreError, match=r"store/mlflow.db was made by an earlier version .* another --store"):
        use(tmp_path / "store")
    (tmp_path / "mlflow.db").write_text("my diary " * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        use(tmp_path)
    assert (tmp_path / "mlflow.db").read_text().startswith("my diary")


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_a_store_whose_writer_was_killed_in_mid_commit_is_read(store: Store, tmp_path: Path, journal: str) -> None:
    run, _ = log_note(store)
    folder = tmp_path / "killed"
    with closing(sqlite3.connect(tmp_path / "store" / "mlflow.db", isolation_level=None)) as writer:
        writer.execute(f"PRAGMA journal_mode = {journal}")
        writer.execute("PRAGMA cache_size = 1")  # so that half of the transaction is in the file already
        writer.execute("BEGIN")
        many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
        writer.execute(f"{many} INSERT INTO tags SELECT 'tag' || i, hex(randomblob(50)), ? FROM n", (run.run_id,))
        shutil.copytree(tmp_path / "store", folder)
        writer.execute("ROLLBACK")
    assert (folder / "mlflow.db-journal").exists() or journal == "WAL"
    before = snapshot(folder)
    read_store(folder)
    (parent,) = runs.parents("mnist/judge")
    assert (parent.run_id, snapshot(folder)) == (run.run_id, before)
    assert not [tag for tag in parent.tags if tag.startswith("tag")]


def test_a_database_that_stays_locked_is_told_to_who_only_reads(store: Store, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(stores, "LOCAL_TIMEOUT", 0.5)
    with closing(sqlite3.connect(tmp_path / "store" / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with no_hang(), pytest.raises(StoreError, match=r"mlflow\.db is locked by another process"):
            read_store(tmp_path / "store")
    read_store(tmp_path / "store")


def test_all_pages_of_a_search_are_read(store: Store) -> None:
    for name in "abc":
        store.experiment(name)
    assert len(list(stores.search(stores.client().search_experiments, max_results=2))) == 4, "and MLflow's own"


def test_somebody_elses_experiment_of_our_name_stays_as_it_is(store: Store, tmp_path: Path) -> None:
    theirs = mlflow.create_experiment("mnist/other", "file:///elsewhere/artifacts/mnist/other", {"owner": "them"})
    before = dict(mlflow.get_experiment(theirs))
    with pytest.raises(StoreError, match=r"'mnist/other' .* was not made by .*: rename it, or use another --store$"):
        store.experiment("mnist/other")
    open_store(tmp_path / "store")
    assert dict(mlflow.get_experiment(theirs)) == before


def test_a_disk_that_cannot_be_written_is_read(store: Store, small_disk: Path, tmp_path: Path) -> None:
    run, _ = log_note(store)
    shutil.copytree(tmp_path / "store", small_disk / "store")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    read_store(small_disk / "store")
    assert run.read("note.txt") == b"kept"
    with pytest.raises(StoreError, match="must be a writable folder: Read-only file system"):
        open_store(small_disk / "store")


def test_a_full_disk_is_named(store: Store, small_disk: Path, tmp_path: Path, monkeypatch) -> None:
    run, _ = log_note(store)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    with pytest.raises(StoreError, match=rf"{small_disk}/store.*(full|No space left)"):
        open_store(small_disk / "store")
    read_store(tmp_path / "store")
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    monkeypatch.setattr(stores, "_temporary", lambda: small_disk)
    with pytest.raises(StoreError, match=rf"full: .*{small_disk}"):
        read_store(tmp_path / "store")
    with pytest.raises(StoreError, match=rf"the disk of {small_disk} is full: "), stores.store_errors():
        run.log_text("note.txt", "again " * 10_000)
    ballast.unlink()
    open_store(small_disk / "store").experiment("mnist/judge")


def test_variables_of_the_environment_are_named_or_do_not_count(store: Store, tmp_path: Path, monkeypatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    log_note(open_store(tmp_path / "store"))
    read_store(tmp_path / "store")
    assert runs.names() == ["mnist/judge"]
    for name, value in {"MLFLOW_HTTP_REQUEST_TIMEOUT": "soon", "MLFLOW_ENABLE_ASYNC_LOGGING": "on"}.items():
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            for use in (open_store, read_store):
                with pytest.raises(StoreError, match=f"MLflow cannot use an environment variable.*{name}.*{value}"):
                    use(tmp_path / "store")


@pytest.mark.slow
def test_several_processes_open_a_fresh_store_at_once_and_without_git_say_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tracking.store import open_store\n"
        "from tracking.runs import study_run; store = open_store(Path(sys.argv[1]))\n"
        "with study_run(store, store.experiment('a'), 'b'): pass\n"
        "import mlflow; mlflow.start_run(); mlflow.end_run()"
    )
    env = {**os.environ, "PATH": str(tmp_path)}
    command = [sys.executable, "-c", code, tmp_path / "s"]
    processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env=env) for _ in range(3)]
    assert [(each.communicate(timeout=600)[1], each.returncode) for each in processes] == [(b"", 0)] * 3
