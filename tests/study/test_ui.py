"""`python -m study.ui` as a user starts and stops it, and what it says of stores and servers that it cannot show."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import pytest
from conftest import ROOT, Command, no_hang
from servers import MlflowServer, free_port

from study import ui
from tracking import views
from tracking.runs import study_run
from tracking.store import Store, open_store

VIEW = views.View(("loss", "minimize"), ["loss"], [], [], {})


@pytest.fixture
def folder(store: Store, tmp_path: Path) -> Path:
    """A store with a study of two experiments, one of which has a view of its trials."""
    about = {"title": "a study", "description": "", "tags": {}}
    for name in ("tiny/first", "tiny/second"):
        with study_run(store, store.experiment(name), f"{name}/0", **about) as run:
            run.log_text("note.txt", "kept")
    views.save_view(store.experiment("tiny/first"), VIEW, "")
    return tmp_path / "store"


class Shown:
    """The command under way: its process, and the lines that it has said so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.lines = process, list[str]()

    def read_until(self, end: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.strip().startswith(end):
                return
        raise AssertionError(f"it ended: {self.lines}")

    @property
    def addresses(self) -> dict[str, str]:
        return dict(line.split() for line in self.lines if line.startswith("  "))

    @property
    def group(self) -> set[str]:
        """The processes on this machine that serve its port."""
        port = self.addresses["models"].split(":")[2].split("/")[0]
        listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
        return {line for line in listed.splitlines() if "mlflow" in line and f"--port {port} " in line}


@contextmanager
def shown(store: Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[Shown]:
    command = [sys.executable, "-m", "study.ui", "--store", str(store), "--port", str(free_port()), *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)
    watchdog = threading.Timer(300, process.kill)
    watchdog.start()
    try:
        found = Shown(process)
        found.read_until("models")
        yield found
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return answer.read().decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_shows_the_store_until_it_is_stopped_and_leaves_no_process(folder: Path, number: signal.Signals) -> None:
    before = (folder / "mlflow.db").read_bytes()
    with shown(folder, "--no-open") as found:
        assert found.addresses["tiny/first"].endswith("/runs?viewStateShareKey=trials&workflowType=machine_learning")
        assert found.addresses["tiny/second"].endswith("/runs?workflowType=machine_learning")
        assert any("the next study.run saves it" in line for line in found.lines)
        assert "<html" in get(found.addresses["tiny/first"])
        assert len(found.group) >= 1
        found.process.send_signal(number)
        rest, _ = found.process.communicate(timeout=60)
        assert found.process.returncode == 0
        assert rest.split() == ["ended"]
        assert found.group == set()
        with pytest.raises(OSError, match="refused"):
            get(found.addresses["tiny/first"])
    assert (folder / "mlflow.db").read_bytes() == before, "to look changes nothing"


def test_the_server_ends_with_a_command_that_is_killed(folder: Path) -> None:
    with shown(folder, "--no-open") as found, no_hang():
        assert len(found.group) >= 1
        found.process.kill()
        found.process.communicate()
        while found.group:
            time.sleep(0.2)
        with pytest.raises(OSError, match="refused"):
            get(found.addresses["tiny/first"])


def test_the_first_view_is_opened_in_the_browser(folder: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\nprintf %s \"$1\" > '{seen}'\n")
    browser.chmod(0o755)
    with shown(folder, env={"BROWSER": f"{browser} %s"}) as found, no_hang():
        while not (seen.exists() and seen.read_text()):
            time.sleep(0.1)
        assert seen.read_text() == found.addresses["tiny/first"]


def test_without_a_screen_it_says_what_to_open(folder: Path) -> None:
    with shown(folder, env=dict.fromkeys(("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"), "")) as found:
        found.read_until("no browser can be opened here")


def test_a_moved_store_is_shown_from_a_copy_which_knows_where_its_files_are(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    before = (moved / "mlflow.db").read_bytes()
    with shown(moved, "--no-open") as found:
        assert found.lines[0].startswith("the store was moved or may not be written: this is a copy")
        server = found.addresses["models"].partition("/#")[0]
        mlflow.set_tracking_uri(server)
        (run,) = mlflow.MlflowClient().search_runs(["1"])
        assert get(f"{server}/get-artifact?path=note.txt&run_uuid={run.info.run_id}") == "kept"
    assert (moved / "mlflow.db").read_bytes() == before


def test_what_cannot_be_shown_is_refused_in_a_sentence(folder: Path, tmp_path: Path, command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        wrong = {
            f"--port must be a free one of 127.0.0.1, but got {port}": ("--store", folder, "--port", port),
            "`1 <= --port <= 65535` must hold, but got 0": ("--store", folder, "--port", 0),
            "holds no store": ("--store", tmp_path / "nothing"),
            "does not answer": ("--tracking-uri", f"http://127.0.0.1:{free_port()}"),
        }
        for sentence, flags in wrong.items():
            done = command("study.ui", *flags, "--no-open", timeout=120)
            assert done.returncode == 2
            assert sentence in done.stderr
            assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "nothing").exists()


def test_of_a_server_the_addresses_are_its_own(tmp_path: Path, command: Command) -> None:
    server = MlflowServer(tmp_path)
    server.start()
    try:
        empty = command("study.ui", "--tracking-uri", server.url, "--no-open")
        assert empty.stdout.strip() == f"no study is in this store yet: {server.url}"
        store = open_store(tmp_path / "store", server.url)
        views.save_view(store.experiment("tiny/first"), VIEW, "")
        done = command("study.ui", "--tracking-uri", server.url, "--no-open")
    finally:
        server.stop()
    assert done.returncode == 0
    assert f"{server.url}/#/experiments/1/runs?viewStateShareKey=trials" in done.stdout
    assert re.search(rf"models +{server.url}/#/models", done.stdout)


def test_a_server_that_is_too_old_for_views_gets_plain_addresses(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"2.22.5")

        def log_message(self, *_: object) -> None:
            pass

    open_store(folder)
    with HTTPServer(("127.0.0.1", 0), Old) as old:
        threading.Thread(target=old.serve_forever, daemon=True).start()
        ui.show(f"http://127.0.0.1:{old.server_port}", open_browser=False)
        old.shutdown()
    said = capsys.readouterr().out
    assert "cannot open saved views" in said
    assert "viewStateShareKey" not in said
    assert "#/experiments/1/runs?" in said
