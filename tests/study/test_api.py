"""`study.api`, beside what MLflow's own client finds in the same store, and inside another program that goes on."""

import asyncio
import logging
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pandas
import pytest
import torch
from cheap_stage import STAGE
from studies import TRIALS, Studies

from study import api
from study.engine import queue
from tracking.store import OTHERS, lent

MISTAKES = [
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
]


def test_tables_have_what_mlflow_has_and_reading_changes_nothing(studies: Studies, letters: Path) -> None:
    trials, client, before = studies.trials(), studies.client, (studies.store / "mlflow.db").read_bytes()
    table, there = api.results(studies.store, letters), mlflow.get_tracking_uri()
    assert (table["stage"].value_counts().to_dict(), {*table["run_id"]}) == (TRIALS, trials.keys())
    theirs = mlflow.search_runs(search_all_experiments=True).set_index("run_id").loc[table["run_id"]]
    named = {"status": "tags.state", "seed": "tags.seed", "registered": "tags.registered", "trial": "tags.trial.number"}
    for name in [*named, *(each for each in table if "." in each)]:
        wanted = theirs[named.get(name, name)]
        if table[name].dtype.kind in "if":
            assert table[name].tolist() == pytest.approx(pandas.to_numeric(wanted).tolist(), nan_ok=True), name
        else:
            assert table[name].fillna("").astype(str).tolist() == wanted.fillna("").tolist(), name
    assert table["params.learning_rate"].dtype.kind == "f"
    judges = table[table["stage"] == "judge"]
    assert api.results(studies.store, stage="judge")["run_id"].tolist() == judges["run_id"].tolist()
    champions = api.champions(studies.store, letters)
    assert champions["name"].tolist() == sorted(model.name for model in client.search_registered_models())
    for _, row in champions.iterrows():
        assert client.get_model_version_by_alias(row["name"], "champion").run_id == row["run_id"]
        assert row["value"] == trials[row["run_id"]].data.metrics[row["metric"]]
    assert isinstance(api.load_model("abcd-judge", store=studies.store), torch.nn.Module)
    assert api.champions(studies.store, "digits").empty
    assert ((studies.store / "mlflow.db").read_bytes(), mlflow.get_tracking_uri()) == (before, there)


def state() -> list[Any]:
    """What a calling program would miss."""
    ours = {name: value for name, value in os.environ.items() if name.startswith(("MLFLOW", "OMP"))}
    loggers = [(log.handlers[:], log.propagate) for log in map(logging.getLogger, ("", "study"))]
    loggers += [logging.getLogger(name).level for name in (*OTHERS, "", "study")]
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
    assert [(each.stage, [*each.made]) for each in done.outcomes] == [("cheap", ["cheap"])]
    assert ("what was found" in str(done), Path(done.report).is_file()) == (True, True)
    table = api.results(fresh.store, "digits", "cheap")
    assert (len(table), {*table["status"]}, state()) == (4, {"complete"}, before)
    again = api.run("smoke", **given, cheap={"trials": 4, "pause": 0}, log_level="warning")
    assert api.results(fresh.store)["run_id"].tolist() == table["run_id"].tolist()
    assert again.outcomes[0].rows == done.outcomes[0].rows
    api.run("smoke", **given, cheap={"trials": 4, "pause": 0}, seed=1)
    monkeypatch.setattr("study.report.collect.all_stages", lambda: (STAGE,))
    monkeypatch.setattr("tracking.store.LOCAL_TIMEOUT", 0.1)
    with lent(), ThreadPoolExecutor() as pool, pytest.raises(api.StoreError, match="another thread"):
        pool.submit(api.champions, fresh.store).result()
    assert api.compare(fresh.store, 0).values.tolist() == [["cheap", "loss", "0.500", "1.000", "-"]]


@pytest.mark.parametrize(("call", "rule"), MISTAKES)
def test_a_mistake_is_an_exception_of_one_sentence(call: Any, rule: str, empty_store: Path, monkeypatch) -> None:
    before = state()
    with pytest.raises((api.UsageError, api.StoreError), match=re.escape(rule)) as error:
        call(empty_store)
    assert ("\n" in str(error.value), state()) == (False, before)
