"""Servers in place of the local folder: MLflow's tracking server, and the database of Optuna."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tracking.errors import StoreError, root_of, without_password

if TYPE_CHECKING:
    from sqlalchemy import Engine

SERVER_TIMEOUT = 5.0  # seconds within which a server must answer as the store is opened
patience = 60.0  # seconds that work under way waits for a database server to come back


def wait_for_server(engine: Engine) -> None:
    """Let new connections of this engine wait for a database server that does not answer."""
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


def stop_waiting() -> None:
    """From now on wait for no server that does not answer: the process is to stop."""
    global patience
    patience = 0.0
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "3"


def check_tracking_server(url: str) -> str:
    """The server's address without user and password, after a first answer.

    User and password go where MLflow looks for them, and into no message, log or tag.

    Raises:
        StoreError: It is no http(s) address, or nothing answers there.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise StoreError(
            f"--tracking-uri must be the http(s) address of an MLflow server, but got {without_password(url)!r}"
            " (for a local folder use --store)"
        )
    credentials, _, rest = rest.rpartition("@")  # at the last @: a password may contain any character
    address = f"{scheme}://{rest}"
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=SERVER_TIMEOUT):
            pass
    except urllib.error.HTTPError:
        pass  # It answers; whether it lets us in is for MLflow's own first call to say.
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error) or type(error).__name__
        raise StoreError(f"the tracking server {without_password(url)} does not answer: {reason}") from error
    if credentials:
        user, _, password = credentials.partition(":")
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(user)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
    return address


def check_database(url: str, mlflow_db: Path) -> str:
    """The URL with the driver that we bring, after a first connection.

    Args:
        mlflow_db: MLflow's own file, which cannot be Optuna's too.

    Raises:
        StoreError: It is no URL of PostgreSQL or SQLite, its driver is missing, or it cannot be opened.
    """
    from sqlalchemy import NullPool, create_engine, make_url
    from sqlalchemy.exc import ArgumentError

    rule = f"--storage must be a postgresql:// or sqlite:/// URL, but got {without_password(url)!r}"
    try:
        parts = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise StoreError(rule) from error
    backend = parts.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise StoreError(rule)
    options: dict[str, Any] = {}
    if backend == "sqlite":
        if not parts.database or parts.database == ":memory:" or parts.database.startswith("file:"):
            raise StoreError(f"--storage must name a file that all processes share, but got {without_password(url)!r}")
        file = Path(parts.database).expanduser().absolute()
        if file.resolve() == mlflow_db.resolve() or file.name == mlflow_db.name:
            raise StoreError(f"--storage must be another file than MLflow's, but got {file}")
        parts = make_url(sqlite_url(file))
    elif parts.drivername == "postgresql":
        parts = parts.set(drivername="postgresql+psycopg")
    if backend == "postgresql":
        options = {"connect_timeout": int(SERVER_TIMEOUT)}
    try:
        create_engine(parts, poolclass=NullPool, connect_args=options).connect().close()
    except ImportError as error:
        raise StoreError(f"{without_password(url)} needs a driver: pip install -e '.[postgres]'") from error
    except Exception as error:  # SQLAlchemy's and the drivers' many classes
        raise StoreError(f"the database {without_password(url)} cannot be opened: {root_of(error)}") from error
    return parts.render_as_string(hide_password=False)


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of an SQLite file, whatever characters its path has."""
    from sqlalchemy import URL

    url = URL.create("sqlite", database=str(path))
    plain = url.render_as_string() == f"sqlite:///{path}"
    # MLflow makes the folder of what follows sqlite:///, taken as it stands; not so where the driver is named.
    return (url if plain else url.set(drivername="sqlite+pysqlite")).render_as_string()


def sqlite_path(url: str) -> Path:
    """The file of such a URL."""
    from sqlalchemy import make_url

    return Path(make_url(url).database or "")
