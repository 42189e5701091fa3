"""What users do to a store in MLflow: deleted things are made again, renamed ones found, and no edit is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import Run
from studies import ALL, FAST, TRIALS, Studies, copied, figures_of

from tracking import load_model
from tracking.errors import StoreError
from tracking.models import logged_model

pytestmark = pytest.mark.slow


def collect_garbage(store: Path) -> None:
    """Delete for good what was deleted."""
    uri = f"sqlite:///{store}/mlflow.db"
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def trial_of(studies: Studies, stage: str, number: int) -> Run:
    return next(run for run in studies.trials(stage).values() if run.data.tags["trial.number"] == str(number))


@pytest.mark.parametrize("for_good", [False, True], ids=["deleted", "deleted for good"])
@pytest.mark.parametrize("what", ["trial", "parent", "champion's run"])
def test_runs_that_were_deleted(
    what: str, for_good: bool, studies: Studies, letters: Path, finished: tuple[Path, str]
) -> None:
    client, before = studies.client, studies.trials()
    version = client.get_model_version_by_alias("abcd-autoencoder", "champion")
    others = [run_id for run_id in studies.trials("autoencoder") if run_id != version.run_id]
    (parent,) = studies.parents("autoencoder")
    deleted = {"trial": others[0], "parent": parent.info.run_id, "champion's run": version.run_id}[what]
    client.delete_run(deleted)
    if for_good:
        collect_garbage(studies.store)
    done = studies.run(*FAST, "--data", letters, *ALL)
    after = studies.trials()
    new = after.keys() - before.keys()
    assert len(new) == (0 if what == "parent" else 1), "the same weights again: nothing that builds on them is new"
    assert deleted not in after
    assert len(after) == sum(TRIALS.values())
    assert all(after[run_id].info.status == "FINISHED" for run_id in new)
    (now,) = studies.parents("autoencoder")
    assert {run.data.tags["mlflow.parentRunId"] for run in studies.trials("autoencoder").values()} == {now.info.run_id}
    figures = [figures_of(line) for line in finished[1].splitlines()]
    assert [figures_of(line) for line in done.table.splitlines()] == figures, "the same seed, the same figures"
    again = studies.run(*FAST, "--data", letters, *ALL)
    assert studies.trials().keys() == after.keys()
    assert again.table == done.table


def test_a_champion_without_its_run_is_not_built_on(studies: Studies, letters: Path) -> None:
    studies.client.delete_run(studies.client.get_model_version_by_alias("abcd-autoencoder", "champion").run_id)
    collect_garbage(studies.store)
    refused = studies.call(*FAST, "--data", letters, "--stages", "transfer")
    assert "models:/abcd-autoencoder/1 has lost its run, deleted for good" in refused.error
    studies.run(*FAST, "--data", letters, "--stages", "autoencoder")
    assert studies.champion("abcd-autoencoder") == 2
    studies.run(*FAST, "--data", letters, "--stages", "transfer")


def test_a_champion_without_its_run_gives_way_to_a_size_that_was_asked_for(studies: Studies, letters: Path) -> None:
    studies.client.delete_run(studies.client.get_model_version_by_alias("abcd-autoencoder", "champion").run_id)
    collect_garbage(studies.store)
    given = (*FAST, "--data", letters, "--stages", "autoencoder", "--autoencoder.latent-dim", "3")
    studies.run(*given)
    assert studies.champion("abcd-autoencoder") == 2


def test_a_generator_that_lost_its_run_gives_way(
    smoke_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = Studies(copied(smoke_store, tmp_path / "store"), capsys)
    studies.client.delete_run(studies.client.get_model_version_by_alias("digits-latent-gan", "champion").run_id)
    collect_garbage(studies.store)
    before = studies.trials().keys()
    studies.run("smoke", "--data", "digits", "--stages", "latent-gan")
    new = [run for run_id, run in studies.trials().items() if run_id not in before]
    assert len(new) == 1
    assert studies.champion("digits-latent-gan") == 2


@pytest.mark.parametrize("model", ["abcd-judge", "abcd-autoencoder", "abcd-classifier"])
def test_a_registered_model_that_was_deleted_is_registered_again(
    model: str, studies: Studies, letters: Path, finished: tuple[Path, str]
) -> None:
    before = studies.trials().keys()
    studies.client.delete_registered_model(model)
    if model == "abcd-autoencoder":
        refused = studies.call(*FAST, "--data", letters, "--stages", "transfer")
        assert (
            "abcd-autoencoder@champion, not in this store: run with --stages judge autoencoder transfer"
            in refused.error
        )
    done = studies.run(*FAST, "--data", letters, *ALL)
    assert done.table == finished[1]
    assert studies.trials().keys() == before
    assert studies.champion(model) == 1


def test_an_alias_that_was_deleted_is_given_again(studies: Studies, letters: Path) -> None:
    studies.client.delete_registered_model_alias("abcd-judge", "champion")
    studies.run(*FAST, "--data", letters, *ALL)
    assert studies.champion("abcd-judge") == 1


def test_a_deleted_experiment_is_named(studies: Studies, letters: Path) -> None:
    client = studies.client
    client.delete_experiment(client.get_experiment_by_name("abcd/judge").experiment_id)
    refused = studies.call(*FAST, "--data", letters, *ALL)
    assert "'abcd/judge' in this store was deleted in MLflow: restore it, or use another --store" in refused.error


def test_renamed_and_edited_things_are_found_and_stay_as_they_are(
    studies: Studies, letters: Path, finished: tuple[Path, str]
) -> None:
    client, before = studies.client, studies.trials()
    (parent,) = studies.parents("judge")
    trial = trial_of(studies, "judge", 0)
    for run in (parent, trial):
        client.update_run(run.info.run_id, name="mine")
        client.set_tag(run.info.run_id, "mlflow.note.content", "my note")
    client.rename_experiment(parent.info.experiment_id, "letters, judged")
    client.set_experiment_tag(parent.info.experiment_id, "mlflow.note.content", "my experiment")
    client.update_registered_model("abcd-judge", "my judge")
    client.update_model_version("abcd-judge", "1", "my version")

    done = studies.run(*FAST, "--data", letters, *ALL)
    assert done.table == finished[1]
    assert studies.trials().keys() == before.keys()
    for run_id in (parent.info.run_id, trial.info.run_id):
        run = client.get_run(run_id)
        assert (run.info.run_name, run.data.tags["mlflow.note.content"]) == ("mine", "my note")
    experiment = client.get_experiment(parent.info.experiment_id)
    assert (experiment.name, experiment.tags["mlflow.note.content"]) == ("letters, judged", "my experiment")
    assert client.get_experiment_by_name("abcd/judge") is None
    assert client.get_registered_model("abcd-judge").description == "my judge"
    assert client.get_model_version("abcd-judge", "1").description == "my version"


def test_one_database_of_optuna_and_two_stores(
    letters: Path, empty_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (*FAST, "--data", letters, "--stages", "judge", "--storage", f"sqlite:///{tmp_path}/optuna.db")
    stores = [Studies(copied(empty_store, tmp_path / name), capsys) for name in ("first", "second")]
    tables = [store.run(*given).table for store in stores]
    assert tables[0] == tables[1]
    trials = [store.trials().keys() for store in stores]
    assert [len(each) for each in trials] == [TRIALS["judge"]] * 2
    for store, table, known in zip(stores, tables, trials, strict=True):
        assert store.run(*given).table == table
        assert store.trials().keys() == known


def test_only_registered_models_are_kept_if_asked_for(
    studies: Studies, letters: Path, finished: tuple[Path, str]
) -> None:
    def models() -> int:
        return len(list((studies.store / "artifacts").rglob("weights.safetensors")))

    def bytes_kept() -> int:
        return sum(file.stat().st_size for file in (studies.store / "artifacts").rglob("*") if file.is_file())

    before, size, there = studies.trials().keys(), bytes_kept(), models()
    assert there == len(before) - 1, "label spreading is no model of ours"
    given = (*FAST, "--data", letters, *ALL, "--keep-models", "champions")
    done = studies.run(*given)
    assert done.table == finished[1], "nothing is computed again"
    assert studies.trials().keys() == before
    registered = {
        each.run_id
        for kind in ("judge", "second-judge", "third-judge", "autoencoder", "classifier")
        for each in studies.client.search_model_versions(f"name = 'abcd-{kind}'")
    }
    assert models() == len(registered) == 5
    assert bytes_kept() < 0.7 * size
    assert studies.run(*given).table == finished[1]
    for kind in ("judge", "autoencoder", "classifier"):
        load_model(f"abcd-{kind}", store=studies.store)
    collect_garbage(studies.store)

    more = studies.run(*given, "--autoencoder.latent-dims", "3", "4")
    assert before < studies.trials().keys(), "the sizes that were there stay as they were"
    assert "abcd" in more.out

    with_model = {run_id for run_id, run in studies.trials().items() if run.outputs and run.outputs.model_outputs}
    dropped = min(before & with_model - registered)
    with pytest.raises(StoreError, match=r"was deleted: delete the run too"):
        logged_model(dropped)
    count = len(studies.trials())
    studies.client.delete_run(dropped)
    studies.run(*given)
    assert len(studies.trials()) == count, "run again in its place"


def test_every_stage_takes_that_its_unregistered_models_are_gone(
    smoke_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some trials have no model, and some models are never registered but used by each call."""
    studies = Studies(copied(smoke_store, tmp_path / "store"), capsys)
    given = ("smoke", "--data", "digits", "--keep-models", "champions")
    thicken = (*given, "--stages", "translation", "--translation.task", "thicken")
    before = studies.trials().keys()
    done = studies.run(*given)
    assert studies.trials().keys() == before
    registered = {each.run_id for each in studies.client.search_model_versions()}
    assert len(list((studies.store / "artifacts").rglob("weights.safetensors"))) == len(registered)
    assert studies.run(*given).table == done.table
    more = studies.run(*thicken)
    after = studies.trials().keys()
    assert studies.run(*thicken).table == more.table
    assert studies.trials().keys() == after
