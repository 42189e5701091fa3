"""What users do to a store in MLflow: deleted things are made again, renamed ones found, and no edit is lost."""

import subprocess
import sys
from pathlib import Path

import pytest
from studies import ALL, FAST, TRIALS, Studies, copied, figures_of

from tracking import load_model
from tracking.errors import StoreError
from tracking.models import logged_model

pytestmark = pytest.mark.slow


def delete(studies: Studies, run_id: str, for_good: bool = True) -> None:
    studies.client.delete_run(run_id)
    if for_good:
        collect_garbage(studies.store)


def collect_garbage(store: Path) -> None:
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", f"sqlite:///{store}/mlflow.db"]
    subprocess.run(command, check=True, timeout=300)


def champions_run(studies: Studies, model: str = "abcd-autoencoder") -> str:
    return studies.client.get_model_version_by_alias(model, "champion").run_id


def weights(studies: Studies) -> list[Path]:
    return list((studies.store / "artifacts").rglob("weights.safetensors"))


def test_runs_that_were_deleted(studies: Studies, letters: Path, table: str) -> None:
    """In one store, one after the other: what was deleted is made again, the same, and nothing else is."""
    given = (*FAST, "--data", letters)
    figures = [figures_of(line) for line in table.splitlines()]
    for for_good in (False, True):
        for what in ("trial", "parent", "champion's run"):
            before, champion = studies.trials(), champions_run(studies)
            trial = next(run_id for run_id in studies.trials("autoencoder") if run_id != champion)
            parent = studies.parents("autoencoder")[0].info.run_id
            deleted = {"trial": trial, "parent": parent, "champion's run": champion}[what]
            delete(studies, deleted, for_good)
            if for_good and deleted == champion:
                refused = studies.call(*given, "--stages", "transfer").error
                assert "has lost its run, deleted for good" in refused, "a champion without its run is not built on"
            done = studies.run(*given, *ALL)
            after = studies.trials()
            new = after.keys() - before.keys()
            assert len(new) == (what != "parent"), "the same weights again: nothing that builds on them is new"
            assert (deleted in after, len(after)) == (False, sum(TRIALS.values()))
            assert {after[run_id].info.status for run_id in new} <= {"FINISHED"}
            (now,) = studies.parents("autoencoder")
            parents = {run.data.tags["mlflow.parentRunId"] for run in studies.trials("autoencoder").values()}
            assert parents == {now.info.run_id}
            assert [figures_of(line) for line in done.table.splitlines()] == figures, "the same seed, the same figures"
    again = studies.run(*given, *ALL)
    assert (studies.trials().keys(), again.table) == (after.keys(), done.table)
    version = studies.champion("abcd-autoencoder")
    delete(studies, champions_run(studies))
    studies.run(*given, "--stages", "autoencoder", "--autoencoder.latent-dim", "3")
    assert studies.champion("abcd-autoencoder") == version + 1, "it gives way to a size that was asked for"


def test_a_generator_that_lost_its_run_gives_way(smoke: Studies) -> None:
    before = smoke.trials().keys()
    delete(smoke, champions_run(smoke, "digits-latent-gan"))
    smoke.run("smoke", "--data", "digits", "--stages", "latent-gan")
    assert (len(smoke.trials().keys() - before), smoke.champion("digits-latent-gan")) == (1, 2)


def test_deleted_models_and_aliases_are_registered_again(studies: Studies, letters: Path, table: str) -> None:
    before, given = studies.trials().keys(), (*FAST, "--data", letters)
    models = ("abcd-judge", "abcd-autoencoder", "abcd-classifier")
    for model in models:
        studies.client.delete_registered_model(model)
    studies.client.delete_registered_model_alias("abcd-third-judge", "champion")
    refused = studies.call(*given, "--stages", "transfer").error
    assert "abcd-autoencoder@champion, not in this store: run with --stages judge autoencoder transfer" in refused
    assert (studies.run(*given, *ALL).table, studies.trials().keys()) == (table, before)
    assert {studies.champion(model) for model in (*models, "abcd-third-judge")} == {1}


