"""`study.run` from end to end: two stages on digits; where marked, all stages, signals, a server, MNIST."""

import os
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import mlflow
import numpy as np
import pytest
from conftest import ROOT, Command, no_hang
from mlflow.entities import Run
from servers import MlflowServer, until
from studies import Studies, copied

from study import data, run
from study.data import to_float
from study.stages import all_stages
from study.training.translation import TASKS
from tracking.registry import require_version, version
from tracking.store import read_store

STAGES = {stage.name: stage for stage in all_stages()}
SMALL = ("--judge.epochs", "1", "--autoencoder.latent-dims", "3", "--autoencoder.free-trials", "0")
TWO = ("smoke", "--table", "--data", "digits", "--stages", "judge", "autoencoder", *SMALL)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store in which judge and autoencoder have run, and what the command printed; to be read only."""
    store = tmp_path_factory.mktemp("two") / "store"
    with redirect_stdout(StringIO()) as out:
        assert run.main([*TWO, "--store", str(store)]) == 0
    return store, out.getvalue()


@pytest.fixture(params=["two", pytest.param("smoke_store", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest) -> Path:
    """A store with two stages, or with all."""
    found = request.getfixturevalue(request.param)
    folder: Path = found if request.param == "smoke_store" else found[0]
    read_store(folder)
    return folder


def experiments() -> dict[str, list[Run]]:
    """The runs of the open store, the oldest first, by stage."""
    client, order = mlflow.MlflowClient(), ["attributes.start_time ASC"]
    found = {each.name.partition("/")[2]: each.experiment_id for each in client.search_experiments()}
    return {stage: list(client.search_runs([each], order_by=order)) for stage, each in found.items() if stage}


def test_it_ends_with_the_table_and_where_to_look(two: tuple[Path, str]) -> None:
    store, output = two
    found, _, look = output.partition("what was found")[2].partition("\n\nwhere to look:\n")
    assert output.split()[:4] == ["figure", "ours", "reference", "baseline"]
    assert ("autoencoder: " in found, "nan" in output) == (True, False)
    assert all(f"digits-{kind} v1" in output for kind in ("judge", "autoencoder"))
    assert all(f"python -m study.{module} --store {store}\n" in look for module in ("ui", "report"))
    report = next(line for line in look.splitlines() if "the report: " in line).partition("the report: ")[2]
    assert Path(report).read_text().startswith("<!doctype html>")


def test_every_trial_is_a_nested_run_with_its_figures(store: Path) -> None:
    client = mlflow.MlflowClient()
    for stage, (parent, *trials) in experiments().items():
        assert (parent.info.status, parent.data.tags["dataset"]) == ("FINISHED", "digits")
        assert client.list_artifacts(parent.info.run_id, "figures") or stage == "judge"
        assert len(trials) > 1
        for trial in trials:
            assert trial.info.status == "FINISHED"
            assert trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
            deciding = {"search/fd", *(f"val/{name}" for name in ("loss", "fd", "mae", "error", "accuracy"))}
            assert trial.data.metrics.keys() & deciding
            assert all(np.isfinite(list(trial.data.metrics.values())))
        for kind in STAGES[stage].inputs:
            assert {each.data.tags[f"input.{kind}"] for each in (parent, *trials)} == {f"models:/digits-{kind}/1"}


def test_champions_load_by_name_and_do_what_was_logged(store: Path) -> None:
    client, test = mlflow.MlflowClient(), data.load("digits").test
    images = to_float(test.images).numpy()
    for kind in (kind for stage in experiments() for kind in STAGES[stage].outputs):
        found = client.get_model_version_by_alias(f"digits-{kind}", "champion")
        model = mlflow.pyfunc.load_model(f"models:/digits-{kind}@champion")
        metrics = client.get_run(found.run_id).data.metrics
        if kind.endswith(("judge", "classifier")):
            accuracy = (model.predict(images).argmax(1) == test.labels.numpy()).mean()
            assert accuracy == pytest.approx(metrics["test/accuracy"], abs=1e-6)
        elif kind.endswith("autoencoder"):
            assert ((model.predict(images) - images) ** 2).mean() == pytest.approx(metrics["test/loss"], rel=1e-4)
        elif kind == "translator":
            made = model.predict(to_float(TASKS["outline"](test.images)).numpy())
            assert np.abs(made - images).mean() == pytest.approx(metrics["test/mae"], rel=1e-4)
        else:
            width = model.metadata.signature.inputs.inputs[0].shape[1]
            made = model.predict(np.random.default_rng(0).standard_normal((3, width)).astype(np.float32))
            assert (made.shape, 0 <= made.min() < made.max() <= 1) == ((3, 1, 28, 28), True)


def test_a_second_run_trains_nothing_and_a_setting_has_its_own_study(two: tuple[Path, str], fresh: Studies) -> None:
    copied(two[0], fresh.store)
    before = fresh.trials().keys()
    done = fresh.run(*TWO)
    assert "trial" not in done.errors
    assert two[1].split("digits, preset")[0] == done.out.split("digits, preset")[0]
    versions = {int(each.version) for each in fresh.client.search_model_versions()}
    assert (fresh.trials().keys(), versions) == (before, {1})
    file = fresh.store.with_name("mine.toml")
    file.write_text('preset = "smoke"\ndata = "digits"\nstages = ["judge"]\n')
    fresh.run(file)
    assert len(fresh.parents("judge")) == 2
    values = {number: version("digits-judge", number).metrics["val/accuracy"] for number in (1, 2)}
    assert values[fresh.champion("digits-judge")] == max(values.values())


def test_a_missing_input_fails_before_any_training(fresh: Studies) -> None:
    error = fresh.call("smoke", "--data", "digits", "--stages", "conditional-gan").error
    assert ("--stages judge autoencoder" in error, fresh.runs()) == (True, [])


def test_ctrl_c_before_the_command_has_begun_leaves_no_traceback(tmp_path: Path) -> None:
    waiting = "import sys, time\nprint('importing', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
    (tmp_path / "tyro.py").write_text(waiting)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "study.run", "smoke"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
    assert process.returncode in (-signal.SIGINT, 130)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_command_ends_its_workers_and_the_same_command_goes_on(fresh: Studies, stop: signal.Signals) -> None:
    flags = ["--stages", "judge", "--judge.epochs", "500", "--workers", "2", "--store", str(fresh.store)]
    process = subprocess.Popen(
        [sys.executable, "-m", "study.run", "smoke", "--data", "digits", *flags],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # ignored where `&` or nohup started the tests
        preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGHUP)] and None,
    )
    with no_hang():
        until((fresh.store / "optuna.db").exists)  # made after mlflow.db
        until(lambda: sum("train/loss" in each.data.metrics for each in fresh.trials().values()) == 2)
        workers = children(process.pid)
        if stop == signal.SIGHUP:  # the terminal is gone: whatever is written to it fails
            process.stderr.close()
        os.killpg(process.pid, stop)
        errors = "" if process.stderr.closed else process.communicate()[1]
        assert process.wait() == (-stop if stop == signal.SIGKILL else 130)
        assert errors.count("the same command goes on from here") == (stop == signal.SIGINT)
        assert "Traceback" not in errors
        until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers))
    statuses = [each.info.status for each in fresh.runs()]
    assert sorted(statuses) == (["KILLED", "RUNNING", "RUNNING"] if stop == signal.SIGKILL else ["KILLED"] * 3)
    epochs = {each.data.params["epochs"] for each in fresh.trials().values()}
    assert epochs == {"500"}, "stopped long before their end"


def children(pid: int) -> list[int]:
    """The processes that one has started."""
    return [int(each) for file in Path(f"/proc/{pid}/task").glob("*/children") for each in file.read_text().split()]


@pytest.mark.mnist
def test_the_judge_learns_mnist(mnist_dir: Path, fresh: Studies) -> None:
    fresh.run("smoke", "--data", "mnist", "--data-dir", mnist_dir, "--stages", "judge")
    assert require_version("mnist-judge").metrics["test/accuracy"] > 0.97


@pytest.mark.server
def test_a_tracking_server_takes_the_place_of_the_folder(command: Command, tmp_path: Path) -> None:
    server = MlflowServer(tmp_path)
    server.start()
    try:
        flags = ["--stages", "judge", "--tracking-uri", server.url, "--store", tmp_path / "s"]
        done = command("study.run", "smoke", "--data", "digits", *flags)
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr
    assert "digits-judge v1" in done.stdout
    assert f"python -m study.ui --tracking-uri {server.url}\n" in done.stdout
    assert not (tmp_path / "s" / "mlflow.db").exists()
