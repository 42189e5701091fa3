import mlflow
import numpy as np
import pytest

from tracking.runs import Run, end_killed, settle, study_run, trial_metrics, trial_run
from tracking.store import Store


def status(run: Run) -> str:
    return mlflow.MlflowClient().get_run(run.run_id).info.status


def open_study(store: Store):
    return study_run(store, store.experiment("tiny/judge"), "tiny/judge/0123", "What it is.", {"dataset": "tiny"})


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
        with trial_run(again, "trial 0", {}, {}):
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


def test_the_runs_of_a_process_that_died_are_put_right(store: Store) -> None:
    with open_study(store) as parent:
        runs = {}
        for number in range(4):
            with trial_run(parent, f"trial {number}", {}, {"optuna.study": "a", "optuna.trial": number}) as trial:
                runs[number] = trial
        for number in (0, 1, 3):
            mlflow.MlflowClient().update_run(runs[number].run_id, status="RUNNING")
        end_killed(runs[0].run_id)
        assert [status(runs[number]) for number in range(4)] == ["KILLED", "RUNNING", "FINISHED", "RUNNING"]
        settle(parent, {"optuna.study": "a"}, {runs[1].run_id: "FINISHED"}, under_way={3})
        assert [status(runs[number]) for number in range(4)] == ["KILLED", "FINISHED", "FINISHED", "RUNNING"]
        settle(parent, {"optuna.study": "a"}, {runs[2].run_id: "KILLED"}, under_way=())
        assert [status(runs[number]) for number in range(4)] == ["KILLED", "FINISHED", "KILLED", "KILLED"]
        settle(parent, {"optuna.study": "b"}, {runs[1].run_id: "KILLED"}, under_way=())
        assert status(runs[1]) == "FINISHED", "another search's"


def test_a_parent_is_ended_only_if_no_other_process_works_under_it(store: Store) -> None:
    def stopped(other_works: bool) -> str:
        client = mlflow.MlflowClient()
        try:
            with open_study(store) as parent:
                other = client.create_run(parent.experiment_id, tags={"mlflow.parentRunId": parent.run_id})
                client.update_run(parent.run_id, status="RUNNING")
                if not other_works:
                    client.set_terminated(other.info.run_id, "KILLED")
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            found = status(parent)
        client.set_terminated(other.info.run_id, "KILLED")
        return found

    assert stopped(other_works=True) == "RUNNING"
    assert stopped(other_works=False) == "KILLED"
