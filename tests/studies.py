"""Studies that take seconds, run in the test's own process, and what a test asks of their stores."""

import re
import shutil
from pathlib import Path
from typing import get_args

import mlflow
import pytest
from commands import Done, call
from mlflow.entities import Run, ViewType

from study.measures.stats import Verdict
from tracking.store import open_store

AUTOENCODERS = ("--autoencoder.latent-dims", "3", "--autoencoder.free-trials", "0")
FAST = ("smoke", "--judge.epochs", "2", *AUTOENCODERS, "--transfer.epochs", "1", "--transfer.semi-epochs", "1")
"""A preset and flags with which the stages of `TRIALS` train nine small models."""
TRIALS = {"judge": 3, "autoencoder": 2, "transfer": 5}
ALL = ("--stages", *TRIALS)


def figures_of(line: str) -> list[str]:
    """The columns of figures in a line of the table, without the verdict; none of a stage's own line."""
    return [cell for cell in re.split(r"\s{2,}", line.strip())[1:] if cell not in get_args(Verdict)]


class Studies:
    """Runs studies on one store, and looks into it."""

    def __init__(self, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.store, self._capsys = store, capsys

    @property
    def client(self) -> mlflow.MlflowClient:
        open_store(self.store)
        return mlflow.MlflowClient()

    def call(self, *arguments: object) -> Done:
        """`python -m study.run ARGUMENTS --store STORE`, whatever comes of it."""
        return call("run", self._capsys, *arguments, "--store", self.store, "--table")

    def run(self, *arguments: object) -> Done:
        """The same, which must come to its end."""
        done = self.call(*arguments)
        assert done.code == 0, done.errors
        return done

    def runs(self) -> list[Run]:
        """All runs that were not deleted, the oldest first."""
        if not (self.store / "mlflow.db").exists():
            return []
        experiments = [each.experiment_id for each in self.client.search_experiments(ViewType.ACTIVE_ONLY)]
        return list(self.client.search_runs(experiments, order_by=["attributes.start_time ASC"], max_results=1000))

    def trials(self, stage: str = "") -> dict[str, Run]:
        """The runs of all trials (of a stage), by id."""
        trials = [each for each in self.runs() if "trial.number" in each.data.tags]
        return {each.info.run_id: each for each in trials if f"/{stage}" in each.data.tags["trial.study"]}

    def parents(self, stage: str) -> list[Run]:
        """The parent runs of a stage's studies, the oldest first."""
        return [each for each in self.runs() if f"/{stage}/" in each.data.tags.get("study", "")]

    def champion(self, model: str) -> int:
        """The number of the version that has the alias."""
        return int(self.client.get_model_version_by_alias(model, "champion").version)

    def crown(self, model: str, number: int) -> None:
        """Make this version the champion by hand."""
        self.client.set_registered_model_alias(model, "champion", str(number))


def copied(store: Path, folder: Path) -> Path:
    """A copy of a store, to do something to."""
    return Path(shutil.copytree(store, folder))
