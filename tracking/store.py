"""Where everything is kept: MLflow's database and artifacts, Optuna's database."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

SERVER_TIMEOUT = 5.0  # seconds
LOCAL_TIMEOUT = 60.0  # seconds that a process waits for another's transaction in an SQLite file
patience = 60.0  # seconds that work under way waits for a database server to come back
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

    def experiment(self, name: str, description: str = "") -> str:
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
        kind = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": description}
        try:
            return client.create_experiment(name, artifact_location=location, tags=kind)
        except MlflowException as error:  # another process was faster
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self.experiment(name, description)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Held by one process at a time, whatever its machine; let go when its process dies.

        A file beside Optuna's SQLite database, or an advisory lock of its PostgreSQL server.
        """
        if not self.on_server:
            with FileLock(self._lock_file(name)):
                yield
            return
        connection = self._advisory_lock(name)
        try:
            yield
        finally:
            with suppress(Exception):  # A lost connection has let go already.
                connection.close()

    @contextmanager
    def presence(self, worker: str) -> Iterator[None]:
        """Held by a process while it works, so that others see at once when it has died (see `is_gone`).

        Where Optuna's database is on a server there is none: after a restart of the server all would seem to have died.
        """
        if self.on_server:
            yield
            return
        file = self._lock_file(worker, "worker-")
        for each in file.parent.glob("worker-*.lock"):
            _free(each)  # of processes that died
        with FileLock(file):
            yield
            file.unlink(missing_ok=True)

    def is_gone(self, worker: str) -> bool:
        """Whether this process has let go of its presence. On a server only its silence can tell, and this is False."""
        return not self.on_server and _free(self._lock_file(worker, "worker-"))

    @property
    def on_server(self) -> bool:
        """Whether Optuna's database is on a server, else it is an SQLite file."""
        return not self.optuna_url.startswith("sqlite:")

    def _lock_file(self, name: str, prefix: str = "") -> Path:
        """The file beside Optuna's SQLite database that is locked by this name."""
        folder = Path(self.optuna_url.removeprefix("sqlite:///")).with_name("locks")
        folder.mkdir(exist_ok=True)
        return folder / f"{prefix}{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"

    def _advisory_lock(self, name: str) -> Connection:
        """A connection to Optuna's PostgreSQL database that holds the lock of this name until it is closed."""
        from sqlalchemy import text
        from sqlalchemy.exc import OperationalError

        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        while True:
            connection = self._engine.connect()
            try:
                # A server that hears no more of a machine lets its locks go within half a minute.
                for setting in ("idle = 10", "interval = 5", "count = 3"):
                    connection.execute(text(f"SET tcp_keepalives_{setting}"))
                connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
                return connection
            except BaseException as error:
                with suppress(Exception):
                    connection.close()
                if not isinstance(error, OperationalError):  # else the server went away: connecting again waits for it
                    raise

    def optuna_engine_options(self) -> dict[str, Any]:
        """How SQLAlchemy connects to Optuna's database."""
        if not self.on_server:
            return {"connect_args": {"timeout": LOCAL_TIMEOUT}}
        # Heartbeats of several machines are compared with each other.
        return {
            "connect_args": {"connect_timeout": int(SERVER_TIMEOUT), "options": "-c timezone=utc"},
            "pool_pre_ping": True,
        }

    @cached_property
    def _engine(self) -> Engine:
        """Connections for locks: none is kept, since a lock lives as long as its connection."""
        from sqlalchemy import NullPool, create_engine

        options = self.optuna_engine_options() | {"poolclass": NullPool, "pool_pre_ping": False}
        engine = create_engine(self.optuna_url, isolation_level="AUTOCOMMIT", **options)
        be_patient(engine)
        return engine

    @property
    def ui_command(self) -> str:
        """The command that shows this store in a browser on this machine only."""
        if self.artifacts is None:
            return f"open {self.tracking_uri} in a browser"
        return f"mlflow ui --host 127.0.0.1 --backend-store-uri {self.tracking_uri}"


