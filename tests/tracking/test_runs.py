import mlflow
import numpy as np
import pytest

from tracking.runs import Run, end_killed, study_run, trial_metrics, trial_run
from tracking.store import Store


def status(run: Run) -> str:
    return mlflow.MlflowClient().get_run(run.run_id).info.status


def open_study(store: Store):
    return study_run(store.experiment("tiny/judge"), "tiny/judge/0123", "What it is.", {"dataset": "tiny"})


@pytest.mark.parametrize(
    ("error", "expected"), [(None, "FINISHED"), (RuntimeError(), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_the_status_of_a_trial_is_true(store: Store, error: BaseException | None, expected: str) -> None:
    with open_study(store) as parent:
        try:
            with trial_run(parent, "trial 0", {"latent_dim": 3}, {}) as trial:
                assert status(trial) == "RUNNING"
                if error:
                    raise error
        except (RuntimeError, KeyboardInterrupt):
            pass
        assert status(trial) == expected
        assert status(parent) == "RUNNING"
    assert status(parent) == "FINISHED"


def test_the_same_study_finds_its_parent_run_again(store: Store) -> None:
    with open_study(store) as first:
        pass
    with open_study(store) as again:
        assert again == first
        assert status(again) == "RUNNING"
    assert status(first) == "FINISHED"


def test_trials_are_nested_with_their_last_metrics(store: Store) -> None:
    with open_study(store) as parent:
        with trial_run(parent, "trial 0", {"latent_dim": 3}, {"optuna.trial": 0}) as trial:
            trial.log({"val/loss": 2.0, "train/loss": 3.0}, step=1)
            trial.log({"val/loss": 1.0}, step=2)
            trial.log_image("samples", np.zeros((8, 8), np.uint8), step=2)
        assert trial_metrics(parent) == {trial.run_id: {"val/loss": 1.0, "train/loss": 3.0}}
    found = mlflow.MlflowClient().get_run(trial.run_id)
    assert found.data.tags["mlflow.parentRunId"] == parent.run_id
    assert found.data.params == {"latent_dim": "3"}
    history = mlflow.MlflowClient().get_metric_history(trial.run_id, "val/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 2.0), (2, 1.0)]
    assert [a.path for a in mlflow.MlflowClient().list_artifacts(trial.run_id)] == ["images"]


def test_a_run_whose_process_died_can_be_ended(store: Store) -> None:
    with open_study(store) as parent:
        lost = mlflow.MlflowClient().create_run(parent.experiment_id)
    end_killed(lost.info.run_id)
    assert mlflow.MlflowClient().get_run(lost.info.run_id).info.status == "KILLED"
