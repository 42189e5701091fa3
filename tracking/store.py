"""Where everything is kept: MLflow's database and artifacts, and the database that the study's processes share."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile, mkdtemp
from threading import RLock
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import mlflow.artifacts
import requests
from mlflow import MlflowClient
from mlflow import environment_variables as known
from mlflow.entities import ViewType

from tracking.errors import StoreError, causes, is_full, opened, root_of, store_errors, without_password
from tracking.locks import LOCAL_TIMEOUT, Locks, check_database, sqlite_url

NOISY = ("mlflow.store.db.utils", "mlflow.tracking", "alembic")
for _noisy in NOISY:
    logging.getLogger(_noisy).setLevel(logging.CRITICAL)  # What they say at length becomes one sentence.

EXPERIMENT = "study.experiment"  # the tag of an experiment of ours: the name that we gave it
FORMAT, NUMBER = "study.format", "1"  # the tag that says how its runs are kept
ABSOLUTE_PATHS = (
    *("experiments.artifact_location", "runs.artifact_uri", "logged_models.artifact_location"),
    *("model_versions.source", "model_versions.storage_location"),
)
"""Tables and columns of MLflow's database that hold paths."""
NOT_OURS = ("MLFLOW_ACTIVE_MODEL_ID", "_MLFLOW_ACTIVE_MODEL_ID", "MLFLOW_ENABLE_ASYNC_LOGGING")
"""Variables that would add our metrics to somebody's model, or log them later. MLflow's client reads no run's name."""
AT_ONCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Variables by which a server must answer within seconds as a store is opened."""
LENT, OTHERS = re.compile("_?MLFLOW_|OMP_NUM_THREADS$"), ("alembic", "mlflow", "optuna", *NOISY)
"""Variables of the environment that a study sets for itself, and loggers that it silences (see `lent`)."""
_turn = RLock()
CUT_SHORT = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
"""What SQLite says to a reader of a database whose last writer was killed in mid-commit."""


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
        """Return the id of the experiment that we made by this name, whatever its name is now; made if missing."""
        client = _client_on(self.tracking_uri)
        with self.locks.hold("experiments"):
            ours = client.search_experiments(ViewType.ALL, filter_string=f"tags.`{EXPERIMENT}` = '{name}'")
            for found in ours:
                if found.lifecycle_stage == "active":
                    return found.experiment_id
            wrong = "was deleted in MLflow: restore" if ours else "was not made by latent-study: rename"
            if ours or client.get_experiment_by_name(name) is not None:
                raise StoreError(f"the experiment {name!r} in this store {wrong} it, or use another --store")
            location = None if self.artifacts is None else f"{self.artifacts}/{name}"
            # The kind makes MLflow's page show training runs, not traces of language models.
            kind = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": description}
            return client.create_experiment(name, location, tags={EXPERIMENT: name, FORMAT: NUMBER, **kind})


def open_store(folder: Path, tracking_uri: str | None = None, storage: str | None = None) -> Store:
    """Open the local store in `folder`, made if missing, or a tracking server and a database in its place.

    What cannot be written, or does not answer, is a StoreError within seconds; later, work waits for a lost server.
    """
    check_environment()
    folder = folder.expanduser().absolute()
    if tracking_uri is None or storage is None:
        _check_folder(folder)
    database = folder / "mlflow.db"
    tracking_uri = tracking_uri and _without_credentials(tracking_uri)
    locks = Locks(check_database(storage, database) if storage else sqlite_url(folder / "optuna.db"))
    with locks.hold("opening"):  # of several processes, one makes the tables
        if tracking_uri is None:
            try:
                _make_database(database)
            except Exception as error:
                raise StoreError(f"{database} cannot be made: {root_of(error)}") from error
            _follow_move(folder, locks)
            opened.add(folder)
        return _connect(folder, tracking_uri or sqlite_url(database), locks.database)


def read_store(folder: Path, tracking_uri: str | None = None) -> Store:
    """Open a store for reading, and change nothing in it: it may be on a disk that cannot be written.

    What is read is a copy of the local folder's database, in which the paths of a store that was moved are corrected. A
    process has one copy of each folder. A StoreError says that there is no store, or why it cannot be read.
    """
    check_environment()
    folder = folder.expanduser().absolute()
    if tracking_uri is not None:
        return _connect(folder, _without_credentials(tracking_uri))
    database = folder / "mlflow.db"
    try:
        database.open("rb").close()
    except PermissionError as error:
        raise StoreError(f"the store {folder} must be readable by this user: {error.strerror}") from error
    except (OSError, ValueError) as error:  # the latter: a zero in the name
        raise StoreError(f"{folder} holds no store (no mlflow.db): run study.run first, or give its --store") from error
    try:
        copy = _temporary() / f"{hashlib.sha256(bytes(folder)).hexdigest()[:16]}.db"
        _copy(database, copy)
        _correct_paths(copy, folder, _roots(copy))
    except (sqlite3.Error, OSError) as error:
        if is_full(error):
            raise StoreError(f"the disk of temporary files is full: a copy of {database} must fit {copy}") from error
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise StoreError(f"{database} is locked by another process: wait for its end") from error
        raise StoreError(f"{database} must be an SQLite database: {error}") from error
    return _connect(folder, sqlite_url(copy), shown=str(database))


@contextmanager
def lent() -> Iterator[None]:
    """Use MLflow inside another program: its addresses, its variables and all loggers are as before at the end.

    They belong to the process, so one thread at a time does this: a StoreError says that another takes long.
    """
    if not _turn.acquire(timeout=LOCAL_TIMEOUT):
        raise StoreError("another thread of this process runs a study: read its store from another process, or wait")
    loggers = [*map(logging.getLogger, OTHERS), root := logging.getLogger(), study := logging.getLogger("study")]
    before = [(each, each.level, each.propagate, each.handlers[:]) for each in loggers]
    variables = {name: value for name, value in os.environ.items() if LENT.match(name)}
    address = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    registry = None if mlflow.get_registry_uri() == mlflow.get_tracking_uri() else mlflow.get_registry_uri()
    try:
        for name in OTHERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        study.propagate = bool(root.handlers)  # not to those that a package installs meanwhile
        with store_errors():
            yield
    finally:
        mlflow.set_tracking_uri(address)  # type: ignore[arg-type]
        mlflow.set_registry_uri(registry)  # type: ignore[arg-type]
        for name in filter(LENT.match, [*os.environ]):
            del os.environ[name]
        os.environ |= variables
        for logger, level, propagate, handlers in before:
            logger.setLevel(level)
            logger.propagate, logger.handlers[:] = propagate, handlers
        _turn.release()


def client() -> MlflowClient:
    """Return MLflow's client on the store that was opened last: one a process, since to make one takes long."""
    return _client_on(mlflow.get_tracking_uri())


