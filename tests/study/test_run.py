"""The whole study, end to end, in processes of its own."""

from __future__ import annotations

import csv
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import ROOT, Command
from servers import MlflowServer
from studies import copied

from study import data
from study.data import to_float
from study.stages import all_stages
from study.training.domains import TASKS
from tracking.store import read_store

STAGES = tuple(stage.name for stage in all_stages())
SAID = ("autoencoder", "transfer", "latent-gan", "conditional-gan", "translation")  # at the end, of seven
MODELS = (
    *("judge", "autoencoder", "classifier", "latent-gan", "conditional-gan"),
    *("attention-autoencoder", "translator"),
)  # a stage each
EVERY_TRIAL = {
    "judge": {"val/loss", "val/accuracy", "test/accuracy"},
    "autoencoder": {
        "train/loss",
        "val/loss",
        "test/loss",
        "latent/max_abs_pcc_rotated",
        "latent/effective_rank",
    },
    "transfer": {"train/loss", "val/loss", "val/accuracy", "test/accuracy"},
    "latent-gan": {
        *("val/fd", "judge1/fd", "judge2/fd", "judge3/fd", "judge1/coverage", "judge1/modes", "judge1/nearest"),
        *("latent/two_sample_accuracy", "latent/sliced_wasserstein", "latent/nearest"),
    },
    "conditional-gan": {
        "critic/wasserstein",
        "critic/at_clip",
        "val/fd",
        "judge1/fd",
        "judge1/label_accuracy",
        "judge1/label_accuracy_worst",
        "judge1/intra_fd",
        "classification_accuracy_score",
        "label_accuracy/7",
    },
    "attention": {"val/loss", "test/loss", "test/difference_float32", "test/decisions_float64"},
    "translation": {"val/mae", "test/mae", "judge1/kept", "judge2/kept", "judge1/fd", "generator/loss"},
}
LEARNED = {"train/loss", "val/error", "test/error", "noise/error"}  # of the attention that is trained
TRAINED = {
    *("critic/wasserstein", "critic/at_clip", "judge1/label_accuracy_worst", "label_accuracy/7", "generator/loss"),
    "train/loss",
}  # baselines are not
RECIPE = {"val/fd", "val/recall", "val/class_kl", "collapse/last", "collapse/epochs"}
TRIALS = {
    "judge": 3,
    "autoencoder": 5,
    "transfer": 5,
    "latent-gan": 12,
    "conditional-gan": 4,
    "attention": 12,
    "translation": 14,
}
HANGING = 300.0  # seconds after which a process counts as hanging


@pytest.fixture
def client(smoke_store: Path) -> mlflow.MlflowClient:
    read_store(smoke_store)
    return mlflow.MlflowClient()


def runs(client: mlflow.MlflowClient, stage: str) -> list:
    experiment = client.get_experiment_by_name(f"digits/{stage}")
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def test_it_ends_with_the_table_and_where_to_look(smoke_store: Path) -> None:
    output = (smoke_store / "output.txt").read_text()
    for stage, model in zip(STAGES, MODELS, strict=True):
        assert f"digits-{model} v1" in output
        assert any(line.startswith(stage) for line in output.splitlines())
    found, _, look = output.partition("what was found (claims: ")[2].partition("\n\nwhere to look:\n")
    assert [line.split(":")[0].strip() for line in found.splitlines()[1:]] == list(SAID)
    assert "nan" not in found
    assert f"python -m study.ui --store {smoke_store}\n" in look
    assert f"python -m study.report --store {smoke_store}\n" in look
    assert "http://127.0.0.1:5000/#/experiments/" in look
    report = next(line for line in look.splitlines() if "the report: " in line).partition("the report: ")[2]
    assert Path(report).read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("stage", STAGES)
def test_every_trial_is_a_nested_run_with_its_figures(client: mlflow.MlflowClient, stage: str) -> None:
    parent, *trials = runs(client, stage)
    assert len(trials) == TRIALS[stage]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["dataset"] == "digits"
    for trial in trials:
        assert trial.info.status == "FINISHED"
        assert trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert trial.data.tags["optuna.state"] == "COMPLETE"
        params = trial.data.params
        is_baseline = bool({"source", "bandwidth"} & params.keys()) or params.get("mode") == "label spreading"
        wanted = EVERY_TRIAL[stage] - (TRAINED if is_baseline else set())
        wanted |= {"latent/max_abs_pcc"} if stage != "translation" else set()  # a translator has no latents
        if stage == "attention" and "repeat" in trial.data.params:
            wanted = LEARNED
        assert (RECIPE if "recipe" in trial.data.params else wanted) <= trial.data.metrics.keys()
        assert all(np.isfinite(list(trial.data.metrics.values())))
        figures = {artifact.path for artifact in client.list_artifacts(trial.info.run_id, "figures")}
        assert ("figures/loss.png" in figures) != (is_baseline or stage == "attention")
        assert client.list_artifacts(trial.info.run_id, "images")


