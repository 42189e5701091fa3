"""optuna-dashboard on the study's database, as far as its API answers: names, importances, ways to MLflow."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import no_hang
from searches import NAME, Recorder, parent_of, run, searched
from servers import PASSWORD, Postgres, free_port

from tracking.store import Store, open_store

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(find_spec("optuna_dashboard") is None, reason="pip install optuna-dashboard"),
]


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
            while not answers(f"{address}/api/meta"):
                assert process.poll() is None, "optuna-dashboard does not start"
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def answers(address: str) -> bool:
    with suppress(OSError):
        return bool(get(address))
    return False


def get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)


def only_study(address: str) -> dict[str, Any]:
    """The study of the test, with its trials."""
    summaries = get(f"{address}/api/studies")["study_summaries"]
    (summary,) = [each for each in summaries if each["study_name"].startswith(NAME)]
    return summary | get(f"{address}/api/studies/{summary['study_id']}")


def test_a_search_shows_and_leads_to_mlflow(store: Store) -> None:
    run(store, searched(Recorder(lambda trial: trial.params["x"]), 6))
    with dashboard(store.optuna_url) as address:
        study = only_study(address)
        importance = get(f"{address}/api/studies/{study['study_id']}/param_importances")["param_importances"]
    assert (study["objective_names"], study["directions"], len(study["trials"])) == (["loss"], ["minimize"], 6)
    parent = parent_of(store)
    for trial in study["trials"]:
        about = {each["key"]: each["value"].strip('"') for each in trial["user_attrs"]}
        found = mlflow.MlflowClient().get_run(about["mlflow.run_id"])
        assert found.data.tags["mlflow.parentRunId"] == parent.run_id
        assert float(found.data.params["x"]) == pytest.approx(trial["values"][0])
        assert about["mlflow.page"].endswith(f"/runs/{found.info.run_id}")
        assert about["sampler"] in ("random", "TPE")
    for objective in importance:
        assert {each["name"] for each in objective} == {"x", "n", "c"}


def test_it_shows_a_search_on_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Postgres()
    try:
        on_server = open_store(tmp_path / "store", None, server.url)
        seen = Recorder(lambda trial: trial.params["x"])
        run(on_server, searched(seen, 3))
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        url = f"postgresql+psycopg://study@127.0.0.1:{server.port}/study"  # without the password, as processes are seen
        with dashboard(url) as address:
            study = only_study(address)
        assert [trial["values"] for trial in study["trials"]] == [[params["x"]] for params in seen.ran]
    finally:
        server.remove()
