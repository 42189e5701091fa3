"""Servers in place of the local folder: MLflow's tracking server, and the database of Optuna."""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from tracking.errors import StoreError, reason_of, without_password

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
    if urlsplit(url).scheme not in ("http", "https"):
        raise StoreError(
            f"--tracking-uri must be the http(s) address of an MLflow server, but got {without_password(url)!r}"
            " (for a local folder use --store)"
        )
    parts = urlsplit(url)
    address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=SERVER_TIMEOUT):
            pass
    except urllib.error.HTTPError:
        pass  # It answers; whether it lets us in is for MLflow's own first call to say.
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StoreError(f"the tracking server {without_password(url)} does not answer: {reason}") from error
    if parts.username is not None:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
    return address


def check_database(url: str) -> str:
    """The URL with the driver that we bring, after a first connection.

    Raises:
        StoreError: It is no URL of PostgreSQL or SQLite, its driver is missing, or it cannot be opened.
    """
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