@pytest.mark.parametrize(
    ("stage", "figures"),
    [
        (
            "autoencoder",
            {"loss_curves", "reconstructions", "pcc", "pcc_against_size", "loss_against_size", "pareto", "axes_choice"},
        ),
        ("transfer", {"curves"}),
        (
            "latent-gan",
            {"loss_curves", "fd_against_learning_rate", "fd_against_clip_value", "contact_sheet", "interpolation"},
        ),
        ("conditional-gan", {"loss_curves", "label_accuracy"}),
        ("attention", {"sharpness", "first_layer", "learned", "heads", "mirror", "fully_connected"}),
        ("translation", {"matrix", "error_against_level", "error_against_steps"}),
    ],
)
def test_the_parent_shows_the_study(client: mlflow.MlflowClient, stage: str, figures: set[str]) -> None:
    parent, *_ = runs(client, stage)
    found = {Path(artifact.path).stem for artifact in client.list_artifacts(parent.info.run_id, "figures")}
    assert figures <= found


def test_versions_of_the_inputs_are_tags(client: mlflow.MlflowClient) -> None:
    parent, *trials = runs(client, "conditional-gan")
    for kind in ("judge", "second-judge", "autoencoder", "latent-gan"):
        assert {run.data.tags[f"input.{kind}"] for run in (parent, *trials)} == {f"models:/digits-{kind}/1"}


def test_the_table_of_generators_has_every_kind(client: mlflow.MlflowClient, tmp_path: Path) -> None:
    parent, *_ = runs(client, "latent-gan")
    with open(client.download_artifacts(parent.info.run_id, "tables/generators.csv", str(tmp_path))) as file:
        table = {row["generator"]: row for row in csv.DictReader(file)}
    assert len(table) == 8
    assert float(table["real images"]["judge1/fd"]) < float(table["WGAN, paper settings"]["judge1/fd"])
    assert float(table["reconstructions of test images"]["judge1/fd"]) < float(
        table["WGAN, paper settings"]["judge1/fd"]
    )
    assert float(table["WGAN, best settings"]["judge2/fd"]) > 0
    assert 0 < parent.data.metrics["interpolation/noise linear/smoothness"] <= 1


@pytest.mark.parametrize("kind", [*MODELS, "second-judge"])
def test_champions_load_by_name_and_do_what_was_logged(client: mlflow.MlflowClient, kind: str) -> None:
    found = client.get_model_version_by_alias(f"digits-{kind}", "champion")
    model = mlflow.pyfunc.load_model(f"models:/digits-{kind}@champion")
    metrics = client.get_run(found.run_id).data.metrics
    test = data.load("digits").test
    if kind in ("judge", "second-judge", "classifier"):
        guesses = model.predict(to_float(test.images).numpy()).argmax(1)
        assert (guesses == test.labels.numpy()).mean() == pytest.approx(metrics["test/accuracy"], abs=1e-6)
    elif kind.endswith("autoencoder"):
        images = to_float(test.images).numpy()
        assert ((model.predict(images) - images) ** 2).mean() == pytest.approx(metrics["test/loss"], rel=1e-4)
    elif kind == "translator":
        made = model.predict(to_float(TASKS["outline"](test.images)).numpy())
        assert np.abs(made - to_float(test.images).numpy()).mean() == pytest.approx(metrics["test/mae"], rel=1e-4)
    else:
        width = model.metadata.signature.inputs.inputs[0].shape[1]
        images = model.predict(np.random.default_rng(0).standard_normal((3, width)).astype(np.float32))
        assert images.shape == (3, 1, 28, 28)
        assert 0 <= images.min() < images.max() <= 1


def test_a_second_run_trains_nothing_and_moves_nothing(smoke_store: Path, command: Command, tmp_path: Path) -> None:
    store = copied(smoke_store, tmp_path / "store")
    done = command("study.run", "smoke", "--data", "digits", "--store", store)
    assert done.returncode == 0, done.stderr
    assert "trial" not in done.stderr
    first, second = ((smoke_store / "output.txt").read_text(), done.stdout)
    assert first.split("digits, preset")[0] == second.split("digits, preset")[0]
    read_store(store)
    client = mlflow.MlflowClient()
    for stage in STAGES:
        assert len(runs(client, stage)) == 1 + TRIALS[stage]
    versions = {version.version for version in client.search_model_versions()}
    assert {int(number) for number in versions} == {1}


