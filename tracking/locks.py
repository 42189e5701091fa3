"""Locks that all processes of a study share: beside Optuna's SQLite file, or in its PostgreSQL server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from tracking.errors import StoreError
from tracking.servers import SERVER_TIMEOUT, sqlite_path, wait_for_server

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

LOCAL_TIMEOUT = 60.0  # seconds that a process waits for another's transaction in an SQLite file


@dataclass(frozen=True)
class Locks:
    """The locks of an Optuna database.

    Attributes:
        database: Its SQLAlchemy URL.
    """

    database: str

    @property
    def on_server(self) -> bool:
        """Whether the database is on a server, else it is an SQLite file."""
        return not self.database.startswith("sqlite")

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Held by one process at a time, whatever its machine; let go when its process dies.

        A file beside the SQLite database, or an advisory lock of the PostgreSQL server.
        """
        if not self.on_server:
            with _locked(self._file(name)):
                yield
            return
        connection = self._advisory_lock(name)
        try:
            yield
        finally:
            with suppress(Exception):  # A lost connection has let go already.
                connection.close()

    @contextmanager
    def alive(self, worker: str) -> Iterator[None]:
        """Held by a process while it works, so that others see at once when it has died (see `has_died`).

        Where the database is on a server there is none: after a restart of the server all would seem to have died.
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
        """Whether any process works on a search of the SQLite database."""
        folder = sqlite_path(self.database).with_name("locks")
        return any(not _is_free(each) for each in folder.glob("worker-*.lock"))

    def has_died(self, worker: str) -> bool:
        """Whether this process has let go of its lock. On a server only missing heartbeats show it: False."""
        return not self.on_server and _is_free(self._file(worker, "worker-"))

    def engine_options(self) -> dict[str, Any]:
        """How SQLAlchemy connects to the database."""
        if not self.on_server:
            return {"connect_args": {"timeout": LOCAL_TIMEOUT}}
        # Heartbeats of several machines are compared with each other.
        return {
            "connect_args": {"connect_timeout": int(SERVER_TIMEOUT), "options": "-c timezone=utc"},
            "pool_pre_ping": True,
        }

    def _file(self, name: str, prefix: str = "") -> Path:
        """The file beside the SQLite database that is locked by this name."""
        folder = sqlite_path(self.database).with_name("locks")
        folder.mkdir(exist_ok=True)
        return folder / f"{prefix}{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"

    def _advisory_lock(self, name: str) -> Connection:
        """A connection to the PostgreSQL database that holds the lock of this name until it is closed."""
        from sqlalchemy import text
        from sqlalchemy.exc import OperationalError

        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        while True:
            connection = self._engine.connect()
            try:
                # A server that hears nothing from a machine any more lets its locks go within 30 seconds.
                for setting in ("idle = 10", "interval = 5", "count = 3"):
                    connection.execute(text(f"SET tcp_keepalives_{setting}"))
                connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
                return connection
            except BaseException as error:
                with suppress(Exception):
                    connection.close()
                if not isinstance(error, OperationalError):  # else the server went away: connecting again waits for it
                    raise

    @cached_property
    def _engine(self) -> Engine:
        """Connections for locks: none is kept, since a lock lives as long as its connection."""
        from sqlalchemy import NullPool, create_engine

        options = self.engine_options() | {"poolclass": NullPool, "pool_pre_ping": False}
        engine = create_engine(self.database, isolation_level="AUTOCOMMIT", **options)
        wait_for_server(engine)
        return engine


@contextmanager
def _locked(file: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock of a file.

    Raises:
        Timeout: Another process has held it for so many seconds; a negative number waits for ever.
        StoreError: The file is another user's.
    """
    lock = FileLock(file, timeout=timeout)
    try:
        lock.acquire()
    except PermissionError as error:
        raise StoreError(
            f"this user must be able to write {file}, but it is another user's: use another store"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _is_free(lock: Path) -> bool:
    """Whether nobody holds this lock; its file is then removed."""
    try:
        with _locked(lock, timeout=0):
            lock.unlink(missing_ok=True)
    except Timeout:
        return False
    return True
