"""A local database that another process has locked is waited for, as long as the study's own."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from conftest import no_hang
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tracking import locks
from tracking.errors import StoreError
from tracking.store import Store, read_store


def test_mlflow_waits_as_long_as_optuna(store: Store) -> None:
    seen: list[str] = []

    @event.listens_for(Engine, "after_cursor_execute")
    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    try:
        mlflow.MlflowClient().search_experiments(max_results=1)
    finally:
        event.remove(Engine, "after_cursor_execute", note)
    assert {statement for statement in seen if "busy_timeout" in statement} == {
        f"PRAGMA busy_timeout = {int(1000 * locks.LOCAL_TIMEOUT)}"
    }


def test_a_database_that_is_locked_for_a_while_ends_nothing(store: Store, tmp_path: Path) -> None:
    """Longer than SQLite's own five seconds."""
    run = mlflow.MlflowClient().create_run(store.experiment("tiny/judge"))
    with closing(sqlite3.connect(tmp_path / "store" / "mlflow.db", check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        free = threading.Timer(7, other.rollback)
        free.start()
        mlflow.MlflowClient().log_metric(run.info.run_id, "loss", 1.0)
        free.join()
    assert mlflow.MlflowClient().get_run(run.info.run_id).data.metrics == {"loss": 1.0}


def test_a_database_that_stays_locked_is_told_to_who_only_reads(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracking.store.LOCAL_TIMEOUT", 0.5)
    with closing(sqlite3.connect(tmp_path / "store" / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with no_hang(), pytest.raises(StoreError, match=r"mlflow\.db is locked by another process"):
            read_store(tmp_path / "store")
        other.rollback()
    read_store(tmp_path / "store")
