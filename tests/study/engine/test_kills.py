"""kill -9 at random moments, then the same command: nothing is lost, doubled or left lying."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import mlflow
import numpy as np
import optuna
import pytest
from conftest import ROOT
from optuna.trial import FrozenTrial, TrialState

from tracking.store import read_store

KILLS = 25
FIXED = [{"n": 1, "x": 3.0}, {"n": 2, "x": 0.5}, {"n": 3, "x": 1.0}]
ASKED = {"trials": 4, "side": 1}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The store after the kills, and what was done to it."""
    store = tmp_path_factory.mktemp("killed") / "store"
    program = [sys.executable, str(Path(__file__).with_name("kills.py")), str(store), str(KILLS), "0"]
    # A fork has none of its parent's threads: there must be none.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    read_store(store)
    return store, json.loads(done.stdout.splitlines()[-1])


def searches(store: Path) -> dict[str, list[FrozenTrial]]:
    storage = f"sqlite:///{store}/optuna.db"
    names = optuna.get_all_study_names(storage)
    return {name: optuna.load_study(study_name=name, storage=storage).trials for name in names}


def complete(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state == TrialState.COMPLETE]


def test_there_were_kills_of_every_kind(killed: tuple[Path, dict]) -> None:
    _, facts = killed
    assert sum(facts["kills"].values()) + len(facts["died"]) >= KILLS
    assert facts["studies"] > 1
    print(facts)


def test_exactly_the_asked_number_of_trials_is_complete(killed: tuple[Path, dict]) -> None:
    store, facts = killed
    found = searches(store)
    assert len(found) == 2 * 2 * facts["studies"]
    for name, trials in found.items():
        part = name.rpartition("/")[2].partition("-")[0]
        assert len(complete(trials)) == ASKED[part]
        assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}


def test_no_parameter_set_is_lost_or_tried_twice(killed: tuple[Path, dict]) -> None:
    store, _ = killed
    by_study: dict[str, list[dict]] = defaultdict(list)
    for name, trials in searches(store).items():
        by_study["/".join(name.split("/")[:3])] += [trial.params for trial in complete(trials)]
        attempts: dict[str, list[FrozenTrial]] = defaultdict(list)
        for trial in trials:
            attempts[trial.user_attrs["slot"]].append(trial)
        for slot in attempts.values():
            (last,) = complete(slot)
            for trial in slot:
                assert trial.params.items() <= last.params.items(), "tried again with the same parameters"
    for params in by_study.values():
        assert [params.count(fixed) for fixed in FIXED] == [1] * len(FIXED)


def test_every_run_has_ended_with_its_trial_s_outcome(killed: tuple[Path, dict]) -> None:
    store, facts = killed
    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=10_000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 2 * facts["studies"], "one parent a study"
    assert {run.info.status for run in parents} == {"FINISHED"}
    trials = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    finished = {run.info.run_id for run in trials if run.info.status == "FINISHED"}
    assert finished == {t.user_attrs["mlflow.run_id"] for found in searches(store).values() for t in complete(found)}
    assert {run.info.status for run in trials} <= {"FINISHED", "KILLED"}


@pytest.mark.parametrize("kind", ["first", "second"])
def test_every_version_is_whole_and_the_best_is_the_champion(killed: tuple[Path, dict], kind: str) -> None:
    _, facts = killed
    client = mlflow.MlflowClient()
    versions = client.search_model_versions(f"name = 'digits-{kind}'")
    assert len({version.run_id for version in versions}) == len(versions) == facts["studies"]
    losses = {}
    for version in versions:
        model = mlflow.pyfunc.load_model(f"models:/digits-{kind}/{version.version}")
        assert model.predict(np.ones((3, 4), np.float32)).shape == (3, 2)
        losses[version.version] = client.get_run(version.run_id).data.metrics["loss"]
    champion = client.get_model_version_by_alias(f"digits-{kind}", "champion")
    assert losses[champion.version] == min(losses.values())
