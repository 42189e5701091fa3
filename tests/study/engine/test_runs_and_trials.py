"""Two databases, one truth: a trial counts while its MLflow run stands in the store, and whoever works on it."""

import multiprocessing
import os
import time
from pathlib import Path

import mlflow
import optuna
import pytest
from searches import FIXED, NAME, Recorder, run, search, states

from study.engine.search import Trial
from tracking.store import Store, open_store


def delete(run_id: str) -> None:
    mlflow.MlflowClient().delete_run(run_id)


@pytest.mark.parametrize("slot", [1, 2], ids=["fixed", "free"])
def test_a_complete_trial_whose_run_was_deleted_is_run_again_with_its_parameters(store: Store, slot: int) -> None:
    first = run(store, search(free=2), lambda trial: (trial.params["x"],))
    delete(first[slot].run_id)
    objective = Recorder(lambda trial: -1.0)
    again = run(store, search(free=2), objective)
    assert objective.ran == [first[slot].params]
    assert again[-1].params == first[slot].params
    assert again[-1].values == (-1.0,)
    assert again[:-1] == [result for result in first if result != first[slot]], "the others stay"
    assert states(store) == [("FINISHED", "COMPLETE")] * 4
    nothing = Recorder()
    assert run(store, search(free=2), nothing) == again
    assert nothing.ran == []


def test_trials_stay_as_they_are_under_a_parent_that_was_made_again(store: Store) -> None:
    first = run(store, search(free=1), lambda trial: (trial.params["x"],))
    (parent,) = mlflow.MlflowClient().search_runs([store.experiment("tiny/test")], f"tags.study = '{NAME}'")
    delete(parent.info.run_id)
    nothing = Recorder()
    assert run(store, search(free=1), nothing) == first
    assert nothing.ran == []


def test_one_optuna_database_and_two_stores_are_each_complete(store: Store, tmp_path: Path) -> None:
    def reopen(folder: str) -> Store:
        return open_store(tmp_path / folder, storage=store.optuna_url)

    ours, theirs = Recorder(lambda trial: trial.params["x"]), Recorder(lambda trial: 7.0)
    first = run(store, search(free=2), ours)
    other = reopen("other")
    assert other.tracking_uri != store.tracking_uri
    second = run(other, search(free=2), theirs)
    assert theirs.ran == ours.ran, "with the same parameters"
    assert [result.values for result in second] == [(7.0,)] * 4
    assert states(other) == [("FINISHED", "COMPLETE")] * 4
    nothing = Recorder()
    assert run(reopen("store"), search(free=2), nothing) == first
    assert run(reopen("other"), search(free=2), nothing) == second
    assert nothing.ran == []


@pytest.mark.parametrize("notices", ["in a report", "at its end"])
def test_a_trial_whose_run_is_deleted_under_way_is_run_again(
    store: Store, notices: str, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[dict] = []

    def objective(trial: Trial) -> tuple[float, ...]:
        ran.append(trial.params)
        if len(ran) == 2:
            delete(trial.run.run_id)
        if notices == "in a report":
            trial.report(1, {"loss": 1.0})
        return (1.0,)

    results = run(store, search(free=1), objective)
    assert ran[:3] == [FIXED[0], FIXED[1], FIXED[1]]
    assert [result.params for result in results] == [ran[0], *ran[2:]]
    assert "trial 1 is run again, since its run was deleted in MLflow" in caplog.text
    assert states(store) == [("FINISHED", "COMPLETE")] * 3
    assert mlflow.active_run() is None


def _work(folder: Path, place: Path) -> None:
    def objective(trial: Trial) -> tuple[float, ...]:
        (place / str(os.getpid())).touch()
        while len(list(place.iterdir())) < 2:  # until the other has one too: neither gets all of them
            time.sleep(0.05)
        return (trial.params["x"],)

    results = run(open_store(folder), search(free=4), objective)
    assert len(results) == 6


def test_two_workers_share_the_trials_of_one_study(store: Store, tmp_path: Path) -> None:
    place = tmp_path / "workers"
    place.mkdir()
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_work, args=(tmp_path / "store", place)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    trials = optuna.load_study(study_name=NAME, storage=store.optuna_url).trials
    slots = [trial.user_attrs["slot"] for trial in trials]
    assert len(set(slots)) == len(slots) == 6, "each once"
    workers = {trial.user_attrs["worker"].split(":")[1] for trial in trials}
    assert workers == {path.name for path in place.iterdir()}
    assert states(store) == [("FINISHED", "COMPLETE")] * 6
    (parent,) = mlflow.MlflowClient().search_runs([store.experiment("tiny/test")], f"tags.study = '{NAME}'")
    assert parent.info.status == "FINISHED"
