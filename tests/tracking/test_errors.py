"""Servers that do not answer, disks that are full or read-only: one sentence each, and no password in it."""

import http.server
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import mlflow
import pytest
import requests
from conftest import no_hang
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import ErrorCode

from study.checks import UsageError
from study.cli import exit_code
from study.engine import engines
from study.engine.launcher import Launcher
from study.engine.search import Search, Trial, log_uniform, named
from study.engine.trials import run_search
from tracking.client import if_there
from tracking.errors import StoreError, store_errors, without_password
from tracking.runs import study_run
from tracking.store import Store, open_store


@pytest.fixture
def silent_server() -> Iterator[str]:
    """A server that takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def strange_server() -> Iterator[str]:
    """A web server that is no MLflow server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_never_answers_is_given_up(silent_server: str, tmp_path: Path) -> None:
    with no_hang(), pytest.raises(StoreError, match=r"does not answer: .*timed out"):
        open_store(tmp_path, silent_server)


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with no_hang(), pytest.raises(StoreError, match=r"does not answer: .*refused"):
        open_store(tmp_path, f"http://127.0.0.1:{port}")


def test_a_server_that_is_none_of_mlflows_is_told(strange_server: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        open_store(tmp_path, strange_server)


@pytest.mark.parametrize("address", ["http://localhost:abc", "http://exa mple:50", "http://[abc"])
def test_an_address_that_is_none_is_told(tmp_path: Path, address: str) -> None:
    with pytest.raises(StoreError, match=r"the tracking server .* does not answer: "):
        open_store(tmp_path, address)
    with pytest.raises(UsageError, match="--tracking-uri must be the http"):
        engines.check(Launcher(engine="slurm"), "http://[abc", "postgresql://db.example.org/optuna")


def test_a_server_of_another_protocol_is_told(tmp_path: Path) -> None:
    def greet(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=greet, args=(server,), daemon=True).start()
        with no_hang(), pytest.raises(StoreError, match="does not answer: "):
            open_store(tmp_path, f"http://127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://me:secret@host:5000/x", "http://me:***@host:5000/x"),
        ("postgresql://host/x?user=me&password=secret", "postgresql://host/x?user=me&password=***"),
        ("http://host:5000/x", "http://host:5000/x"),
    ],
)
def test_a_password_is_taken_out_of_a_text(url: str, shown: str) -> None:
    assert without_password(f"{url} is away") == f"{shown} is away"


@pytest.mark.parametrize(
    "arguments",
    [
        ("http://me:secret@127.0.0.1:9",),
        ("postgresql://me:secret@127.0.0.1:9/db",),
        (None, "postgresql://me:secret@127.0.0.1:9/db"),
        (None, "mysql://me:secret@127.0.0.1/db"),
    ],
)
def test_a_password_is_in_no_message(tmp_path: Path, arguments: tuple[str | None, ...]) -> None:
    with no_hang(), pytest.raises(StoreError) as caught:
        open_store(tmp_path, *arguments)
    assert "secret" not in str(caught.value)
    assert "me:***@" in str(caught.value)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def _fill(folder: Path) -> Path:
    """A file that takes up all there is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(folder).free == 0
    return ballast


def test_a_full_disk_is_told_and_the_store_opens_afterwards(
    small_disk: Path, empty_store: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = small_disk / "store"
    shutil.copytree(empty_store, folder)
    ballast: list[Path] = []

    def objective(trial: Trial) -> tuple[float, ...]:
        if not ballast:
            ballast.append(_fill(small_disk))
        for step in range(20):
            trial.run.log({f"metric/{number}": 0.0 for number in range(100)}, step)
        return (1.0,)

    def study() -> None:
        store = open_store(folder)
        search = Search({"loss": "minimize"}, {"x": log_uniform(1, 2)}, named([{"x": 1.5}]))
        about = {"title": "", "description": "", "tags": {}}
        with study_run(store, store.experiment("tiny/test"), "tiny/test/0", **about) as parent:
            assert len(run_search(search, objective, store, parent, name="tiny/test/0")) == 1

    assert exit_code(study) == 2
    assert "error: the store was lost: database or disk is full" in capsys.readouterr().err
    assert exit_code(study) == 2, "still full"
    ballast[0].unlink()
    assert exit_code(study) == 0, capsys.readouterr().err
    runs = mlflow.MlflowClient().search_runs([open_store(folder).experiment("tiny/test")])
    assert "RUNNING" not in [run.info.status for run in runs]


def test_a_full_disk_is_told_as_a_store_is_made(small_disk: Path) -> None:
    ballast = _fill(small_disk)
    with pytest.raises(StoreError, match=r"full|No space left"):
        open_store(small_disk / "store")
    ballast.unlink()
    open_store(small_disk / "store").experiment("mnist/judge")


def test_a_read_only_file_system_is_told(small_disk: Path, empty_store: Path) -> None:
    folder = small_disk / "store"
    shutil.copytree(empty_store, folder)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError, match="must be a writable folder: Read-only file system"):
        open_store(folder)
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    open_store(folder).experiment("mnist/judge")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:pa/ss@host/x", "http://user:***@host/x"),
        ("http://user:p@ss@host/x", "http://user:***@host/x"),
        ("postgresql+psycopg://me:s:e/c?r#et@h:1/d", "postgresql+psycopg://me:***@h:1/d"),
        ("https://TOKEN@host/x", "https://***@host/x"),
        ("postgresql://h/d?user=me&sslpassword=secret&x=1", "postgresql://h/d?user=me&sslpassword=***&x=1"),
        ("https://h/x?access_token=secret;y=2", "https://h/x?access_token=***;y=2"),
        ("postgresql://me@host/d", "postgresql://me@host/d"),
        ("sqlite:////tmp/a@b:c/x.db", "sqlite:////tmp/a@b:c/x.db"),
        ("see http://a:b@c and http://d:e@f", "see http://a:***@c and http://d:***@f"),
    ],
)
def test_no_secret_of_a_url_is_shown(text: str, shown: str) -> None:
    assert without_password(text) == shown


def test_an_address_with_a_slash_in_its_password_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not answer") as caught:
        open_store(tmp_path, "http://user:pa/ss@127.0.0.1:9")
    assert "pa/ss" not in str(caught.value)


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "UNAUTHENTICATED", "ENDPOINT_NOT_FOUND"])
def test_a_server_that_refuses_is_told(code: str) -> None:
    with pytest.raises(StoreError, match="the server refuses: not you"), store_errors():
        raise MlflowException("not you", error_code=ErrorCode.Value(code))
    with pytest.raises(MlflowException), store_errors():
        raise MlflowException("a fault of ours", error_code=ErrorCode.Value("INTERNAL_ERROR"))


@pytest.mark.parametrize(("status", "lost"), [(403, True), (500, True), (404, False), (None, True)])
def test_files_that_cannot_be_had_are_not_missing(store: Store, status: int | None, lost: bool) -> None:
    """They may lie elsewhere than what the server knows of them, which answers."""
    response = requests.Response()
    response.status_code = status or 0
    cause = requests.HTTPError("no", response=response) if status else requests.ConnectionError("no")
    with pytest.raises(StoreError, match="the store was lost: no") if lost else nullcontext(), if_there():
        raise MlflowException("wrapped") from cause
