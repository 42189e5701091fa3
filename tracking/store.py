"""Where everything is kept: MLflow's database and artifacts, Optuna's database."""

from __future__ import annotations

import atexit
import logging
import os
import sqlite3
import time
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from tempfile import NamedTemporaryFile, mkdtemp
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sqlalchemy import Engine, event

from tracking.errors import StoreError, root_of, without_password
from tracking.locks import LOCAL_TIMEOUT, Locks
from tracking.servers import check_database, check_tracking_server, sqlite_url

for _noisy in ("mlflow.store.db.utils", "mlflow.tracking", "alembic"):
    logging.getLogger(_noisy).setLevel(logging.CRITICAL)  # What they say at length becomes one sentence.

EXPERIMENT = "study.experiment"  # the tag of an experiment of ours: its name as we gave it
ABSOLUTE_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's database that hold paths."""


@dataclass(frozen=True)
class Store:
    """An open store. `artifacts` is None where a tracking server keeps them."""

    tracking_uri: str
    artifacts: str | None
    optuna_url: str

    @cached_property
    def locks(self) -> Locks:
        """The locks that all processes on this store share."""
        return Locks(self.optuna_url)

    def experiment(self, name: str, description: str = "") -> str:
        """The id of the experiment that we made by this name, whatever it is called now; made at the first call.

        Raises:
            StoreError: It was deleted, or somebody else's experiment has the name.
        """
        from mlflow import MlflowClient
        from mlflow.entities import ViewType
        from mlflow.exceptions import MlflowException

        client = MlflowClient(self.tracking_uri)
        ours = client.search_experiments(ViewType.ALL, filter_string=f"tags.`{EXPERIMENT}` = '{name}'")
        for found in ours:
            if found.lifecycle_stage == "active":
                return found.experiment_id
        if ours:
            raise StoreError(f"experiment {ours[0].name!r} was deleted in MLflow: restore it, or use another --store")
        location = None if self.artifacts is None else f"{self.artifacts}/{name}"
        # The kind makes MLflow's page show training runs, not traces of language models.
        kind = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": description}
        try:
            return client.create_experiment(name, artifact_location=location, tags={EXPERIMENT: name, **kind})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            taken = client.get_experiment_by_name(name)
            if taken is not None and taken.tags.get(EXPERIMENT) == name:  # another process was faster
                return taken.experiment_id
            raise StoreError(
                f"the experiment {name!r} in this store was not made by this version of latent-study:"
                " rename it, or use another --store"
            ) from error


def open_store(folder: Path, tracking_uri: str | None = None, storage: str | None = None) -> Store:
    """Open the local store in `folder`, made if missing, or a tracking server and a database in its place.

    What does not answer is reported within seconds; once open, work waits for a server that is away for a while.

    Raises:
        StoreError: The folder cannot be written, a database in it is no database, or a server does not answer.
    """
    folder = folder.expanduser().absolute()
    if tracking_uri is None or storage is None:
        _check_folder(folder)
    if tracking_uri is not None:
        tracking_uri = check_tracking_server(tracking_uri)
    if storage is not None:
        storage = check_database(storage, folder / "mlflow.db")
    database = folder / "mlflow.db"
    with Locks(storage or sqlite_url(folder / "optuna.db")).hold(
        "opening"
    ):  # of several processes, one makes the tables
        try:
            if tracking_uri is None and not database.exists():
                _make_database(database)
        except Exception as error:
            raise StoreError(f"{database} cannot be made: {root_of(error)}") from error
        store = _connect(folder, tracking_uri or sqlite_url(database), storage)
        if tracking_uri is None:
            _follow_move(store, folder)
    return store


def read_store(folder: Path, tracking_uri: str | None = None) -> Store:
    """Open a store for reading, and change nothing in it: it may be on a disk that cannot be written.

    What is read is a copy of the local folder's database, which knows where the store lies now, if it was moved.

    Raises:
        StoreError: There is none, or it cannot be opened.
    """
    folder = folder.expanduser().absolute()
    if tracking_uri is None and not os.path.isfile(folder / "mlflow.db"):
        raise StoreError(f"{folder} holds no store (no mlflow.db): run python -m study.run first, or give its --store")
    if tracking_uri is not None:
        return _connect(folder, check_tracking_server(tracking_uri), None)
    copy = Path(mkdtemp(prefix="study-reading-"))
    atexit.register(rmtree, copy, ignore_errors=True)
    try:
        source = sqlite3.connect(f"{(folder / 'mlflow.db').as_uri()}?mode=ro", uri=True, timeout=LOCAL_TIMEOUT)
        with closing(source), closing(sqlite3.connect(copy / "mlflow.db")) as target:
            source.isolation_level = None
            source.execute("BEGIN")  # `backup` itself would wait for a locked database for ever
            source.execute("SELECT 1 FROM sqlite_master").fetchone()
            source.backup(target)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise StoreError(f"{folder / 'mlflow.db'} is locked by another process: wait for its end") from error
        raise StoreError(f"{folder / 'mlflow.db'} must be an SQLite database: {error}") from error
    _correct_paths(copy / "mlflow.db", folder, _roots(copy / "mlflow.db"))
    return _connect(folder, sqlite_url(copy / "mlflow.db"), None, shown=sqlite_url(folder / "mlflow.db"))