def search(ask: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:
    """Yield what one of MLflow's searches finds, from all of its pages."""
    token = None
    while token != "":
        page = ask(*arguments, page_token=token, **options)
        yield from page
        token = page.token or ""


def experiments() -> list[Any]:
    """Return all experiments of ours, in the order in which they were made."""
    found = search(client().search_experiments, filter_string=f"tags.`{EXPERIMENT}` LIKE '%'")
    return sorted(found, key=lambda each: int(each.experiment_id))


def path_of(address: str) -> Path:
    """Return the path of a `file:` address."""
    return Path(url2pathname(urlsplit(address).path))


def read_artifact(address: str) -> bytes | None:
    """Return the content of an artifact; None if there is no such file: a server that is away is a StoreError."""
    if address.startswith("file:"):
        try:
            return path_of(address).read_bytes()
        except PermissionError as error:
            raise StoreError(f"{error.filename} must be readable by this user: {error.strerror}") from error
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
    with store_errors(), TemporaryDirectory() as folder:
        try:
            return Path(mlflow.artifacts.download_artifacts(address, dst_path=folder)).read_bytes()
        except (mlflow.MlflowException, OSError) as error:
            for cause in causes(error):  # files may lie elsewhere than what the server knows of them
                status = getattr(getattr(cause, "response", None), "status_code", 0)
                if is_full(cause) or (isinstance(cause, requests.RequestException) and status != 404):
                    raise
            client().search_experiments(max_results=1)
    return None


def served_as(store: Store, folder: Path) -> str:
    """Return what a server shows of a store opened for reading: its database if in place and writable, or a copy."""
    database = folder / "mlflow.db"
    writable = all(os.access(path, os.W_OK) for path in (folder, database))
    return sqlite_url(database) if writable and _roots(database) <= {store.artifacts} else store.tracking_uri


def check_environment() -> None:
    """Check that MLflow can read all of its variables, lest it fails in mid-trial; forget those that are not for us."""
    try:
        for each in vars(known).values():
            if isinstance(each, type(known.MLFLOW_RUN_ID)) and each.is_set():
                each.get()
    except ValueError as error:
        raise StoreError(f"MLflow cannot use an environment variable MLFLOW_...: {error}") from error
    for name in NOT_OURS:
        os.environ.pop(name, None)


def _without_credentials(url: str) -> str:
    """Return a server's address; user and password go where only MLflow looks for them."""
    scheme, _, rest = url.partition("://")
    if not rest or scheme.lower() not in ("http", "https"):
        rule = "--tracking-uri must be the http(s) address of an MLflow server (a folder is given by --store)"
        raise StoreError(f"{rule}, but got {without_password(url)!r}")
    credentials, _, rest = rest.rpartition("@")  # at the last @: a password may contain any character
    if credentials:
        user, _, password = credentials.partition(":")
        os.environ |= {"MLFLOW_TRACKING_USERNAME": unquote(user), "MLFLOW_TRACKING_PASSWORD": unquote(password)}
    return f"{scheme}://{rest}"


def _connect(folder: Path, tracking_uri: str, optuna_url: str = "", shown: str = "") -> Store:
    """Return the store with these databases, after MLflow's first answer; a copy of one is named as `shown`."""
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    shown, before = without_password(shown or tracking_uri), dict(os.environ)
    try:
        os.environ |= AT_ONCE
        found = experiments()
    except Exception as error:  # SQLAlchemy's and MLflow's many classes, all of which mean the same here
        reason = root_of(error)
        if reason.startswith("Detected out-of-date database schema"):  # it advises an upgrade that may be a downgrade
            found_version = reason.partition("(")[2].partition(",")[0]
            reason = f"another MLflow than {mlflow.__version__} made it ({found_version}): use that one, or a newer one"
        raise StoreError(f"{shown} cannot be opened: {reason}") from error
    finally:
        os.environ |= {name: before[name] for name in AT_ONCE}
    if any(each.tags.get(FORMAT) != NUMBER for each in found):
        raise StoreError(f"{shown} was made by an earlier version of latent-study: use another --store")
    artifacts = None if tracking_uri.startswith("http") else (folder / "artifacts").as_uri()
    return Store(tracking_uri, artifacts, optuna_url or sqlite_url(folder / "optuna.db"))


def _check_folder(folder: Path) -> None:
    """Check that the store's folder can be written, and that the databases in it are databases."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
        for database in filter(Path.exists, (folder / "mlflow.db", folder / "optuna.db")):
            with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
                connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        raise StoreError(f"{database} must be a writable SQLite database: {error}") from error
    except (OSError, ValueError) as error:  # the latter: a zero in the name
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"the store {str(folder)!r} must be a writable folder: {reason}") from error


def _make_database(path: Path) -> None:
    """Make MLflow's tables, all or none: a process that dies half way would leave a database that never opens."""
    if path.exists():
        return
    for abandoned in path.parent.glob("mlflow.db.new*"):
        abandoned.unlink()
    unfinished = path.with_name(f"mlflow.db.new-{time.time_ns()}")  # MLflow remembers files by name
    _client_on(sqlite_url(unfinished)).search_experiments(max_results=1)
    unfinished.rename(path)


def _follow_move(folder: Path, locks: Locks) -> None:
    """Write into MLflow's database where a store that was moved or copied lies now: it holds absolute paths."""
    artifacts = folder / "artifacts"
    artifacts.mkdir(exist_ok=True)
    roots = {root: path_of(root) for root in _roots(folder / "mlflow.db")}
    gone = {root for root, path in roots.items() if not (path.exists() and path.samefile(artifacts))}
    if gone and locks.any_alive():
        rule = "must be used by one path while a process works on it"
        raise StoreError(f"the store {folder} {rule}, but that process has {min(gone)}, which is not here")
    _correct_paths(folder / "mlflow.db", folder, gone)


def _roots(database: Path) -> set[str]:
    """Return the folders of artifacts, as `file:` addresses, that our experiments in this database name."""
    ours = "SELECT value, artifact_location FROM experiments JOIN experiment_tags USING (experiment_id) WHERE key = ?"
    found: list[tuple[str, str]] = []
    with closing(sqlite3.connect(database, timeout=LOCAL_TIMEOUT)) as connection, suppress(sqlite3.OperationalError):
        found = connection.execute(ours, (EXPERIMENT,)).fetchall()  # without tables: MLflow says what is wrong
    return {path.removesuffix(f"/{name}") for name, path in found if path.startswith("file:") and path.endswith(name)}


def _correct_paths(database: Path, folder: Path, roots: Collection[str]) -> None:
    """Put the folder's artifacts in the place of these roots, wherever the database names them."""
    now = (folder / "artifacts").as_uri()
    with closing(sqlite3.connect(database, timeout=LOCAL_TIMEOUT)) as connection, connection:
        for before in set(roots) - {now}:
            for table, column in (name.split(".") for name in ABSOLUTE_PATHS):
                change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                connection.execute(change, (now, len(before) + 1, len(before) + 1, f"{before}/"))


def _copy(database: Path, copy: Path) -> None:
    """Copy a database that may be in use; one whose last writer was killed in mid-commit with what undoes that."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=LOCAL_TIMEOUT)) as source:
            source.isolation_level = None
            source.execute("BEGIN")  # `backup` itself would wait for a locked database for ever
            source.execute("SELECT 1 FROM sqlite_master").fetchone()
            with closing(sqlite3.connect(copy)) as target:
                source.backup(target)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in CUT_SHORT:
            raise
        for file in database.parent.glob("mlflow.db*"):  # with the journal
            shutil.copy(file, copy.with_name(file.name.replace(database.name, copy.name)))


@cache
def _temporary() -> Path:
    """Return the folder for copies of databases, which is deleted as the process ends."""
    folder = mkdtemp(prefix="study-reading-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def _client_on(tracking_uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri, tracking_uri)
