"""kill -9 at random moments, then the same command: nothing is lost, doubled or left lying."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import sqlalchemy as sql
from cheap_stage import PARTS
from conftest import ROOT

from tracking.store import read_store

pytestmark = pytest.mark.slow
KILLS = 25
ASKED = {"given": 2, "search": 2, "side": 1}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The store after the kills, and what was done to it."""
    store = tmp_path_factory.mktemp("killed") / "store"
    program = [sys.executable, str(Path(__file__).with_name("kills.py")), str(store), str(KILLS), "0"]
    # A fork has none of its parent's threads: there must be none.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT}/tests"}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    read_store(store)
    return store, json.loads(done.stdout.splitlines()[-1])


def parts(store: Path) -> dict[str, list[Any]]:
    """The rows of the queue, by part."""
    found: dict[str, list[Any]] = defaultdict(list)
    with sql.create_engine(f"sqlite:///{store}/optuna.db").connect() as connection:
        for row in connection.execute(sql.text("SELECT * FROM study_trials ORDER BY id")):
            found[row.part].append(row)
    return found


def test_exactly_the_asked_trials_are_complete(killed: tuple[Path, dict[str, Any]]) -> None:
    store, facts = killed
    assert facts["kills"] + len(facts["died"]) >= KILLS
    assert facts["studies"] > 1
    found = parts(store)
    assert len(found) == len(ASKED) * 2 * facts["studies"]
    by_study: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, rows in found.items():
        study, _, part = name.rpartition("/")
        assert [row.state for row in rows] == ["complete"] * ASKED[part.partition("-")[0]]
        by_study[study] += [json.loads(row.params) for row in rows]
    for params in by_study.values():
        assert [params.count(given) for part in PARTS.values() for given in part] == [1] * 3


def test_every_run_has_ended_with_its_trial_s_outcome(killed: tuple[Path, dict[str, Any]]) -> None:
    store, facts = killed
    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=10_000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 2 * facts["studies"], "one parent a study"
    assert {run.info.status for run in parents} == {"FINISHED"}
    trials = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    finished = {run.info.run_id for run in trials if run.info.status == "FINISHED"}
    assert finished == {row.run_id for rows in parts(store).values() for row in rows}
    assert {run.info.status for run in trials} <= {"FINISHED", "KILLED"}


@pytest.mark.parametrize("kind", ["first", "second"])
def test_every_version_is_whole_and_the_best_is_the_champion(killed: tuple[Path, dict[str, Any]], kind: str) -> None:
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
