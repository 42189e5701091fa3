"""What the tests of trials share: small lists and searches, their call under a parent run, and the runs afterwards."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mlflow

from study.engine.queue import Queue
from study.engine.runner import Objective, Runner
from study.engine.search import Search, choice, integer, log_uniform
from study.engine.trial import Trial
from study.results import Result
from tracking.registry import Direction
from tracking.runs import Run, study_run
from tracking.store import Store

NAME = "tiny/test/0"
SPACE = {"x": log_uniform(0.01, 100), "n": integer(1, 9), "c": choice("a", "b")}
LOSS: Mapping[str, Direction] = {"loss": "minimize"}
GIVEN = [{"x": 0.5, "n": 2, "c": "a"}, {"x": 50.0, "n": 3, "c": "b"}]
Asked = Callable[[Runner], Callable[[], list[Result]]]


def listed(objective: Objective, trials: Sequence[Mapping[str, Any]] = GIVEN, title: str = "", **options: Any) -> Asked:
    """A list of trials of one objective."""
    return lambda runner: runner.enqueue(trials, objective, title, objectives=LOSS, **options)


def searched(objective: Objective, trials: int, space: Any = SPACE, title: str = "s", **options: Any) -> Asked:
    """A search of one objective over `SPACE`."""
    return lambda runner: runner.enqueue(Search(LOSS, space, trials, **options), objective, title)


@contextmanager
def runner(store: Store, name: str = NAME) -> Iterator[Runner]:
    """What a study has: the queue, and a runner under the parent run."""
    with study_run(store, store.experiment("tiny/test"), name) as parent:
        found = Runner(queue=Queue(store), parent=parent, name=name, label="test", seed_for=lambda number: number)
        try:
            yield found
        finally:
            found.leave()


def run(store: Store, *parts: Asked, name: str = NAME) -> list[Result]:
    """Run these parts one after the other, and return their results."""
    with runner(store, name) as found:
        finish = [part(found) for part in parts]
        return [result for each in finish for result in each()]


def parent_of(store: Store) -> Run:
    """The parent run of the study."""
    experiment = store.experiment("tiny/test")
    (found,) = mlflow.MlflowClient().search_runs([experiment], f"tags.study = '{NAME}'")
    return Run(found.info.run_id, experiment, NAME)


def trial_runs(store: Store, which: str = "tags.`trial.number` != ''") -> list[mlflow.entities.Run]:
    """The runs of all trials, or of some, the oldest first."""
    experiment = store.experiment("tiny/test")
    return mlflow.MlflowClient().search_runs([experiment], which, order_by=["attributes.start_time ASC"])


def states(store: Store) -> list[tuple[str, str]]:
    """The status and the state of every trial's run, the oldest first."""
    return [(found.info.status, found.data.tags["state"]) for found in trial_runs(store)]


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
