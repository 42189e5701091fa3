"""docs/cleaning.md as it stands, on a store with two seeds: what it deletes is gone, and champions stay."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from studies import ALL, FAST, Studies

from tracking import load_model

PAGE = (ROOT / "docs" / "cleaning.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def models(store: Path) -> int:
    return len(list((store / "artifacts").rglob("model.pt2")))


def test_a_study_and_old_versions_go_and_champions_stay(studies: Studies, letters: Path) -> None:
    """Of the second seed's judges, one of which is the champion, while the first seed's studies stay as they are."""
    first, second = (*FAST, "--data", letters, *ALL), (*FAST, "--data", letters, "--stages", "judge", "--seed", 1)
    studies.run(*second)
    champions = {"abcd-judge": 1, "abcd-second-judge": 2, "abcd-third-judge": 1, "abcd-autoencoder": 1}
    for model, number in champions.items():
        for alias in studies.client.get_registered_model(model).aliases:
            studies.client.set_registered_model_alias(model, alias, str(number))
    studies.crown("abcd-classifier", 1)
    champions["abcd-classifier"] = 1
    (study,) = [run.data.tags["study"] for run in studies.parents("judge") if run.data.tags["seed"] == "1"]
    kept = studies.client.get_model_version("abcd-second-judge", "2").run_id
    before, files = studies.trials(), models(studies.store)
    doomed = {run_id for run_id, run in before.items() if run.data.tags["trial.study"] == study} - {kept}
    assert len(doomed) == 2

    uri = f"sqlite:///{studies.store}/mlflow.db"
    names: dict = {}
    for block in blocks("python"):
        exec(block.replace("sqlite:///mlruns/mlflow.db", uri).replace("mnist/latent-gan/b5a8276a", study), names)
    (script,) = blocks("bash")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    (studies.store.parent / "mlruns").symlink_to(studies.store)
    shell = ["bash", "-e", "-c", script]
    done = subprocess.run(shell, cwd=studies.store.parent, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

    assert studies.trials().keys() == before.keys() - doomed
    assert models(studies.store) == files - len(doomed)
    assert {each.name: int(each.version) for each in studies.client.search_model_versions()} == champions
    for model, number in champions.items():
        load_model(model, store=studies.store)
        assert studies.champion(model) == number
    studies.run(*first)
    assert studies.trials().keys() == before.keys() - doomed, "the studies that are left train nothing"
    studies.run(*second)
    assert len(studies.trials()) == len(before), "what was deleted is made again"
