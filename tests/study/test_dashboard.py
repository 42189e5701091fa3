"""What optuna-dashboard reads from the study's database: names, directions, importances, ways to MLflow."""

import mlflow
import optuna
import pytest
from optuna.study import StudyDirection
from searches import NAME, Recorder, parent_of, run, searched

from tracking.store import Store


def test_optuna_itself_reads_a_search_and_each_trial_leads_to_mlflow(store: Store) -> None:
    run(store, searched(Recorder(lambda trial: trial.params["x"]), 6))
    (name,) = [each for each in optuna.get_all_study_names(store.optuna_url) if each.startswith(NAME)]
    study = optuna.load_study(study_name=name, storage=store.optuna_url)
    assert (study.metric_names, study.directions, len(study.trials)) == (["loss"], [StudyDirection.MINIMIZE], 6)
    assert optuna.importance.get_param_importances(study).keys() == {"x", "n", "c"}
    for trial in study.trials:
        found = mlflow.get_run(trial.user_attrs["mlflow.run_id"])
        assert found.data.tags["mlflow.parentRunId"] == parent_of(store).run_id
        assert float(found.data.params["x"]) == pytest.approx(trial.value)
        assert trial.user_attrs["mlflow.page"].endswith(f"/runs/{found.info.run_id}")
        assert trial.user_attrs["sampler"] in ("random", "TPE")