def test_renamed_and_edited_things_are_found_and_stay_as_they_are(studies: Studies, letters: Path, table: str) -> None:
    client, before = studies.client, studies.trials()
    (parent,) = studies.parents("judge")
    trial = next(run for run in studies.trials("judge").values() if run.data.tags["trial.number"] == "0")
    for run in (parent, trial):
        client.update_run(run.info.run_id, name="mine")
        client.set_tag(run.info.run_id, "mlflow.note.content", "my note")
    client.rename_experiment(parent.info.experiment_id, "letters, judged")
    client.set_experiment_tag(parent.info.experiment_id, "mlflow.note.content", "my experiment")
    client.update_registered_model("abcd-judge", "my judge")
    client.update_model_version("abcd-judge", "1", "my version")
    done = studies.run(*FAST, "--data", letters, *ALL)
    assert (done.table, studies.trials().keys()) == (table, before.keys())
    for run_id in (parent.info.run_id, trial.info.run_id):
        run = client.get_run(run_id)
        assert (run.info.run_name, run.data.tags["mlflow.note.content"]) == ("mine", "my note")
    experiment = client.get_experiment(parent.info.experiment_id)
    assert (experiment.name, experiment.tags["mlflow.note.content"]) == ("letters, judged", "my experiment")
    assert client.get_experiment_by_name("abcd/judge") is None
    assert client.get_registered_model("abcd-judge").description == "my judge"
    assert client.get_model_version("abcd-judge", "1").description == "my version"
    client.delete_experiment(client.get_experiment_by_name("abcd/autoencoder").experiment_id)
    refused = studies.call(*FAST, "--data", letters, *ALL).error
    assert "'abcd/autoencoder' in this store was deleted in MLflow: restore it, or use another --store" in refused


def test_one_database_of_optuna_and_two_stores(letters: Path, empty_store: Path, tmp_path: Path, capsys) -> None:
    given = (*FAST, "--data", letters, "--stages", "judge", "--storage", f"sqlite:///{tmp_path}/optuna.db")
    stores = [Studies(copied(empty_store, tmp_path / name), capsys) for name in ("first", "second")]
    tables = [store.run(*given).table for store in stores]
    trials = [store.trials().keys() for store in stores]
    assert (tables[0], [len(each) for each in trials]) == (tables[1], [TRIALS["judge"]] * 2)
    assert [(store.run(*given).table, store.trials().keys()) for store in stores] == [*zip(tables, trials, strict=True)]


def test_only_registered_models_are_kept_if_asked_for(studies: Studies, letters: Path, table: str) -> None:
    before = studies.trials().keys()
    assert len(weights(studies)) == len(before) - 1, "label spreading is no model of ours"
    given = (*FAST, "--data", letters, *ALL, "--keep-models", "champions")
    assert studies.run(*given).table == table, "nothing is computed again"
    registered = {each.run_id for each in studies.client.search_model_versions()}
    assert len(weights(studies)) == len(registered) == 5
    assert (studies.run(*given).table, studies.trials().keys()) == (table, before)
    for kind in ("judge", "autoencoder", "classifier"):
        load_model(f"abcd-{kind}", store=studies.store)
    collect_garbage(studies.store)
    studies.run(*given, "--autoencoder.latent-dims", "3", "4")
    assert before < studies.trials().keys(), "the sizes that were there stay as they were"
    with_model = {run_id for run_id, run in studies.trials().items() if run.outputs and run.outputs.model_outputs}
    dropped = min(before & with_model - registered)
    with pytest.raises(StoreError, match=r"was deleted: delete the run too"):
        logged_model(dropped)
    count = len(studies.trials())
    delete(studies, dropped, for_good=False)
    studies.run(*given)
    assert len(studies.trials()) == count, "run again in its place"


def test_every_stage_takes_that_its_unregistered_models_are_gone(smoke: Studies) -> None:
    """Some trials have no model, and some models are never registered but used by each call."""
    given = ("smoke", "--data", "digits", "--keep-models", "champions")
    thicken = (*given, "--stages", "translation", "--translation.task", "thicken")
    before = smoke.trials().keys()
    done = smoke.run(*given)
    assert smoke.trials().keys() == before
    assert len(weights(smoke)) == len({each.run_id for each in smoke.client.search_model_versions()})
    assert smoke.run(*given).table == done.table
    more, after = smoke.run(*thicken), smoke.trials().keys()
    assert (smoke.run(*thicken).table, smoke.trials().keys()) == (more.table, after)
