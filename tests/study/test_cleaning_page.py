"""docs/cleaning.md as it stands, on a store with two seeds: what it deletes is gone, and champions stay."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT
from studies import FAST, Studies

from tracking import load_model

PAGE = (ROOT / "docs" / "cleaning.md").read_text()
COMMAND = (*FAST, "--stages", "judge", "autoencoder")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def models(store: Path) -> int:
    return len(list((store / "artifacts").rglob("model.pt2")))


def test_a_study_and_old_versions_go_and_champions_stay(studies: Studies, letters: Path) -> None:
    """Of the second seed's autoencoder study, whose model is no champion; transfer's study stays as it is."""
    other = (*COMMAND, "--data", letters, "--seed", 1)
    studies.run(*other)
    for model in ("abcd-judge", "abcd-second-judge", "abcd-third-judge"):
        studies.crown(model, 2)
    studies.crown("abcd-autoencoder", 1)
    for model in studies.client.search_registered_models():  # those of a protocol, as if the first had been the best
        for alias in model.aliases.keys() - {"champion"}:
            champion = model.aliases["champion"]
            studies.client.set_registered_model_alias(model.name, alias, champion)
    (study,) = [run.data.tags["study"] for run in studies.parents("autoencoder") if run.data.tags["seed"] == "1"]
    before, files = studies.trials(), models(studies.store)
    doomed = {run_id for run_id, run in before.items() if run.data.tags["trial.study"] == study}

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
    versions = {each.name: int(each.version) for each in studies.client.search_model_versions()}
    assert versions == dict.fromkeys(versions, 1) | {f"abcd-{kind}judge": 2 for kind in ("", "second-", "third-")}
    for model, number in versions.items():
        load_model(model, store=studies.store)
        assert studies.champion(model) == number
    studies.run(*COMMAND, "--data", letters)
    assert studies.trials().keys() == before.keys() - doomed, "the study that is left trains nothing"
    studies.run(*other)
    assert len(studies.trials()) == len(before), "what was deleted is made again"
