"""Runs: true statuses, one parent a study, and nothing of the environment in them."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from io import BytesIO
from typing import Any

import mlflow
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tracking.errors import StoreError
from tracking.runs import Run, end, is_deleted, metric_history, parents, runs_of, study_run, trial_run
from tracking.store import Store, check_environment

STUDY = "tiny/judge/0123"


def info(run: Run) -> Any:
    return mlflow.MlflowClient().get_run(run.run_id).info


def status(run: Run) -> str:
    return info(run).status


def tags(run: Run) -> dict[str, str]:
    return mlflow.MlflowClient().get_run(run.run_id).data.tags


def open_study(store: Store, description: str = "What it is.", dataset: str = "tiny") -> AbstractContextManager[Run]:
    about = {"description": description, "tags": {"dataset": dataset}}
    return study_run(store, store.experiment("tiny/judge"), STUDY, title="smoke, seed 0", **about)


def test_the_same_study_finds_its_parent_run_again_as_a_user_has_edited_it(store: Store) -> None:
    with open_study(store) as run:
        assert info(run).run_name == "smoke, seed 0"
    client, ended = mlflow.MlflowClient(), info(run).end_time
    client.update_run(run.run_id, name="my best study")
    edited = {"mlflow.note.content": "For the talk.", "dataset": "digits, mine", "mine": "yes"}
    for name, value in edited.items():
        client.set_tag(run.run_id, name, value)
    with open_study(store):
        pass
    assert (status(run), info(run).end_time) == ("FINISHED", ended), "nothing ran in it: it keeps its end"
    with open_study(store, "Another text.", "other") as again, trial_run(again, "trial 0"):
        assert status(again) == "RUNNING"
    assert (again, status(run)) == (run, "FINISHED")
    assert info(run).end_time > ended
    assert (info(run).run_name, tags(run)) == ("my best study", tags(run) | edited)


def test_a_parent_that_was_deleted_is_made_again_with_its_trials_under_it(store: Store) -> None:
    with open_study(store) as first:
        for number in range(2):
            with trial_run(first, f"trial {number}", {}, {"trial.part": "a"}):
                pass
        trials = {run.run_id for run in runs_of(first, "a")}
        assert (len(trials), runs_of(first, "b")) == (2, [])
        mlflow.MlflowClient().delete_run(first.run_id)
        with pytest.raises(StoreError, match="was deleted in MLflow while it was under way: the same command"):
            trial_run(first, "trial").__enter__()
    with open_study(store) as second, trial_run(second, "trial 2", {}, {"trial.part": "a"}) as third:
        assert {run.run_id for run in runs_of(second, "a")} == trials | {third.run_id}
    assert second.run_id != first.run_id
    found = [mlflow.MlflowClient().get_run(run).data.tags["mlflow.parentRunId"] for run in (*trials, third.run_id)]
    assert found == [second.run_id] * 3
    with open_study(store) as again:
        assert again == second


def test_a_deleted_run_is_known_and_left_alone(store: Store) -> None:
    with open_study(store) as parent, trial_run(parent, "trial 0", {}, {"trial.part": "a"}) as trial:
        assert not is_deleted(trial.run_id)
        mlflow.MlflowClient().delete_run(trial.run_id)
        assert is_deleted(trial.run_id)
        assert runs_of(parent) == []
        end(trial.run_id)
        mlflow.MlflowClient().restore_run(trial.run_id)
        end(trial.run_id)
        assert status(trial) == "KILLED"
    assert is_deleted("0" * 32), "gone for good, or in another store"
    end("0" * 32)


def test_a_parent_is_ended_only_if_no_other_process_works_under_it(store: Store) -> None:
    def stopped(other_works: bool) -> str:
        client = mlflow.MlflowClient()
        with suppress(KeyboardInterrupt), open_study(store) as parent:
            other = client.create_run(parent.experiment_id, tags={"trial.study": parent.study})
            client.update_run(parent.run_id, status="RUNNING")
            if not other_works:
                client.set_terminated(other.info.run_id, "KILLED")
            raise KeyboardInterrupt
        found = status(parent)
        client.set_terminated(other.info.run_id, "KILLED")
        return found

    assert (stopped(other_works=True), stopped(other_works=False)) == ("RUNNING", "KILLED")


VARIABLES = {
    "MLFLOW_EXPERIMENT_NAME": "nobody's",
    "_MLFLOW_ACTIVE_MODEL_ID": "m-0123",
    "MLFLOW_RUN_CONTEXT": '{"study": "theirs", "trial.study": "theirs", "mlflow.parentRunId": "0123"}',
    "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    "SERVERLESS_GPU_COMPUTE_ASSOCIATED_JOB_RUN_ID": "77",
}


def test_neither_the_environment_nor_a_run_of_the_calling_program_reaches_a_run(store: Store, monkeypatch) -> None:
    client = mlflow.MlflowClient()
    foreign = client.create_run(client.create_experiment("theirs")).info.run_id
    before = client.get_run(foreign).to_dictionary()
    for name, value in {**VARIABLES, "MLFLOW_RUN_ID": foreign, "MLFLOW_EXPERIMENT_ID": "4711"}.items():
        monkeypatch.setenv(name, value)
    check_environment()

    def work() -> tuple[Run, Run]:
        with open_study(store) as parent, trial_run(parent, "trial 0", {"x": 1}) as trial:
            trial.log({"val/loss": 2.0})
            assert [run.metrics for run in runs_of(parent)] == [{"val/loss": 2.0}], "at once"
        return parent, trial

    def check(parent: Run, trial: Run) -> None:
        assert (status(parent), status(trial)) == ("FINISHED", "FINISHED")
        assert (tags(parent)["study"], tags(trial)["trial.study"]) == (STUDY, STUDY)
        assert (tags(parent).get("mlflow.parentRunId"), tags(trial)["mlflow.parentRunId"]) == (None, parent.run_id)
        assert info(trial).experiment_id == parent.experiment_id

    with ThreadPoolExecutor(1) as pool:  # MLflow reads some variables once a thread
        check(*pool.submit(work).result())
    assert client.get_run(foreign).to_dictionary() == before
    monkeypatch.undo()
    client.delete_run(runs_of(parents("tiny/judge")[0])[0].run_id)
    with mlflow.start_run(experiment_id=store.experiment("caller")) as callers:
        check(*work())
        assert mlflow.active_run().info.run_id == callers.info.run_id
    assert client.get_run(callers.info.run_id).data.params == {}


def test_what_studies_have_left_is_read(store: Store) -> None:
    with open_study(store) as parent, trial_run(parent, "trial 0", {"x": 1, "none": None}, {"mine": "yes"}) as trial:
        trial.log({"val/loss": 3.0, "train/loss": 3.0}, step=1)
        trial.log({"val/loss": 2.0}, step=2)
        trial.log_image("samples", np.zeros((8, 8), np.uint8), step=2)
        trial.log_table("numbers", {"a": ["1", "2"], "b, c": ["x", "y"]})
        trial.log_figure("one", Figure(label="A title"), "What it \udcff shows.")
        assert trial.read_json("outcome") is None
        trial.log_json("outcome", {"rows": [1, "ä"]})
        assert trial.read_json("outcome") == {"rows": [1, "ä"]}
        mlflow.MlflowClient().log_text(trial.run_id, '{"rows": [1, ', "outcome.json")
        assert trial.read_json("outcome") is None, "its writing was cut short"
    (found,) = parents("tiny/judge")
    about = found.run_id, found.study, found.status, found.description
    assert about == (parent.run_id, STUDY, "FINISHED", "What it is.")
    (record,) = runs_of(found)
    assert (record.name, record.params) == ("trial 0", {"x": "1"})
    assert record.metrics == {"val/loss": 2.0, "train/loss": 3.0}
    assert metric_history(trial.run_id, "val/loss") == ([1, 2], [3.0, 2.0])
    assert (record.tags["mlflow.parentRunId"], record.started <= record.ended) == (parent.run_id, True)
    assert record.files("tables", ".csv") == ["tables/numbers.csv"]
    assert record.read("tables/numbers.csv").decode().split() == ['a,"b,', 'c"', "1,x", "2,y"]
    texts = Image.open(BytesIO(record.read("figures/one.png"))).text
    assert (texts["Title"], texts["Description"]) == ("A title", "What it ? shows.")
    with pytest.raises(StoreError, match=r"none\.png of run .* is missing"):
        record.read("figures/none.png")
