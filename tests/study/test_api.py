"""`study.api`, beside what MLflow's own client finds in the same store, and inside another program that goes on."""

import asyncio
import logging
import os
import re
import signal
from math import isnan
from pathlib import Path
from threading import Thread
from typing import Any

import mlflow
import pytest
import torch
from cheap_stage import STAGE
from studies import TRIALS, Studies

from study import api
from study.engine import queue
from tracking.errors import StoreError
from tracking.store import lent


def test_tables_have_what_mlflow_has_and_reading_changes_nothing(studies: Studies, letters: Path) -> None:
    trials, models, client = studies.trials(), studies.client.search_registered_models(), studies.client
    before, there = (studies.store / "mlflow.db").read_bytes(), mlflow.get_tracking_uri()
    table = api.results(studies.store, letters)
    assert table["stage"].value_counts().to_dict() == TRIALS
    assert {*table["run_id"]} == trials.keys()
    for _, row in table.iterrows():
        run = trials[row["run_id"]]
        found = {name: {} for name in ("params", "metrics")}
        for name in (name for name in row.index if "." in name and row[name] == row[name]):
            found[name.partition(".")[0]][name.partition(".")[2]] = row[name]
        assert found["metrics"] == {name: value for name, value in run.data.metrics.items() if not isnan(value)}
        assert found["params"].keys() == run.data.params.keys()
        for name, text in run.data.params.items():
            assert found["params"][name] == (float(text) if re.fullmatch(r"[\d.e-]+", text) else text), "numbers"
        about = (run.data.tags["state"], int(run.data.tags["seed"]), run.data.tags.get("registered", row["registered"]))
        assert (row["status"], row["seed"], row["registered"]) == pytest.approx(about, nan_ok=True)
    only = api.results(studies.store, stage="judge")
    assert only["run_id"].tolist() == table[table["stage"] == "judge"]["run_id"].tolist()

    champions = api.champions(studies.store, letters)
    assert champions["name"].tolist() == sorted(model.name for model in models)
    for _, row in champions.iterrows():
        assert client.get_model_version_by_alias(row["name"], "champion").run_id == row["run_id"]
        assert row["value"] == trials[row["run_id"]].data.metrics[row["metric"]]
        assert isinstance(api.load_model(row["name"], store=studies.store), torch.nn.Module)
    assert api.champions(studies.store, "digits").empty
    assert ((studies.store / "mlflow.db").read_bytes(), mlflow.get_tracking_uri()) == (before, there)


def state() -> list[Any]:
    """What a calling program would miss."""
    ours = {name: value for name, value in os.environ.items() if name.startswith(("MLFLOW", "OMP"))}
    loggers = [(log.level, log.handlers[:], log.propagate) for log in map(logging.getLogger, (*api.NOISY, "", "study"))]
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    uris = (mlflow.get_tracking_uri(), mlflow.get_registry_uri())
    return [ours, loggers, handlers, uris, torch.get_rng_state().tolist(), torch.get_num_threads()]


def test_a_study_in_a_thread_beside_an_event_loop(fresh: Studies, tmp_path: Path, monkeypatch, capsys) -> None:
    for name in ("HEARTBEAT", "GRACE", "TRIES"):  # the stage sets them
        monkeypatch.setattr(queue, name, getattr(queue, name))
    given: dict[str, Any] = {"data": "digits", "store": fresh.store, "stages": ["cheap"], "own_stages": [STAGE]}
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mine.db'}")
    before = state()
    done = asyncio.run(asyncio.to_thread(api.run, "smoke", **given, cheap={"trials": 4, "pause": 0}))
    assert state() == before
    assert [(each.stage, list(each.made), each.rows[0].figure) for each in done.outcomes] == [
        ("cheap", ["cheap"], "loss")
    ]
    assert ("what was found" in str(done), Path(done.report).is_file()) == (True, True)
    table = api.results(fresh.store, "digits", "cheap")
    assert (len(table), {*table["status"]}, state()) == (4, {"complete"}, before)
    again = api.run("smoke", **given, cheap={"trials": 4, "pause": 0}, log_level="warning")
    assert api.results(fresh.store)["run_id"].tolist() == table["run_id"].tolist()
    assert again.outcomes[0].rows == done.outcomes[0].rows

    api.run("smoke", **given, cheap={"trials": 4, "pause": 0}, seed=1)
    monkeypatch.setattr("study.report.collect.all_stages", lambda: (STAGE,))
    assert api.compare(fresh.store, 0).values.tolist() == [["cheap", "loss", "0.500", "1.000", "-"]]


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda store: api.run("smok", store=store), "the preset must be one of smoke, demo, exercise, full"),
        (lambda store: api.run(store=store, sed=1), "run(): there is no setting --sed; did you mean --seed?"),
        (lambda store: api.run(store=store, judge={"epochs": 0}), "[judge] `1 <= epochs` must hold, but got 0"),
        (lambda store: api.run(store=store, detach=True), "`dry_run` and `detach` are of the command only"),
        (lambda store: api.run(store=store, own_stages=[STAGE], workers=2), "`workers` must be 1 with own_stages"),
        (lambda store: api.run(store=store, own_stages=[3]), "must be a study.engine.stage.Stage, but is a int"),
        (lambda store: api.run(store=store, data="/nowhere"), "'/nowhere' cannot be read"),
        (lambda store: api.run(store="/proc/x"), "must be a writable folder"),
        (lambda store: api.results("/nowhere"), "holds no store"),
        (lambda store: api.results(store, "mnist", "judge"), "no trial of mnist, judge is in the store"),
        (lambda store: api.compare(store, store), "no study of any data set is in this store"),
        (lambda store: api.champions("~nobody-of-this-name"), "`store` must be a path"),
        (lambda store: api.load_model("digits-judge", store=store), "no model is registered as digits-judge@champion"),
    ],
)
def test_a_mistake_is_an_exception_of_one_sentence(call: Any, rule: str, empty_store: Path) -> None:
    before = state()
    with pytest.raises((api.UsageError, api.StoreError), match=re.escape(rule)) as error:
        call(empty_store)
    assert ("\n" in str(error.value), state()) == (False, before)


def test_threads_take_turns(empty_store: Path, monkeypatch) -> None:
    monkeypatch.setattr("tracking.store.LOCAL_TIMEOUT", 0.1)
    said: list[str] = []

    def read() -> None:
        with pytest.raises(StoreError) as error:
            api.champions(empty_store)
        said.append(str(error.value))

    with lent():
        (thread := Thread(target=read)).start()
        thread.join()
    assert said[0].startswith("another thread of this process runs a study")
