"""Locks that all processes of a study share, and how to reach its database: an SQLite file, or a PostgreSQL server."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from tracking.errors import StoreError, root_of, without_password

LOCAL_TIMEOUT = 60.0  # seconds that a process waits for a transaction of another process in an SQLite file
SERVER_TIMEOUT = 5  # seconds within which a database server must take a connection
TELL_AFTER = 10.0  # seconds of waiting for a lock
FOR_GOOD = re.compile("FATAL.*(password|pg_hba|does not exist|no such|startup parameter|not permitted|not supported)")
"""What a server says that refuses a connection, and will refuse it again."""
# Heartbeats of several machines are compared. A server lets go of the locks of a lost machine within 30 seconds.
SETTINGS = (
    "SET timezone = 'UTC'; SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"
)
patience = 60.0  # seconds that work under way waits for a database server to come back
log = logging.getLogger("study")


@dataclass(frozen=True)
class Locks:
    """The locks of the database, by its SQLAlchemy URL, that the processes of a study share."""

    database: str

    @property
    def on_server(self) -> bool:
        """Whether the database is on a server, else it is an SQLite file."""
        return not self.database.startswith("sqlite")

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Hold the lock of this name, which one process at a time has, on whatever machine; a dead one lets go of it.

        It is a file beside the SQLite database, or an advisory lock of the PostgreSQL server, where it is a StoreError
        that the server dropped the connection meanwhile: another process may have had the lock too.
        """
        if not self.on_server:
            with _locked(self._file(name), name=name):
                yield
            return
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        kept = False
        with closing(self._advisory_lock(key, name)) as connection:
            yield
            with suppress(Exception):
                kept = connection.execute(f"SELECT pg_advisory_unlock({key})").fetchone()[0]
        if not kept:
            raise StoreError(f"the database server dropped the connection that held the lock {name}: run this again")

    @contextmanager
    def alive(self, worker: str) -> Iterator[None]:
        """Show other processes that this worker is alive (see `has_died`).

        Does nothing where the database is on a server: after a restart of the server all workers would seem dead.
        """
        if self.on_server:
            yield
            return
        file = self._file(worker, "worker-")
        for each in file.parent.glob("worker-*.lock"):
            _is_free(each)  # of processes that died
        with _locked(file):
            yield
            file.unlink(missing_ok=True)

    def any_alive(self) -> bool:
        """Return whether any worker is alive; False where the database is on a server."""
        folder = sqlite_path(self.database).with_name("locks")
        return not self.on_server and any(not _is_free(each) for each in folder.glob("worker-*.lock"))

    def has_died(self, worker: str) -> bool:
        """Return whether this worker has died; False on a server, where only missing heartbeats show it."""
        return not self.on_server and _is_free(self._file(worker, "worker-"))

    def engine_options(self) -> dict[str, Any]:
        """Return how SQLAlchemy connects to the database; new connections wait for a server that is away."""
        if not self.on_server:
            return {"connect_args": {"timeout": LOCAL_TIMEOUT}}
        return {"creator": self._connect, "pool_pre_ping": True}

    def check(self) -> None:
        """Check that the database can be opened, and on a server that each connection is a session, with its locks."""
        if not self.on_server:
            sqlite3.connect(sqlite_path(self.database)).close()
            return
        with closing(self._connect(wait=False)) as one, closing(self._connect(wait=False)) as two:
            one.autocommit = two.autocommit = True
            pids = [each.execute("SELECT pg_backend_pid()").fetchone() for each in (one, two, one)]
        if pids[0] == pids[1] or pids[0] != pids[2]:
            raise ConnectionError(
                "a pooler gives several connections one session: set pool_mode = session in PgBouncer"
            )

    def _connect(self, wait: bool = True) -> Any:
        """Return a new connection of psycopg's to the PostgreSQL server."""
        import psycopg

        address, began = self.database.replace("+psycopg", "", 1), time.monotonic()
        while True:
            try:
                connection = psycopg.connect(address, connect_timeout=SERVER_TIMEOUT)
                try:
                    with connection.transaction():
                        connection.execute(SETTINGS)  # as options of the start, PgBouncer would refuse them
                except BaseException:
                    connection.close()
                    raise
                return connection
            except psycopg.OperationalError as error:
                if not wait or FOR_GOOD.search(str(error)) or time.monotonic() - began > patience:
                    raise
                time.sleep(1)

    def _file(self, name: str, prefix: str = "") -> Path:
        """Return the file beside the SQLite database that is locked by this name."""
        folder = sqlite_path(self.database).with_name("locks")
        folder.mkdir(exist_ok=True)
        return folder / f"{prefix}{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"

    def _advisory_lock(self, key: int, name: str) -> Any:
        """Return a connection to the PostgreSQL server that holds the lock until it is closed."""
        import psycopg

        timeout = int(1000 * TELL_AFTER)
        while True:
            connection = self._connect()
            try:
                connection.autocommit = True
                connection.execute(f"SET lock_timeout = {timeout}")
                connection.execute(f"SELECT pg_advisory_lock({key})")
                return connection
            except BaseException as error:
                connection.close()
                if isinstance(error, psycopg.errors.LockNotAvailable):
                    log.info("waiting for another process that holds the lock %s on the database server", name)
                    timeout = 0
                elif not isinstance(error, psycopg.OperationalError):  # else connecting again waits for the server
                    raise