def open_store(folder: Path, tracking_uri: str | None = None, storage: str | None = None) -> Store:
    """Open the local store in `folder`, made if missing, or a tracking server and a database in its place.

    What does not answer is told within seconds; once open, work waits for a server that is away for a while.

    Raises:
        StoreError: The folder cannot be written, a database in it is no database, or a server does not answer.
    """
    folder = folder.expanduser().absolute()
    if tracking_uri is None or storage is None:
        _check_folder(folder)
    if tracking_uri is not None:
        _check_server(tracking_uri)
        tracking_uri = _take_password(tracking_uri)
    if storage is not None:
        storage = _check_database(storage)

    import mlflow

    for noisy in ("mlflow.store.db.utils", "mlflow.tracking", "alembic"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # What they tell at length is told in a sentence.
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
        with store.lock("opening"):  # of several processes, one makes the tables and the others wait
            if tracking_uri is None and not (folder / "mlflow.db").exists():
                _make_database(folder / "mlflow.db")
            mlflow.MlflowClient().search_experiments(max_results=1)
            if tracking_uri is None:
                _mend_paths(folder)
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
    if tracking_uri is None and not (folder / "mlflow.db").is_file():
        raise StoreError(f"{folder} holds no store (no mlflow.db): run python -m study.run first, or give its --store")
    return open_store(folder, tracking_uri)


def without_password(text: str) -> str:
    """The text with the password of every URL in it replaced by ***."""
    text = re.sub(r"(\w://[^\s:/@]*):[^\s/]*@", r"\1:***@", text)
    return re.sub(r"([?&]password=)[^\s&]*", r"\1***", text)


def be_patient(engine: Engine) -> None:
    """Let new connections of this engine wait for a database server that is away."""
    from sqlalchemy import event

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _record: object, args: Any, options: Any) -> Any:
        began = time.monotonic()
        while True:
            try:
                return dialect.connect(*args, **options)
            except dialect.loaded_dbapi.OperationalError:
                if time.monotonic() - began > patience:
                    raise
                time.sleep(1)


def hurry() -> None:
    """From now on wait for no server that is away: the process is to stop."""
    global patience
    patience = 0.0
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "3"


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn what a lost server, a full disk or a read-only folder raises, in whatever package, into one sentence.

    Raises:
        StoreError: In place of such an error; others pass.
    """
    import requests
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        for cause in reversed(list(_causes(error))):  # the first of them says it best
            full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT)
            if full or isinstance(cause, requests.RequestException | DBAPIError | sqlite3.Error):
                raise StoreError(f"the store was lost: {reason_of(cause)}") from error
        raise


def _free(lock: Path) -> bool:
    """Whether nobody holds this lock; its file is then removed."""
    try:
        with FileLock(lock, timeout=0):
            lock.unlink(missing_ok=True)
    except Timeout:
        return False
    return True


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def reason_of(error: BaseException) -> str:
    """An error's first line, without passwords."""
    return without_password((str(error).splitlines() or [type(error).__name__])[0])


def _make_database(path: Path) -> None:
    """Make MLflow's tables, all or none: a process that dies half way would leave a database that never opens."""
    from mlflow import MlflowClient

    for abandoned in path.parent.glob("mlflow.db.new*"):
        abandoned.unlink()
    unfinished = path.with_name(f"mlflow.db.new-{time.time_ns()}")  # MLflow remembers files by name
    MlflowClient(f"sqlite:///{unfinished}").search_experiments(max_results=1)
    unfinished.rename(path)


def _mend_paths(folder: Path) -> None:
    """Tell a store that was moved or copied where it lies now: MLflow keeps absolute paths of artifacts."""
    now = (folder / "artifacts").as_uri()
    with closing(sqlite3.connect(folder / "mlflow.db", timeout=LOCAL_TIMEOUT)) as connection, connection:
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


def _take_password(url: str) -> str:
    """The URL without its user and password, which go where MLflow looks for them and into no message, log or tag."""
    parts = urlsplit(url)
    if parts.username is not None:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _check_database(url: str) -> str:
    """The URL with the driver that we bring, after a first connection."""
    from sqlalchemy import NullPool, create_engine

    scheme, separator, rest = url.partition("://")
    if not separator or scheme.partition("+")[0] not in ("sqlite", "postgresql"):
        raise StoreError(f"--storage must be a postgresql:// or sqlite:/// URL, but got {without_password(url)!r}")
    if scheme.startswith("sqlite"):
        url = f"sqlite://{rest}"
    if scheme == "postgresql":
        url = f"postgresql+psycopg://{rest}"
    options = {"connect_timeout": int(SERVER_TIMEOUT)} if scheme.startswith("postgresql") else {}
    try:
        create_engine(url, poolclass=NullPool, connect_args=options).connect().close()
    except ImportError as error:
        raise StoreError(f"{without_password(url)} needs a driver: pip install 'latent-study[postgres]'") from error
    except Exception as error:  # SQLAlchemy's and the drivers' many classes
        raise StoreError(f"the database {without_password(url)} cannot be opened: {reason_of(error)}") from error
    return url