@event.listens_for(Engine, "before_cursor_execute", retval=True)
def _be_as_patient(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
    """MLflow gives up on a database that another process has locked after 20 s, and has no setting for it."""
    if statement.startswith("PRAGMA busy_timeout") and str(connection.engine.url.database).endswith("mlflow.db"):
        statement = f"PRAGMA busy_timeout = {int(1000 * LOCAL_TIMEOUT)}"
    return statement, parameters


def _connect(folder: Path, tracking_uri: str, storage: str | None, shown: str | None = None) -> Store:
    """The store with these databases, after MLflow's first answer; a copy of one is told of as `shown`."""
    import mlflow

    from tracking.client import ARTIFACTS

    on_server = not tracking_uri.startswith("sqlite")
    store = Store(
        tracking_uri=tracking_uri,
        artifacts=None if on_server else (folder / "artifacts").as_uri(),
        optuna_url=storage or sqlite_url(folder / "optuna.db"),
    )
    if store.artifacts is not None:
        ARTIFACTS[tracking_uri] = store.artifacts
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    retries = os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    try:
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        mlflow.MlflowClient().search_experiments(max_results=1)
    except Exception as error:  # SQLAlchemy's and MLflow's many classes, all of which mean the same here
        raise StoreError(f"{without_password(shown or tracking_uri)} cannot be opened: {root_of(error)}") from error
    finally:
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = retries
    return store


def served_as(store: Store, folder: Path) -> str:
    """The address of the database that a server is to show, of a folder that was opened for reading.

    Its own, where it may be written and its artifacts lie where it says; else the copy, which knows where they are.
    """
    database = folder / "mlflow.db"
    writable = all(os.access(path, os.W_OK) for path in (folder, database))
    in_place = _roots(database) <= {(folder / "artifacts").as_uri()}
    return sqlite_url(database) if writable and in_place else store.tracking_uri


def _make_database(path: Path) -> None:
    """Make MLflow's tables, all or none: a process that dies half way would leave a database that never opens."""
    from mlflow import MlflowClient

    for abandoned in path.parent.glob("mlflow.db.new*"):
        abandoned.unlink()
    unfinished = path.with_name(f"mlflow.db.new-{time.time_ns()}")  # MLflow remembers files by name
    MlflowClient(sqlite_url(unfinished)).search_experiments(max_results=1)
    unfinished.rename(path)


def _follow_move(store: Store, folder: Path) -> None:
    """Write into MLflow's database where a store that was moved or copied lies now: it keeps absolute paths.

    Raises:
        StoreError: A process works on the store by another path, which this one does not see.
    """
    gone = {root for root in _roots(folder / "mlflow.db") if not _is_same(root, folder / "artifacts")}
    if gone and store.locks.any_alive():
        raise StoreError(
            f"another process works on the store {folder} by the path {min(gone)}, which is not here:"
            " wait for its end, or use the same path"
        )
    _correct_paths(folder / "mlflow.db", folder, gone)


def _is_same(root: str, artifacts: Path) -> bool:
    """Whether this `file:` address is another path of the same folder, a second mount, say: a new file shows it."""
    if root == artifacts.as_uri():
        return True
    artifacts.mkdir(exist_ok=True)
    with NamedTemporaryFile(dir=artifacts, prefix=".probe-") as probe:
        return (Path(url2pathname(urlsplit(root).path)) / Path(probe.name).name).exists()


def _roots(database: Path) -> set[str]:
    """The folders of artifacts, as `file:` addresses, that our experiments in this database name."""
    ours = (
        "SELECT tag.value, experiment.artifact_location FROM experiments experiment"
        " JOIN experiment_tags tag ON tag.experiment_id = experiment.experiment_id WHERE tag.key = ?"
    )
    with closing(sqlite3.connect(database, timeout=LOCAL_TIMEOUT)) as connection:
        try:
            experiments = connection.execute(ours, (EXPERIMENT,)).fetchall()
        except sqlite3.OperationalError:  # no tables of MLflow's: it says itself what is wrong
            return set()
    locations = {str(path).removesuffix(f"/{name}") for name, path in experiments if str(path).endswith(f"/{name}")}
    return {location for location in locations if location.startswith("file:")}


def _correct_paths(database: Path, folder: Path, roots: Collection[str]) -> None:
    """Put the folder's artifacts in the place of these roots, wherever the database names them."""
    now = (folder / "artifacts").as_uri()
    with closing(sqlite3.connect(database, timeout=LOCAL_TIMEOUT)) as connection, connection:
        for before in set(roots) - {now}:
            for table, column in ABSOLUTE_PATHS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (now, len(before) + 1, len(before) + 1, f"{before}/"),
                )


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:  # the latter: a zero in the name
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"the store {str(folder)!r} must be a writable folder: {reason}") from error
    for name in ("mlflow.db", "optuna.db"):
        database = folder / name
        if not database.exists():
            continue
        try:
            with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
                connection.execute("PRAGMA schema_version")
        except sqlite3.Error as error:
            raise StoreError(f"{database} must be a writable SQLite database: {error}") from error
