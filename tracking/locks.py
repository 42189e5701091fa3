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
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tracking.errors import StoreError, root_of, without_password

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

LOCAL_TIMEOUT = 60.0  # seconds that a process waits for a transaction of another process in an SQLite file
SERVER_TIMEOUT = 5  # seconds within which a server must answer as the store is opened
TELL_AFTER = 10.0  # seconds of waiting for a lock
LOCK_TIMEOUT = "55P03"  # PostgreSQL's code
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

        The lock is a file beside the SQLite database, or an advisory lock of the PostgreSQL server.

        Raises:
            StoreError: The server dropped the connection that held the lock, so that another process may have had it.
        """
        if not self.on_server:
            with _locked(self._file(name), name=name):
                yield
            return
        connection, kept = self._advisory_lock(name), False
        try:
            yield
            with suppress(Exception):
                kept = bool(connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_key(name)})").scalar())
        finally:
            with suppress(Exception):
                connection.close()
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
            sessions = []
            for connection in (one, two, one):
                cursor = connection.cursor()
                cursor.execute("SELECT pg_backend_pid()")
                sessions.append(cursor.fetchone()[0])
                connection.commit()
        if sessions[0] == sessions[1] or sessions[0] != sessions[2]:
            raise ConnectionError(
                "a pooler gives several connections one session: set pool_mode = session in PgBouncer"
            )

    def _connect(self, wait: bool = True) -> Any:
        """Return a new connection of the database's driver to the PostgreSQL server."""
        from sqlalchemy import make_url

        dialect = make_url(self.database).get_dialect()()
        driver: Any = dialect.import_dbapi()
        _, options = dialect.create_connect_args(make_url(self.database))
        began = time.monotonic()
        while True:
            connection = None
            try:
                connection = driver.connect(**{"connect_timeout": SERVER_TIMEOUT, **options})
                connection.cursor().execute(SETTINGS)  # as options of the start, PgBouncer would refuse them
                connection.commit()
                return connection
            except driver.OperationalError as error:
                if connection is not None:
                    connection.close()
                if not wait or FOR_GOOD.search(str(error)) or time.monotonic() - began > patience:
                    raise
                time.sleep(1)

    def _file(self, name: str, prefix: str = "") -> Path:
        """Return the file beside the SQLite database that is locked by this name."""
        folder = sqlite_path(self.database).with_name("locks")
        folder.mkdir(exist_ok=True)
        return folder / f"{prefix}{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"

    def _advisory_lock(self, name: str) -> Connection:
        """Return a connection to the PostgreSQL database that holds the lock of this name until it is closed."""
        from sqlalchemy.exc import OperationalError

        timeout = int(1000 * TELL_AFTER)
        while True:
            connection = self._engine.connect()
            try:
                connection.exec_driver_sql(f"SET lock_timeout = {timeout}")
                connection.exec_driver_sql(f"SELECT pg_advisory_lock({_key(name)})")
                return connection
            except BaseException as error:
                with suppress(Exception):
                    connection.close()
                if not isinstance(error, OperationalError):
                    raise
                if getattr(error.orig, "sqlstate", "") == LOCK_TIMEOUT:
                    log.info("waiting for another process that holds the lock %s on the database server", name)
                    timeout = 0
                # Else the server went away: connecting again waits for it.

    @cached_property
    def _engine(self) -> Engine:
        """Connections for locks: none is kept, since a lock lives as long as its connection."""
        from sqlalchemy import NullPool, create_engine

        return create_engine(self.database, creator=self._connect, poolclass=NullPool, isolation_level="AUTOCOMMIT")


def stop_waiting() -> None:
    """From now on wait for no server that does not answer: the process is to stop."""
    global patience
    patience = 0.0
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}


def check_database(url: str, mlflow_db: Path) -> str:
    """Return the URL of a database with the driver that we bring, after a first connection.

    It must be PostgreSQL, or an SQLite file other than MLflow's own; a StoreError says what is wrong.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

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
    elif parts.drivername == "postgresql":
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
    from sqlalchemy import URL

    url = URL.create("sqlite", database=str(path))
    plain = url.render_as_string() == f"sqlite:///{path}"
    # MLflow makes the folder of what follows sqlite:///, taken as it stands; not so where the driver is named.
    return (url if plain else url.set(drivername="sqlite+pysqlite")).render_as_string()


def sqlite_path(url: str) -> Path:
    """Return the file of such a URL."""
    from sqlalchemy import make_url

    return Path(make_url(url).database or "")


def _key(name: str) -> int:
    """Return the number by which PostgreSQL knows the lock of this name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


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