def stop_waiting() -> None:
    """From now on wait for no server that does not answer: the process is to stop."""
    global patience
    patience = 0.0
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}


def check_database(url: str, mlflow_db: Path) -> str:
    """Return the URL of a database with the driver that we bring, after a first connection.

    It must be PostgreSQL, or an SQLite file other than MLflow's own; a StoreError says what is wrong.
    """
    shown = without_password(url)
    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        parts = make_url("none://")
    if parts.get_backend_name() == "sqlite":
        if not parts.database or parts.database == ":memory:" or parts.database.startswith("file:"):
            raise StoreError(f"--storage must name a file that all processes share, but got {shown!r}")
        file = Path(parts.database).expanduser().absolute()
        if file.resolve() == mlflow_db.resolve() or file.name == mlflow_db.name:
            raise StoreError(f"--storage must be another file than MLflow's, but got {file}")
        parts = make_url(sqlite_url(file))
    elif parts.get_backend_name() != "postgresql":
        raise StoreError(f"--storage must be a postgresql:// or sqlite:/// URL, but got {shown!r}")
    else:
        parts = parts.set(drivername="postgresql+psycopg")
    locks = Locks(parts.render_as_string(hide_password=False))
    try:
        locks.check()
    except ImportError as error:
        raise StoreError(f"{shown} needs a driver: pip install -e '.[postgres]'") from error
    except Exception as error:  # SQLAlchemy's and the drivers' many classes
        raise StoreError(f"the database {shown} cannot be opened: {root_of(error)}") from error
    return locks.database


def sqlite_url(path: Path) -> str:
    """Return the SQLAlchemy URL of an SQLite file, whatever characters its path has."""
    # Without the driver's name, MLflow would make the folder of what follows sqlite:///, taken as it stands.
    return URL.create("sqlite+pysqlite", database=str(path)).render_as_string()


def sqlite_path(url: str) -> Path:
    """Return the file of such a URL."""
    return Path(make_url(url).database or "")


@contextmanager
def _locked(file: Path, name: str = "") -> Iterator[None]:
    """Hold the lock of a file; after a while, say that this waits for the lock of this name."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=TELL_AFTER)
    except Timeout:
        log.info("waiting for another process that holds the lock %s (%s)", name, file)
        lock.acquire()
    except PermissionError as error:
        raise StoreError(f"this user must be able to write {file}, but it is another user's") from error
    try:
        yield
    finally:
        lock.release()


def _is_free(file: Path) -> bool:
    """Return whether nobody holds the lock of this file, which is then removed."""
    try:
        with FileLock(file, timeout=0):
            file.unlink(missing_ok=True)
    except Timeout:
        return False
    return True
