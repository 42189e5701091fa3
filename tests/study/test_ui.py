"""`python -m study.ui` as a user starts and stops it, and what it says of stores and servers that it cannot show."""

import shutil
import signal
import socket
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest
from commands import Call, addresses, shown
from servers import MlflowServer, free_port

from tracking import views
from tracking.runs import study_run
from tracking.store import Store, open_store

VIEW = views.View(("loss", "minimize"), ["loss"], [], [], {})


@pytest.fixture
def folder(store: Store, tmp_path: Path) -> Path:
    """A store with a study of two experiments, one of which has a view of its trials."""
    for name in ("tiny/first", "tiny/second"):
        with study_run(store, store.experiment(name), f"{name}/0", title="", description="", tags={}) as run:
            run.log_text("note.txt", "kept")
    views.save_view(store.experiment("tiny/first"), VIEW, "")
    return tmp_path / "store"


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return answer.read().decode()


@pytest.mark.server
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_shows_the_store_until_it_is_stopped(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    before = (folder / "mlflow.db").read_bytes()
    seen, browser = tmp_path / "seen", tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\nprintf %s \"$1\" > '{seen}'\n")
    browser.chmod(0o755)
    with shown(folder, BROWSER=f"{browser} %s") as (process, said):
        first = addresses(said)["tiny/first"]
        assert first.endswith("/runs?viewStateShareKey=trials&workflowType=machine_learning")
        assert "<html" in get(first)
        while not (seen.exists() and seen.read_text() == first):
            time.sleep(0.1)
        process.send_signal(number)
        rest, _ = process.communicate(timeout=60)
        if number != signal.SIGKILL:
            assert (process.returncode, rest.split()) == (0, ["ended"])
        with suppress(OSError):  # the server ends by itself with a command that is killed
            while get(first):
                time.sleep(0.2)
    assert (folder / "mlflow.db").read_bytes() == before, "to look changes nothing"


@pytest.mark.server
def test_a_moved_store_is_shown_from_a_copy_which_knows_where_its_files_are(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    before = (moved / "mlflow.db").read_bytes()
    with shown(moved, BROWSER="", DISPLAY="", WAYLAND_DISPLAY="") as (process, said):
        assert process.stdout.readline().startswith("no browser can be opened here")
        assert said.startswith("the store was moved or may not be written: this is a copy")
        server = addresses(said)["models"].partition("/#")[0]
        mlflow.set_tracking_uri(server)
        (run,) = mlflow.MlflowClient().search_runs(["1"])
        assert get(f"{server}/get-artifact?path=note.txt&run_uuid={run.info.run_id}") == "kept"
    assert (moved / "mlflow.db").read_bytes() == before


@pytest.mark.server
def test_of_a_server_the_addresses_are_its_own(tmp_path: Path, called: Call) -> None:
    server = MlflowServer(tmp_path)
    server.start()
    try:
        flags = ("--tracking-uri", server.url, "--no-open")
        assert called("ui", *flags) == (0, f"no study is in this store yet: {server.url}\n", "")
        views.save_view(open_store(tmp_path / "store", server.url).experiment("tiny/first"), VIEW, "")
        done = called("ui", *flags)
    finally:
        server.stop()
    assert addresses(done.out)["tiny/first"].startswith(f"{server.url}/#/experiments/1/runs?viewStateShareKey=trials")
    assert addresses(done.out)["models"].startswith(f"{server.url}/#/models")


def test_what_cannot_be_shown_is_refused_in_a_sentence(folder: Path, tmp_path: Path, called: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for sentence, flags in {
            f"--port must be free on 127.0.0.1, but got {port}": ("--store", folder, "--port", port),
            "holds no store": ("--store", tmp_path / "nothing"),
            "refused": ("--tracking-uri", f"http://127.0.0.1:{free_port()}"),
            "`1 <= port` must hold, but got 0": ("--port", 0),
        }.items():
            assert sentence in called("ui", *flags, "--no-open").error
    assert not (tmp_path / "nothing").exists()
