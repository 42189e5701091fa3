"""A study on a PostgreSQL database and an MLflow server, and what happens as they go away."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mlflow
import psycopg
import pytest
import searches
from conftest import Command
from searches import listed
from servers import PASSWORD, MlflowServer, Postgres, Server

from study.engine import queue
from study.engine.queue import Queue
from study.engine.runner import Objective
from study.engine.trial import Trial
from study.results import Result
from tracking import locks
from tracking.errors import StoreError
from tracking.store import Store, open_store

pytestmark = pytest.mark.server
GIVEN = [{"x": 0.5}, {"x": 50.0}]


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("server")) as server:
        yield server


def run(store: Store, objective: Objective, name: str) -> list[Result]:
    return searches.run(store, listed(objective, GIVEN), name=name)


def statuses(store: Store) -> list[str]:
    """Of all runs, the parent's first."""
    return [run.info.status for run in searches.trial_runs(store, "")]


def test_two_workers_share_both(postgres: Postgres, tracking: MlflowServer, command: Command, tmp_path: Path) -> None:
    places = ["--tracking-uri", tracking.url, "--storage", postgres.url, "--store", tmp_path / "s"]
    stages = ["--stages", "judge", "autoencoder", "--workers", 2]
    done = command("study.run", "smoke", "--data", "digits", *stages, *places)
    assert done.returncode == 0, done.stderr
    assert f"python -m study.ui --tracking-uri {tracking.url}\n" in done.stdout
    assert f"which opens {tracking.url}/#/experiments/1/runs?viewStateShareKey=trials&" in done.stdout
    assert not list((tmp_path / "s").glob("*.db")), "nothing is kept here"
    assert PASSWORD not in done.stdout + done.stderr
    open_store(tmp_path / "s", tracking.url, postgres.url)
    client = mlflow.MlflowClient()
    for stage, asked in (("judge", 3), ("autoencoder", 5)):
        experiment = client.get_experiment_by_name(f"digits/{stage}")
        assert [r.info.status for r in client.search_runs([experiment.experiment_id])] == ["FINISHED"] * (1 + asked)
        assert client.get_model_version_by_alias(f"digits-{stage}", "champion").version == "1"
    with psycopg.connect(postgres.url) as connection:
        query = "SELECT count(DISTINCT split_part(worker, ':', 2)) FROM study_trials"
        assert connection.execute(query).fetchone() == (2,)
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (name,) in names:
            assert PASSWORD not in str(connection.execute(f'SELECT * FROM "{name}"').fetchall())


@pytest.fixture
def store(postgres: Postgres, tracking: MlflowServer, tmp_path: Path) -> Store:
    return open_store(tmp_path, tracking.url, postgres.url)


@pytest.fixture(params=["tracking", "postgres"])
def server(request: pytest.FixtureRequest) -> Server:
    """The one that goes away."""
    return request.getfixturevalue(request.param)


def test_a_server_that_comes_back_is_waited_for(store: Store, server: Server) -> None:
    back: list[threading.Thread] = []

    def objective(trial: Trial) -> tuple[float, ...]:
        for epoch in range(1, 4):
            trial.report(epoch, {"loss": trial.params["x"]})
            if not back and epoch == 2:
                server.stop()
                back.append(threading.Timer(3, server.start))
                back[0].start()
        return (trial.params["x"],)

    before = len(statuses(store))
    results = run(store, objective, f"tiny/back/{server.port}")
    back[0].join()
    assert ([result.params for result in results], statuses(store)[before:]) == (GIVEN, ["FINISHED"] * 3)
    for result in results:
        history = mlflow.MlflowClient().get_metric_history(result.run_id, "loss")
        assert [(metric.step, metric.value) for metric in history] == [(n, result.params["x"]) for n in (1, 2, 3)]


def test_a_server_that_stays_away_is_told_and_the_trial_tried_again(store: Store, server: Server, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    for module, name, seconds in ((locks, "patience", 1.0), (queue, "HEARTBEAT", 1), (queue, "GRACE", 3)):
        monkeypatch.setattr(module, name, seconds)
    tried: list[dict] = []

    def objective(trial: Trial) -> tuple[float, ...]:
        tried.append(trial.params)
        if len(tried) == 2:
            server.stop()
        trial.report(1, {"loss": trial.params["x"]})
        return (trial.params["x"],)

    before = len(statuses(store))
    with pytest.raises(StoreError, match=r"the store was lost: .*127\.0\.0\.1.*refused") as told:
        run(store, objective, f"tiny/away/{server.port}")
    assert PASSWORD not in str(told.value)
    server.start()
    assert [result.params for result in run(store, objective, f"tiny/away/{server.port}")] == GIVEN
    assert [params["x"] for params in tried] == [0.5, 50.0, 50.0]
    parent, *trials = statuses(store)[before:]
    assert parent == "FINISHED"
    assert sorted(trials) in (["FINISHED", "FINISHED", "KILLED"], ["FAILED", "FINISHED", "FINISHED"])


def test_a_trial_that_was_silent_for_too_long_is_taken_over(store: Store, monkeypatch, caplog) -> None:
    """As a laptop that slept: its heart stood still while another process went on. It is told as it ends."""
    monkeypatch.setattr(queue, "GRACE", 1)
    monkeypatch.setattr(Queue, "heartbeat", lambda *_: nullcontext())
    ran: list[Any] = []

    def silent(trial: Trial) -> tuple[float, ...]:
        ran.append(trial.params)
        time.sleep(2.5)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(run, store, lambda other: (other.params["x"],), "tiny/silent").result()
        return (1.0,)

    before = len(statuses(store))
    results = run(store, silent, "tiny/silent")
    assert sorted(result.values for result in results) == [(0.5,), (50.0,)], "those of the other process"
    assert ran == GIVEN[:1]
    assert "another process has taken it over" in caplog.text
    assert sorted(statuses(store)[before:]) == ["FINISHED"] * 3 + ["KILLED"]
