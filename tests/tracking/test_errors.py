"""Servers that do not answer, disks that are full: one sentence each, and no password in it."""

import errno
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import requests
from conftest import no_hang
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from tracking.errors import StoreError, store_errors, without_password
from tracking.store import AT_ONCE, Store, open_store, read_artifact

BAD_ADDRESSES = [
    ("http://localhost:abc", None, "cannot be opened: ."),
    ("http://[abc", None, "cannot be opened: ."),
    ("http://me:se/cret@127.0.0.1:9", None, "127.0.0.1.* cannot be opened: .*refused"),
    ("postgresql://me:secret@127.0.0.1:9/db", None, "--tracking-uri must be the http.*127.0.0.1"),
    ("mlruns", None, "--tracking-uri must be the http"),
    (None, "sqlite://", "must name a file that all processes share"),
    (None, "sqlite:///:memory:", "must name a file that all processes share"),
    (None, "sqlite:///{store}/../store/mlflow.db", "must be another file than MLflow's"),
    (None, "sqlite:////no/folder/x.db", "cannot be opened"),
    (None, "postgresql://me:secret@127.0.0.1:9/db", "127.0.0.1.* cannot be opened: .*refused"),
    (None, "mysql://me:secret@127.0.0.1/d", "must be a postgresql:// or sqlite:/// URL.*127.0.0.1"),
    (None, "http://h:port/x", "must be a postgresql:// or sqlite:/// URL"),
]
SECRETS = [
    ("http://me:secret@host:5000/x is away", "http://me:***@host:5000/x is away"),
    ("http://user:pa/ss@host/x", "http://user:***@host/x"),
    ("http://user:p@ss@host/x", "http://user:***@host/x"),
    ("postgresql+psycopg://me:s:e/c?r#et@h:1/d", "postgresql+psycopg://me:***@h:1/d"),
    ("postgresql://host/x?user=me&password=secret", "postgresql://host/x?user=me&password=***"),
    ("https://TOKEN@host/x", "https://***@host/x"),
    ("https://h/x?access_token=secret;y=2", "https://h/x?access_token=***;y=2"),
    ("postgresql://me@host/d", "postgresql://me@host/d"),
    ("sqlite:////tmp/a@b:c/x.db", "sqlite:////tmp/a@b:c/x.db"),
]
FULL_DISKS = [
    OSError(errno.ENOSPC, "No space left on device"),
    sqlite3.OperationalError("database or disk is full"),
    FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/var/tmp']"),
]


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """A server that takes the connection, and says this; None: nothing."""

    def greet(server: socket.socket) -> None:
        with server.accept()[0] as connection:
            connection.sendall(answer or b"")

    with socket.create_server(("127.0.0.1", 0)) as server:
        if answer is not None:
            threading.Thread(target=greet, args=(server,), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(("answer", "message"), [(None, "timed out"), (b"SSH-2.0-OpenSSH_9.6\r\n", "127.0.0.1.*: .")])
def test_another_kind_of_server_is_given_up(tmp_path: Path, monkeypatch, answer: bytes | None, message: str) -> None:
    monkeypatch.setitem(AT_ONCE, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with answering(answer) as url, no_hang(), pytest.raises(StoreError, match=message):
        open_store(tmp_path, url)


@pytest.mark.parametrize(("address", "storage", "message"), BAD_ADDRESSES)
def test_bad_addresses_hide_passwords(tmp_path: Path, address: str | None, storage: str | None, message: str) -> None:
    with no_hang(), pytest.raises(StoreError, match=message) as caught:
        open_store(tmp_path / "store", address, storage and storage.format(store=tmp_path / "store"))
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(("text", "shown"), SECRETS)
def test_no_secret_of_a_url_is_shown(text: str, shown: str) -> None:
    assert without_password(text) == shown


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "UNAUTHENTICATED", "ENDPOINT_NOT_FOUND"])
def test_a_server_that_refuses_is_told(code: str) -> None:
    with pytest.raises(StoreError, match="the server refuses: not you"), store_errors():
        raise MlflowException("not you", error_code=ErrorCode.Value(code))
    with pytest.raises(MlflowException), store_errors():
        raise MlflowException("a fault of ours", error_code=ErrorCode.Value("INTERNAL_ERROR"))


@pytest.mark.parametrize("error", FULL_DISKS)
def test_a_disk_that_is_full_is_told(error: Exception) -> None:
    with pytest.raises(StoreError, match=r"the disk of /.* is full: "), store_errors():
        raise MlflowException("wrapped") from error


@pytest.mark.parametrize(("status", "lost"), [(403, True), (500, True), (404, False), (None, True)])
def test_a_file_that_is_not_given_is_not_missing(store: Store, monkeypatch, status: int | None, lost: bool) -> None:
    """It may lie elsewhere than what the server knows of it, which answers."""

    def fail(*_: object, **__: object) -> None:
        response = requests.Response()
        response.status_code = status or 0
        cause = requests.HTTPError("no", response=response) if status else requests.ConnectionError("no")
        raise MlflowException("wrapped") from cause

    monkeypatch.setattr("mlflow.artifacts.download_artifacts", fail)
    with pytest.raises(StoreError, match="the store was lost: no") if lost else nullcontext():
        assert read_artifact("mlflow-artifacts:/1/x") is None
