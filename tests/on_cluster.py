"""Studies on a cluster, on real servers: start the command, look into the databases as it runs, judge what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mlflow
import numpy as np
import optuna
from conftest import ROOT
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState
from servers import MlflowServer, Postgres

from study.engine.slots import SLOT
from tracking.store import open_store


class OnCluster:
    """Studies of cheap trials, each under a seed of its own.

    Args:
        folder: For the stage's package, the store's folder and logs.
        engine: The flags that name it.
        environment: What its commands need.
    """

    def __init__(
        self,
        folder: Path,
        tracking: MlflowServer,
        postgres: Postgres,
        engine: list[str],
        environment: Mapping[str, str],
    ) -> None:
        self.workers = 2
        self.folder, self.tracking, self.postgres, self.engine = folder, tracking, postgres, engine
        about = folder / "cheap-1.dist-info"
        about.mkdir(exist_ok=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: cheap\nVersion: 1\n")
        (about / "entry_points.txt").write_text("[study.stages]\ncheap = cluster_stage:STAGE\n")
        found = os.pathsep.join(map(str, (ROOT, folder, Path(__file__).parent)))
        self.environment = {**os.environ, **environment, "PYTHONPATH": found}
        self.places = ["--tracking-uri", tracking.url, "--storage", postgres.url, "--store", str(folder / "store")]

    def command(self, seed: int, *flags: object) -> list[str]:
        """The command line of a study."""
        study = ["smoke", "--data", "digits", "--stages", "cheap", "--seed", str(seed), "--workers", str(self.workers)]
        hold = ["--cheap.hold", str(self._hold(seed))]
        return [sys.executable, "-m", "study.run", *study, *hold, *self.engine, *self.places, *map(str, flags)]

    def hold(self, seed: int) -> None:
        """From now on the study's trials stay in mid-trial."""
        self._hold(seed).touch()

    def release(self, seed: int) -> None:
        """From now on they come to their end."""
        self._hold(seed).unlink()

    def run(self, seed: int, *flags: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """A study's command, to its end."""
        env = {**self.environment, **environment}
        return subprocess.run(
            self.command(seed, *flags), cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
        )

    @contextmanager
    def started(self, seed: int, *flags: object) -> Iterator[Command]:
        """A study's command while it runs; its trials stay in mid-trial until they are released."""
        self.hold(seed)
        log = self.folder / f"command-{seed}-{time.time_ns()}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                self.command(seed, *flags), cwd=ROOT, env=self.environment, stdout=out, stderr=out
            )
        try:
            yield Command(process, log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)

    def trials(self, seed: int) -> list[FrozenTrial]:
        """All attempts at the study's trials."""
        run_ids = {run.info.run_id for run in self.runs(seed)}
        storage = optuna.storages.RDBStorage(self._database)
        try:
            found = [trial for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)]
        finally:
            storage.remove_session()
            storage.engine.dispose()
        return [trial for trial in found if trial.user_attrs.get("mlflow.run_id") in run_ids]

    def runs(self, seed: int, *, parent: bool = False) -> list[Run]:
        """The runs of the study's trials, or its own."""
        open_store(self.folder / "store", self.tracking.url, self.postgres.url)
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name("digits/cheap")
        if experiment is None:
            return []
        found = client.search_runs([experiment.experiment_id], f"tags.seed = '{seed}'", max_results=1000)
        return [run for run in found if ("mlflow.parentRunId" in run.data.tags) != parent]

    def at_work(self, seed: int) -> set[str]:
        """The nodes on which trials are in their training."""
        running = [run for run in self.runs(seed) if run.info.status == "RUNNING" and "val/loss" in run.data.metrics]
        return {run.data.tags["node"] for run in running}

    def check(self, seed: int, asked: int, attempts: int) -> Counter[str]:
        """Exactly the trials that were asked for, none twice, nothing open, a champion that loads.

        Args:
            attempts: How many of them there must be.

        Returns:
            How many trials came to their end on each node.
        """
        trials = self.trials(seed)
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        assert Counter(trial.user_attrs[SLOT] for trial in complete).most_common(1)[0][1] == 1
        assert len(complete) == asked
        assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
        assert len(trials) == attempts
        runs = self.runs(seed)
        assert Counter(run.info.status for run in runs)["FINISHED"] == asked
        assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
        assert [run.info.status for run in self.runs(seed, parent=True)] == ["FINISHED"]
        model = mlflow.pyfunc.load_model("models:/digits-cheap@champion")
        assert model.predict(np.ones((3, 4), np.float32)).shape == (3, 2)
        return Counter(run.data.tags["node"] for run in runs if run.info.status == "FINISHED")

    def _hold(self, seed: int) -> Path:
        return self.folder / f"hold-{seed}"

    @property
    def _database(self) -> str:
        return self.postgres.url.replace("postgresql:", "postgresql+psycopg:").replace("{", "{{").replace("}", "}}")


class Command:
    """A command under way."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait(self, timeout: float = 500) -> int:
        """Its exit code."""
        return self.process.wait(timeout)

    def until(self, ready: Callable[[], object], timeout: float = 400) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + timeout
        while not ready():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.3)
