"""Where everything is kept: MLflow's database and artifacts, Optuna's database."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tracking.errors import StoreError, reason_of
from tracking.locks import LOCAL_TIMEOUT, Locks
from tracking.servers import check_database, check_tracking_server

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

    @property
    def ui_command(self) -> str:
        """The command that shows this store in a browser on this machine only."""
        if self.artifacts is None:
            return f"open {self.tracking_uri} in a browser"
        return f"mlflow ui --host 127.0.0.1 --backend-store-uri {self.tracking_uri}"


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
        storage = check_database(storage)

    import mlflow

    for noisy in ("mlflow.store.db.utils", "mlflow.tracking", "alembic"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # What they say at length becomes one sentence.
    store = Store(
        tracking_uri=tracking_uri or f"sqlite:///{folder}/mlflow.db",
        artifacts=None if tracking_uri else (folder / "artifacts").as_uri(),
        optuna_url=storage or f"sqlite:///{folder}/optuna.db",
    )
    mlflow.set_tracking_uri(store.tracking_uri)
    mlflow.set_registry_uri(store.tracking_uri)
    retries = os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
    try:
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        with store.locks.hold("opening"):  # of several processes, one makes the tables and the others wait
            if tracking_uri is None and not (folder / "mlflow.db").exists():
                _make_database(folder / "mlflow.db")
            mlflow.MlflowClient().search_experiments(max_results=1)
            if tracking_uri is None:
                _correct_paths(folder)
    except Exception as error:  # SQLAlchemy's and MLflow's many classes, all of which mean the same here
        raise StoreError(f"{store.tracking_uri} cannot be opened: {reason_of(error)}") from error
    finally:
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = retries
    return store


def open_existing_store(folder: Path, tracking_uri: str | None = None) -> Store:
    """Like `open_store`, for reading: a folder without a store in it is an error, not made into one.

    Raises:
        StoreError: There is none, or it cannot be opened.
    """
    folder = folder.expanduser()
    if tracking_uri is None and not (folder / "mlflow.db").is_file():
        raise StoreError(f"{folder} holds no store (no mlflow.db): run python -m study.run first, or give its --store")
    return open_store(folder, tracking_uri)


def _make_database(path: Path) -> None:
    """Make MLflow's tables, all or none: a process that dies half way would leave a database that never opens."""
    from mlflow import MlflowClient

    for abandoned in path.parent.glob("mlflow.db.new*"):
        abandoned.unlink()
    unfinished = path.with_name(f"mlflow.db.new-{time.time_ns()}")  # MLflow remembers files by name
    MlflowClient(f"sqlite:///{unfinished}").search_experiments(max_results=1)
    unfinished.rename(path)


def _correct_paths(folder: Path) -> None:
    """Write into MLflow's database where a store that was moved or copied lies now: it keeps absolute paths."""
    now = (folder / "artifacts").as_uri()
    ours = (
        "SELECT tag.value, experiment.artifact_location FROM experiments experiment"
        " JOIN experiment_tags tag ON tag.experiment_id = experiment.experiment_id WHERE tag.key = ?"
    )
    with closing(sqlite3.connect(folder / "mlflow.db", timeout=LOCAL_TIMEOUT)) as connection, connection:
        experiments = connection.execute(ours, (EXPERIMENT,)).fetchall()
        roots = {str(path).removesuffix(f"/{name}") for name, path in experiments if str(path).endswith(f"/{name}")}
        for before in roots - {now}:
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
    except OSError as error:
        raise StoreError(f"the store {folder} must be a writable folder: {error.strerror}") from error
    for name in ("mlflow.db", "optuna.db"):
        database = folder / name
        if not database.exists():
            continue
        try:
            with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
                connection.execute("PRAGMA schema_version")
        except sqlite3.Error as error:
            raise StoreError(f"{database} must be a writable SQLite database: {error}") from error
