"""What the tests of searches share: a small search, its call under a parent run, and what the runs say afterwards."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlflow

from study.engine.search import Objective, Origin, Result, Search, Trial, choice, integer, log_uniform, named
from study.engine.trials import run_search
from tracking.runs import Run, study_run
from tracking.store import Store

NAME = "tiny/test/0"
SPACE = {"x": log_uniform(0.01, 100), "n": integer(1, 9), "c": choice("a", "b")}
FIXED = [{"x": 0.5, "n": 2, "c": "a"}, {"x": 50.0, "n": 3, "c": "b"}]


def search(fixed: Sequence[Mapping[str, Any]] = FIXED, free: int = 0, **options: Any) -> Search:
    """A search of one objective over `SPACE`."""
    return Search({"loss": "minimize"}, SPACE, named([dict(params) for params in fixed]), free, **options)


def run(store: Store, searched: Search, objective: Objective, name: str = NAME, *, code: str = "") -> list[Result]:
    """What a stage does: the parent run, and the search under it."""
    about: dict[str, Any] = {"title": "a study", "description": "", "tags": {}}
    with study_run(store, store.experiment("tiny/test"), name, **about) as parent:
        return run_search(searched, objective, store, parent, name=name, label="test", origin=Origin(code=code))


def parent_of(store: Store, name: str = NAME) -> Run:
    """The parent run of the study."""
    experiment = store.experiment("tiny/test")
    (found,) = mlflow.MlflowClient().search_runs([experiment], f"tags.study = '{name}'")
    return Run(found.info.run_id, experiment, name)


def states(store: Store) -> list[tuple[str, str]]:
    """The status and the Optuna state of every trial's run, the oldest first."""
    runs = mlflow.MlflowClient().search_runs(
        [store.experiment("tiny/test")], "tags.`optuna.trial` != ''", order_by=["attributes.start_time ASC"]
    )
    return [(found.info.status, found.data.tags["optuna.state"]) for found in runs]


class Recorder:
    """An objective that remembers the parameters that it ran."""

    def __init__(self, loss: Callable[[Trial], float] = lambda trial: 1.0) -> None:
        self.ran: list[dict[str, Any]] = []
        self._loss = loss

    def __call__(self, trial: Trial) -> tuple[float, ...]:
        self.ran.append(trial.params)
        return (self._loss(trial),)


def dies(work: Callable[..., None], *arguments: object) -> None:
    """Do this in a process of its own, which is killed by it."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
