"""optuna-dashboard on the study's database, as far as its API answers: names, the front, importance, ways to MLflow."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import no_hang
from searches import FIXED, Recorder, run, search
from servers import PASSWORD, Postgres, free_port

from tracking.store import Store, open_store, read_store

pytestmark = pytest.mark.skipif(
    find_spec("optuna_dashboard") is None, reason="optuna-dashboard is not installed: pip install optuna-dashboard"
)


@contextmanager
def dashboard(url: str) -> Iterator[str]:
    """The address of `optuna-dashboard` on a database."""
    port = free_port()
    command = [sys.executable, "-c", "from optuna_dashboard._cli import main; main()", url]
    command += ["--host", "127.0.0.1", "--port", str(port), "--server", "wsgiref"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        with no_hang():
            while True:
                try:
                    get(f"{address}/api/meta")
                    break
                except OSError:
                    assert process.poll() is None, "optuna-dashboard does not start"
                    time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)


def attributes(found: dict[str, Any]) -> dict[str, str]:
    return {each["key"]: each["value"].strip('"') for each in found["user_attrs"]}


def study_called(address: str, start: str) -> dict[str, Any]:
    """The study whose name begins so, with its trials."""
    (summary,) = [
        each for each in get(f"{address}/api/studies")["study_summaries"] if each["study_name"].startswith(start)
    ]
    return summary | get(f"{address}/api/studies/{summary['study_id']}")


def test_a_studys_front_and_importance_show_and_lead_to_mlflow(smoke_store: Path) -> None:
    read_store(smoke_store)
    client = mlflow.MlflowClient()
    with dashboard(f"sqlite:///{smoke_store}/optuna.db") as address:
        study = study_called(address, "digits/autoencoder/")
        assert study["objective_names"] == ["val/loss", "latent/max_abs_pcc"]
        assert study["directions"] == ["minimize", "minimize"]
        assert len(study["best_trials"]) >= 1
        importance = get(f"{address}/api/studies/{study['study_id']}/param_importances")["param_importances"]
    parent = client.get_run(attributes(study)["mlflow.run_id"])
    assert parent.data.tags["study"] == study["name"].rpartition("/")[0]
    assert attributes(study)["mlflow.page"].endswith(
        f"/#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}"
    )
    assert len(study["trials"]) == 5
    for trial in study["trials"]:
        found = client.get_run(attributes(trial)["mlflow.run_id"])
        assert found.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert found.data.metrics["val/loss"] == pytest.approx(trial["values"][0])
        assert attributes(trial)["mlflow.page"].endswith(f"/runs/{found.info.run_id}")
    for objective in importance:
        shares = {each["name"]: each["importance"] for each in objective}
        assert set(shares) == {"latent_dim", "architecture"}
        assert sum(shares.values()) == pytest.approx(1)


def test_it_shows_a_study_on_postgresql(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Postgres()
    try:
        on_server = open_store(tmp_path / "store", None, server.url)
        run(on_server, search(), Recorder(lambda trial: trial.params["x"]))
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        url = f"postgresql+psycopg://study@127.0.0.1:{server.port}/study"  # without the password, as processes are seen
        with dashboard(url) as address:
            (summary,) = get(f"{address}/api/studies")["study_summaries"]
            study = study_called(address, summary["study_name"])
        assert [trial["values"] for trial in study["trials"]] == [[params["x"]] for params in FIXED]
        assert study["objective_names"] == ["loss"]
        assert {attributes(trial)["mlflow.run_id"] for trial in study["trials"]} == {
            each.info.run_id for each in mlflow.MlflowClient().search_runs(["1"], "tags.`optuna.trial` != ''")
        }
    finally:
        server.remove()
