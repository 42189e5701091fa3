"""Studies on a cluster, on real servers: start the command, look into the databases as it runs, judge what is left."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psycopg
from conftest import ROOT
from mlflow.entities import Run
from servers import MlflowServer, Postgres, until

from tracking.store import open_store


class OnCluster:
    """Studies of cheap trials, each under a seed of its own; `folder` holds package, store and logs."""

    def __init__(self, folder: Path, tracking: MlflowServer, postgres: Postgres, engine: list[str]) -> None:
        self.workers, self.cluster = 2, None  # the latter: of class Slurm or Ray, where a test has set it
        self.folder, self.tracking, self.postgres, self.engine = folder, tracking, postgres, engine
        about = folder / "cheap-1.dist-info"
        about.mkdir(exist_ok=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: cheap\nVersion: 1\n")
        (about / "entry_points.txt").write_text("[study.stages]\ncheap = cheap_stage:STAGE\n")
        found = os.pathsep.join(map(str, (ROOT, folder, Path(__file__).parent)))
        self.environment = {**os.environ, "PYTHONPATH": found}
        self.places = ["--tracking-uri", tracking.url, "--storage", postgres.url, "--store", str(folder / "store")]

    def command(self, seed: int, *flags: object) -> list[str]:
        """The command line of a study."""
        study = ["smoke", "--data", "digits", "--stages", "cheap", "--seed", str(seed), "--workers", str(self.workers)]
        hold = ["--cheap.hold", str(self.hold(seed))]
        return [sys.executable, "-m", "study.run", *study, *hold, *self.engine, *self.places, *map(str, flags)]

    def hold(self, seed: int) -> Path:
        """The file that keeps the study's trials in mid-trial while it is there."""
        return self.folder / f"hold-{seed}"

    def release(self, seed: int) -> None:
        """From now on they come to their end."""
        self.hold(seed).unlink()

    def run(self, seed: int, *flags: object) -> subprocess.CompletedProcess[str]:
        """A study's command, to its end."""
        options: Any = {"cwd": ROOT, "env": self.environment, "capture_output": True, "text": True, "timeout": 300}
        return subprocess.run(self.command(seed, *flags), **options)

    @contextmanager
    def started(self, seed: int, *flags: object) -> Iterator["Command"]:
        """A study's command while it runs; its trials stay in mid-trial until they are released."""
        self.hold(seed).touch()
        log = self.folder / f"command-{seed}-{time.time_ns()}.log"
        with log.open("w") as out:
            options: Any = {"cwd": ROOT, "env": self.environment, "stdout": out, "stderr": out}
            options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # `&` has it ignored
            process = subprocess.Popen(self.command(seed, *flags), **options)
        try:
            yield Command(process, log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)

    def runs(self, seed: int, *, parent: bool = False) -> list[Run]:
        """The runs of the study's trials, or its own."""
        open_store(self.folder / "store", self.tracking.url, self.postgres.url)
        client = mlflow.MlflowClient()
        if (experiment := client.get_experiment_by_name("digits/cheap")) is None:
            return []
        found = client.search_runs([experiment.experiment_id], f"tags.seed = '{seed}'", max_results=1000)
        return [run for run in found if ("mlflow.parentRunId" in run.data.tags) != parent]

    def at_work(self, seed: int) -> set[str]:
        """The nodes on which trials are in their training."""
        running = [run for run in self.runs(seed) if run.info.status == "RUNNING" and "val/loss" in run.data.metrics]
        return {run.data.tags["node"] for run in running}

    def check(self, seed: int, asked: int, deaths: int = 0, stops: int = 0) -> Counter[str]:
        """Exactly the trials that were asked for, a champion that loads. Return how many ended on each node."""
        runs = self.runs(seed)
        assert Counter(run.info.status for run in runs) == Counter(FINISHED=asked, KILLED=deaths + stops)
        finished = [run for run in runs if run.info.status == "FINISHED"]
        assert len({run.data.params["x"] for run in finished}) == asked
        with psycopg.connect(self.postgres.url) as connection:
            query = "SELECT state, tries FROM study_trials WHERE run_id = ANY(%s)"
            rows = connection.execute(query, [[run.info.run_id for run in finished]]).fetchall()
        assert {state for state, _ in rows} == {"complete"}
        assert sum(tries for _, tries in rows) == asked + deaths, "to be stopped is no try"
        assert [run.info.status for run in self.runs(seed, parent=True)] == ["FINISHED"]
        model = mlflow.pyfunc.load_model("models:/digits-cheap@champion")
        assert model.predict(np.ones((3, 4), np.float32)).shape == (3, 2)
        return Counter(run.data.tags["node"] for run in finished)


@contextmanager
def on_servers(folder: Path, engine: list[str]) -> Iterator[OnCluster]:
    """Studies on servers that are there while the block runs."""
    postgres = Postgres()
    try:
        with MlflowServer(folder) as tracking:
            yield OnCluster(folder, tracking, postgres, engine)
    finally:
        postgres.remove()


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

    def until(self, ready: Callable[[], object]) -> None:
        """Wait until something is so; the command must not end before."""

        def is_so() -> bool:
            so = bool(ready())
            assert so or self.process.poll() is None, self.output
            return so

        until(is_so, f"what is waited for after {self.output}", 400)
