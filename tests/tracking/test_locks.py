"""Locks on files and on a PostgreSQL server, and a server that refuses or shares its sessions."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from conftest import ROOT, no_hang
from servers import PASSWORD, PgBouncer, Postgres
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError

from tracking import locks as module
from tracking.errors import StoreError
from tracking.locks import Locks, check_database, sqlite_url

HOLDER = """
import sys
from tracking.locks import Locks
with Locks(sys.argv[1]).hold("name"), Locks(sys.argv[1]).alive("worker"):
    print("held", flush=True)
    sys.stdin.read()
"""
WRONG_DATABASES = [
    (lambda url: url.removesuffix("/study") + "/nowhere", 'database "nowhere" does not exist'),
    (lambda url: url.replace("s3cret", "wr0ng"), "password authentication failed"),
    (lambda url: url.replace("127.0.0.1", "127.0.0.2"), "refused"),
    (lambda url: url + "?nonsense=1", "nonsense"),
]


@pytest.fixture(params=["file", pytest.param("server", marks=pytest.mark.server)])
def locks(request: pytest.FixtureRequest, tmp_path: Path) -> Locks:
    if request.param == "file":
        return Locks(sqlite_url(tmp_path / "optuna.db"))
    return Locks(check_database(request.getfixturevalue("postgres").url, tmp_path / "mlflow.db"))


@contextmanager
def connected(locks: Locks) -> Iterator[Connection]:
    """A connection as the study's own."""
    engine = create_engine(locks.database, **locks.engine_options())
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def test_a_lock_is_held_by_one_process_and_let_go_as_it_dies(locks: Locks, monkeypatch, caplog) -> None:
    monkeypatch.setattr(module, "TELL_AFTER", 0.2)
    command = [sys.executable, "-c", HOLDER, locks.database]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as holder, caplog.at_level(logging.INFO, "study"), no_hang():
        assert holder.stdout.readline() == "held\n"
        with locks.hold("another name"):
            pass
        assert not locks.has_died("worker")
        assert locks.any_alive() == (not locks.on_server)
        threading.Timer(1, holder.kill).start()
        began = time.monotonic()
        with locks.hold("name"):
            assert time.monotonic() - began > 0.5
        assert locks.has_died("worker") == (not locks.on_server)
    assert not locks.any_alive()
    (told,) = [record.message for record in caplog.records]
    assert "waiting for another process that holds the lock name" in told


def test_an_error_lets_go_and_is_the_one_that_is_raised(locks: Locks) -> None:
    with pytest.raises(PermissionError, match="of the work"), locks.hold("name"):
        raise PermissionError("of the work")
    with no_hang(), locks.hold("name"):
        pass


@pytest.mark.server
def test_a_lock_whose_connection_the_server_drops_is_noticed(postgres: Postgres, tmp_path: Path) -> None:
    locks = Locks(check_database(postgres.url, tmp_path / "mlflow.db"))
    ours = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
    with (
        pytest.raises(StoreError, match="dropped the connection that held the lock name"),
        locks.hold("name"),
        psycopg.connect(postgres.url, autocommit=True) as other,
    ):
        other.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")
    with locks.hold("name"):
        pass


@pytest.mark.server
def test_work_waits_for_a_server_that_comes_back(postgres: Postgres, tmp_path: Path) -> None:
    locks = Locks(check_database(postgres.url, tmp_path / "mlflow.db"))
    postgres.stop()
    back = threading.Timer(2, postgres.start)
    back.start()
    with no_hang():
        with connected(locks) as connection:
            assert connection.scalar(text("SHOW timezone")) == "UTC"
        with locks.hold("name"):
            pass
    back.join()


@pytest.mark.server
@pytest.mark.parametrize(("change", "message"), WRONG_DATABASES)
def test_a_wrong_database_is_told_and_not_waited_for(postgres: Postgres, tmp_path: Path, change, message: str) -> None:
    with no_hang(), pytest.raises(StoreError, match=message) as told:
        check_database(change(postgres.url), tmp_path / "mlflow.db")
    assert not [word for word in ("cret", "wr0ng", "\n") if word in str(told.value)]
    if message.startswith(("database", "password")):  # a password that was changed while work is under way, say
        changed, began = change(check_database(postgres.url, tmp_path / "mlflow.db")), time.monotonic()
        with pytest.raises(OperationalError, match=message), connected(Locks(changed)):
            pass
        assert time.monotonic() - began < module.patience / 2


@pytest.mark.server
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_pooler_must_give_each_connection_a_session(postgres: Postgres, tmp_path: Path, mode: str) -> None:
    with PgBouncer(postgres, mode) as pooler:
        if mode == "session":
            locks = Locks(check_database(pooler.url, tmp_path / "mlflow.db"))
            with locks.hold("name"), connected(locks) as connection:
                assert connection.scalar(text("SHOW timezone")) == "UTC"
        else:
            with pytest.raises(StoreError, match="pool_mode = session") as told:
                check_database(pooler.url, tmp_path / "mlflow.db")
            assert PASSWORD not in str(told.value)