def test_other_settings_start_a_study_of_their_own(smoke_store: Path, command: Command, tmp_path: Path) -> None:
    store = tmp_path / "store"
    file = tmp_path / "other.toml"
    file.write_text('preset = "smoke"\ndata = "digits"\n[judge]\nepochs = 1\n')
    done = command("study.run", file, "--stages", "judge", "--store", store)
    assert done.returncode == 0, done.stderr
    done = command("study.run", file, "--stages", "judge", "--store", store, "--judge.epochs", "2")
    assert done.returncode == 0, done.stderr
    read_store(store)
    client = mlflow.MlflowClient()
    found = runs(client, "judge")
    parents = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 2
    assert len(found) == 8  # each with three judges
    values = {}
    for version in client.search_model_versions("name = 'digits-judge'"):
        values[version.version] = client.get_run(version.run_id).data.metrics["val/accuracy"]
    champion = client.get_model_version_by_alias("digits-judge", "champion").version
    assert values[champion] == max(values.values())


def test_the_same_seed_gives_the_same_trial(smoke_store: Path, command: Command, tmp_path: Path) -> None:
    stages = ("--stages", "judge", "--store", tmp_path / "again")
    assert command("study.run", "smoke", "--data", "digits", *stages).returncode == 0
    metrics = []
    for store in (smoke_store, tmp_path / "again"):
        read_store(store)
        metrics.append(runs(mlflow.MlflowClient(), "judge")[1].data.metrics)
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    ("stage", "missing"), [("transfer", "judge autoencoder"), ("conditional-gan", "judge autoencoder")]
)
def test_a_missing_input_fails_before_any_training(command: Command, tmp_path: Path, stage: str, missing: str) -> None:
    done = command("study.run", "smoke", "--data", "digits", "--store", tmp_path / "s", "--stages", stage)
    assert done.returncode == 2
    assert f"run with --stages {missing}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "trial" not in done.stderr


@pytest.mark.parametrize(("stop", "workers"), [(signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_a_signal_ends_the_runs_as_killed_and_the_same_command_goes_on(
    tmp_path: Path, stop: signal.Signals, workers: int
) -> None:
    store = tmp_path / "store"
    arguments = ["smoke", "--data", "digits", "--stages", "judge", "--judge.epochs", "500"]
    options = ["--workers", str(workers), "--store", str(store)]
    process = subprocess.Popen(
        [sys.executable, "-m", "study.run", *arguments, *options],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _wait_until(lambda: _training(store) == workers)
    os.killpg(process.pid, stop)  # as a terminal does: the launcher and its workers at once
    _, errors = process.communicate(timeout=HANGING)
    assert process.returncode == 130
    assert errors.count("the same command goes on from here") == 1
    assert "Traceback" not in errors
    _wait_until(lambda: not _group_lives(process.pid))
    read_store(store)
    killed = runs(mlflow.MlflowClient(), "judge")
    assert [run.info.status for run in killed] == ["KILLED"] * (1 + workers)
    epochs = [run.data.params["epochs"] for run in killed[1:]]
    assert epochs == ["500"] * workers, "stopped long before their end"


def _wait_until(condition: Callable[[], bool]) -> None:
    """A busy machine may take long; what hangs fails."""
    deadline = time.monotonic() + HANGING
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _training(store: Path) -> int:
    """How many trials have reported their first epoch."""
    if not (store / "optuna.db").exists():  # made after mlflow.db
        return 0
    with closing(sqlite3.connect(f"{(store / 'mlflow.db').as_uri()}?mode=ro", uri=True, timeout=HANGING)) as database:
        query = "SELECT count(DISTINCT run_uuid) FROM latest_metrics WHERE key = 'train/loss'"
        return int(database.execute(query).fetchone()[0])


@pytest.mark.mnist
def test_the_judge_learns_mnist(command: Command, mnist_dir: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = command(
        "study.run",
        "smoke",
        "--data",
        "mnist",
        "--data-dir",
        mnist_dir,
        "--stages",
        "judge",
        "--store",
        store,
    )
    assert done.returncode == 0, done.stderr
    read_store(store)
    found = mlflow.MlflowClient().get_model_version_by_alias("mnist-judge", "champion")
    assert mlflow.MlflowClient().get_run(found.run_id).data.metrics["test/accuracy"] > 0.97


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a real MLflow server on loopback."""
    started = MlflowServer(tmp_path)
    started.start()
    yield started.url
    started.stop()


def test_a_tracking_server_takes_the_place_of_the_folder(server: str, command: Command, tmp_path: Path) -> None:
    arguments = ["smoke", "--data", "digits", "--stages", "judge", "--tracking-uri", server, "--store", tmp_path / "s"]
    done = command("study.run", *arguments)
    assert done.returncode == 0, done.stderr
    assert "digits-judge v1" in done.stdout
    assert f"python -m study.ui --tracking-uri {server}\n" in done.stdout
    assert not (tmp_path / "s" / "mlflow.db").exists()
    assert list((tmp_path / "files").rglob("model.pt2"))
