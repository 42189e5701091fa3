"""Where everything is kept: MLflow's database and artifacts, Optuna's database."""

from __future__ import annotations

import logging
import os
import sqlite3
import urllib.error
import urllib.request
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock

SERVER_TIMEOUT = 5.0  # seconds
OPENING_TIMEOUT = 60.0  # seconds that a process waits for another to make the tables
ABSOLUTE_PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables and columns of MLflow's database that hold paths."""


class StoreError(Exception):
    """The store cannot be used; the message is one sentence for the user."""


@dataclass(frozen=True)
class Store:
    """An open store. `artifacts` is None where a tracking server keeps them."""

    tracking_uri: str
    artifacts: str | None
    optuna_url: str

    def experiment(self, name: str) -> str:
        """The id of the experiment of this name, made at the first call."""
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(self.tracking_uri)
        found = client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                raise StoreError(f"experiment {name!r} was deleted in MLflow: restore it, or use another --store")
            return found.experiment_id
        location = None if self.artifacts is None else f"{self.artifacts}/{name}"
        # The kind makes MLflow's page show training runs, not traces of language models.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return client.create_experiment(name, artifact_location=location, tags=kind)
        except MlflowException as error:  # another process was faster
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self.experiment(name)

    def opening(self) -> AbstractContextManager[object]:
        """Held while a database is opened: of several processes, one makes the tables and the others wait.

        A local store only: databases on a server are made once, by whoever sets the server up.
        """
        if not self.optuna_url.startswith("sqlite:///") and self.artifacts is None:
            return nullcontext()
        path = self.optuna_url if self.artifacts is None else self.tracking_uri
        return FileLock(Path(path.removeprefix("sqlite:///")).with_name(".opening.lock"), timeout=OPENING_TIMEOUT)

    @property
    def ui_command(self) -> str:
        """The command that shows this store in a browser on this machine only."""
        if self.artifacts is None:
            return f"open {without_password(self.tracking_uri)} in a browser"
        return f"mlflow ui --host 127.0.0.1 --backend-store-uri {self.tracking_uri}"


def open_store(folder: Path, tracking_uri: str | None = None, storage: str | None = None) -> Store:
    """Open the local store in `folder`, made if missing, or a tracking server and a database in its place.

    Raises:
        StoreError: The folder cannot be written, a database in it is no database, or the server does not answer.
    """
    folder = folder.expanduser().absolute()
    if tracking_uri is None or storage is None:
        _check_folder(folder)
    if tracking_uri is not None:
        _check_server(tracking_uri)

    import mlflow

    for noisy in ("mlflow.store.db.utils", "mlflow.tracking", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    store = Store(
        tracking_uri=tracking_uri or f"sqlite:///{folder}/mlflow.db",
        artifacts=None if tracking_uri else (folder / "artifacts").as_uri(),
        optuna_url=storage or f"sqlite:///{folder}/optuna.db",
    )
    mlflow.set_tracking_uri(store.tracking_uri)
    mlflow.set_registry_uri(store.tracking_uri)
    try:
        with store.opening():
            mlflow.MlflowClient().search_experiments(max_results=1)
            if tracking_uri is None:
                _mend_paths(folder)
    except Exception as error:  # SQLAlchemy's and MLflow's many classes, all of which mean the same here
        reason = str(error).splitlines()[0]
        raise StoreError(f"{without_password(store.tracking_uri)} cannot be opened: {reason}") from error
    return store


def open_existing_store(folder: Path, tracking_uri: str | None = None) -> Store:
    """Like `open_store`, for reading: a folder without a store in it is an error, not made into one.

    Raises:
        StoreError: There is none, or it cannot be opened.
    """
    if tracking_uri is None and not (folder / "mlflow.db").is_file():
        raise StoreError(f"{folder} holds no store (no mlflow.db): run python -m study.run first, or give its --store")
    return open_store(folder, tracking_uri)


def without_password(url: str) -> str:
    """The URL with its password, if any, replaced by ***."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    netloc = parts.netloc.replace(f":{parts.password}@", ":***@")
    return urlunsplit(parts._replace(netloc=netloc))


def _mend_paths(folder: Path) -> None:
    """Tell a store that was moved or copied where it lies now: MLflow keeps absolute paths of artifacts."""
    now = (folder / "artifacts").as_uri()
    with closing(sqlite3.connect(folder / "mlflow.db", timeout=OPENING_TIMEOUT)) as connection, connection:
        experiments = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
        roots = {str(path).removesuffix(f"/{name}") for name, path in experiments if str(path).endswith(f"/{name}")}
        for before in roots - {now}:
            if not before.endswith("/artifacts"):
                continue  # not one of ours
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
            connection = sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)
            try:
                connection.execute("PRAGMA schema_version")
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StoreError(f"{database} must be a writable SQLite database: {error}") from error


def _check_server(url: str) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise StoreError(
            f"--tracking-uri must be the http(s) address of an MLflow server, but got {without_password(url)!r}"
            " (for a local folder use --store)"
        )
    parts = urlsplit(url)
    plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
    try:
        with urllib.request.urlopen(f"{plain}/health", timeout=SERVER_TIMEOUT):
            pass
    except urllib.error.HTTPError:
        pass  # It answers; whether it lets us in is for MLflow's own first call to say.
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StoreError(f"the tracking server {without_password(url)} does not answer: {reason}") from error
