"""Variables of the environment that name runs, experiments and models of others, and those that MLflow cannot read."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import Command

from tracking import runs
from tracking.environment import NAMES, check_environment, no_names
from tracking.errors import StoreError
from tracking.runs import study_run, trial_run
from tracking.store import Store

STUDY = "tiny/judge/0123"
KNOWN, JOB = "<a run that is there>", "SERVERLESS_GPU_COMPUTE_ASSOCIATED_JOB_RUN_ID"


def study(store: Store, trials: int = 1) -> tuple[Any, list[Any]]:
    """The parent and the trials of a small study, as the store has them afterwards."""

    def work() -> tuple[str, list[str]]:
        made = []
        about: dict[str, Any] = {"title": "smoke", "description": "What it is.", "tags": {}}
        with study_run(store, store.experiment("tiny/judge"), STUDY, **about) as parent:
            for number in range(trials):
                with trial_run(parent, f"trial {number}", {"x": number}, {}) as trial:
                    trial.log({"val/loss": number})
                    made.append(trial.run_id)
        return parent.run_id, made

    # MLflow reads some variables once a thread: a new one reads them now.
    with ThreadPoolExecutor(1) as pool:
        parent, made = pool.submit(work).result()
    client = mlflow.MlflowClient()
    return client.get_run(parent), [client.get_run(run_id) for run_id in made]


@pytest.fixture
def foreign(store: Store) -> str:
    """A finished run of somebody's."""
    client = mlflow.MlflowClient()
    run_id = client.create_run(client.create_experiment("theirs"), run_name="theirs").info.run_id
    client.log_metric(run_id, "val/loss", 0.5)
    client.set_terminated(run_id)
    return run_id


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_RUN_ID", "0" * 32),
        ("MLFLOW_RUN_ID", "no id"),
        ("MLFLOW_RUN_ID", KNOWN),
        ("MLFLOW_EXPERIMENT_ID", "4711"),
        ("MLFLOW_EXPERIMENT_NAME", "nobody's"),
        ("MLFLOW_ACTIVE_MODEL_ID", "m-0123"),
        ("_MLFLOW_ACTIVE_MODEL_ID", "m-0123"),
        ("MLFLOW_RUN_CONTEXT", '{"study": "theirs", "trial.study": "theirs", "mlflow.parentRunId": "0123"}'),
        ("MLFLOW_RUN_CONTEXT", "no JSON"),
        (JOB, "77"),
    ],
)
def test_no_name_in_the_environment_reaches_a_run(
    store: Store, foreign: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    value = foreign if value == KNOWN else value
    before = mlflow.MlflowClient().get_run(foreign).to_dictionary()
    monkeypatch.setenv(name, value)
    parent, trials = study(store, 2)
    assert parent.data.tags["study"] == STUDY
    assert "mlflow.parentRunId" not in parent.data.tags
    assert len({foreign, parent.info.run_id, *(trial.info.run_id for trial in trials)}) == 4
    for number, trial in enumerate(trials):
        assert trial.info.status == "FINISHED"
        assert trial.info.experiment_id == parent.info.experiment_id
        assert trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert trial.data.tags["trial.study"] == STUDY
        assert trial.data.metrics == {"val/loss": number}
    assert mlflow.MlflowClient().get_run(foreign).to_dictionary() == before
    assert os.environ[name] == value, "for what comes after the study"
    assert [each.name for each in mlflow.MlflowClient().search_experiments()] == ["tiny/judge", "theirs", "Default"]


def test_several_threads_hide_the_names_until_the_last_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "theirs")
    with no_names():
        with no_names():
            assert not set(NAMES) & os.environ.keys()
        assert "MLFLOW_RUN_ID" not in os.environ
    assert os.environ["MLFLOW_RUN_ID"] == "theirs"


def test_a_run_of_the_calling_program_is_no_parent(store: Store, foreign: str) -> None:
    about: dict[str, Any] = {"title": "smoke", "description": "", "tags": {}}
    with mlflow.start_run(experiment_id=store.experiment("caller")) as callers:
        with study_run(store, store.experiment("tiny/judge"), STUDY, **about) as parent:
            with trial_run(parent, "trial 0", {}, {}) as trial:
                pass
            active = mlflow.active_run()
            assert active is not None
            assert active.info.run_id == callers.info.run_id
        tags = mlflow.MlflowClient().get_run(trial.run_id).data.tags
        assert tags["mlflow.parentRunId"] == parent.run_id
    assert mlflow.MlflowClient().get_run(callers.info.run_id).data.params == {}


@pytest.mark.skipif(find_spec("psutil") is not None, reason="psutil is here")
def test_system_metrics_without_psutil_are_left_out_with_one_warning(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs._can_log_system.cache_clear()
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    with caplog.at_level(logging.WARNING, "study"):
        _, trials = study(store, 2)
    assert [trial.info.status for trial in trials] == ["FINISHED"] * 2
    assert [record.message for record in caplog.records if "psutil" in record.message] == [
        "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING does nothing without psutil: pip install psutil"
    ]


WRONG = [
    ("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "yes"),
    ("MLFLOW_ENABLE_ASYNC_LOGGING", "on"),
    ("MLFLOW_HTTP_REQUEST_TIMEOUT", "soon"),
    ("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE", ""),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_variable_that_mlflow_cannot_read_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    check_environment()
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=f"MLflow cannot use an environment variable: .*{name}.*{value}"):
        check_environment()


@pytest.mark.parametrize(
    ("name", "value"), [*WRONG[:1], ("MLFLOW_LOGGING_LEVEL", "loud"), ("MLFLOW_CONFIGURE_LOGGING", "no")]
)
@pytest.mark.parametrize("module", ["study.run", "study.sample", "study.report"])
def test_every_command_says_so_in_one_sentence(
    command: Command, tmp_path: Path, module: str, name: str, value: str
) -> None:
    done = command(module, "--store", tmp_path, "--data", "digits", env={name: value})
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("error: MLflow cannot use")
    assert value in sentence.lower()


def test_addresses_in_the_environment_do_not_count(command: Command, finished_empty: Path) -> None:
    elsewhere = dict.fromkeys(("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"), "http://127.0.0.1:9")
    done = command("study.report", "--store", finished_empty, env=elsewhere)
    assert done.stderr.splitlines()[-1] == "error: no study of any data set is in this store (it has: none)"


@pytest.fixture
def finished_empty(store: Store, tmp_path: Path) -> Path:
    return tmp_path / "store"
