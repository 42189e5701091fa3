"""What the tests of trials share: small lists and searches, their call under a parent run, and the runs afterwards."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import mlflow

from study.engine.queue import Queue, key_of
from study.engine.runner import Objective, Part, Runner
from study.engine.search import Result, Search, choice, integer, log_uniform
from study.engine.trial import Trial
from tracking.runs import Run, study_run
from tracking.store import Store

NAME = "tiny/test/0"
SPACE = {"x": log_uniform(0.01, 100), "n": integer(1, 9), "c": choice("a", "b")}
GIVEN = [{"x": 0.5, "n": 2, "c": "a"}, {"x": 50.0, "n": 3, "c": "b"}]


def listed(
    objective: Objective,
    trials: Sequence[Mapping[str, Any]] = GIVEN,
    title: str = "",
    name: str = NAME,
    optional: bool = False,
) -> Part:
    """A list of trials of one objective, of the study of this name."""
    keys = {key_of(params): dict(params) for params in trials}
    return Part(f"{name}/{title}", title, keys, objective, {"loss": "minimize"}, optional=optional)


def searched(
    objective: Objective, trials: int, space: Mapping[str, Any] = SPACE, title: str = "s", **options: Any
) -> Part:
    """A search of one objective over `SPACE`."""
    search = Search({"loss": "minimize"}, space, trials, **options)
    keys: dict[str, dict[str, Any]] = {f"free {number}": {} for number in range(trials)}
    return Part(f"{NAME}/{title}", title, keys, objective, search.objectives, search, search.optional)


@contextmanager
def runner(store: Store, name: str = NAME) -> Iterator[Runner]:
    """What a study has: the queue, and a runner under the parent run."""
    about: dict[str, Any] = {"title": "a study", "description": "", "tags": {}}
    with (
        closing(Queue(store)) as queue,
        study_run(store, store.experiment("tiny/test"), name, **about) as parent,
        closing(Runner(queue, parent, label="test", seed_for=lambda number: number)) as found,
    ):
        yield found


def run(store: Store, *parts: Part, name: str = NAME) -> list[Result]:
    """Run these parts one after the other, and return their results."""
    with runner(store, name) as found:
        for part in parts:
            found.enqueue(part)
        return [result for part in parts for result in found.finish(part)]


def parent_of(store: Store) -> Run:
    """The parent run of the study."""
    experiment = store.experiment("tiny/test")
    (found,) = mlflow.MlflowClient().search_runs([experiment], f"tags.study = '{NAME}'")
    return Run(found.info.run_id, experiment, NAME)


def states(store: Store) -> list[tuple[str, str]]:
    """The status and the state of every trial's run, the oldest first."""
    runs = mlflow.MlflowClient().search_runs(
        [store.experiment("tiny/test")], "tags.`trial.number` != ''", order_by=["attributes.start_time ASC"]
    )
    return [(found.info.status, found.data.tags["state"]) for found in runs]


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
