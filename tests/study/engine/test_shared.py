"""A queue that processes share, die in, and find again: each trial counts once, while its MLflow run stands."""

import os
import signal
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import no_hang
from searches import GIVEN, Recorder, dies, listed, parent_of, run, searched, states, trial_runs

from study.engine import queue
from study.engine.queue import Queue
from study.engine.trial import Trial
from tracking.errors import StoreError
from tracking.store import Store, open_store

KILLS = [
    (None, False, [("KILLED", "running")]),
    (True, True, []),  # the outcome is kept, its run still open
    (True, False, [("KILLED", "complete")]),
    (False, False, [("KILLED", "running")]),  # the trial does not know its run yet
]


def test_a_trial_whose_run_was_deleted_runs_again_with_its_parameters(store: Store) -> None:
    parts = lambda objective: (listed(objective), searched(objective, 2))  # noqa: E731
    first = run(store, *parts(lambda trial: (trial.params["x"],)))
    for deleted in (1, 3):
        mlflow.MlflowClient().delete_run(first[deleted].run_id)
    objective = Recorder(lambda trial: -1.0)
    again = run(store, *parts(objective))
    assert objective.ran == [first[1].params, first[3].params]
    assert [result.params for result in again] == [result.params for result in first]
    assert [again[0], again[2]] == [first[0], first[2]], "other trials stay"
    assert states(store) == [("FINISHED", "complete")] * 4
    mlflow.MlflowClient().delete_run(parent_of(store).run_id)
    assert run(store, *parts(objective)) == again, "trials go on under a parent that was made again"
    assert len(objective.ran) == 2, "none ran again"


@pytest.mark.parametrize("reports", [True, False])
def test_a_trial_whose_run_is_deleted_under_way_runs_again(store: Store, reports: bool) -> None:
    ran: list[dict[str, Any]] = []

    def objective(trial: Trial) -> tuple[float, ...]:
        ran.append(trial.params)
        if len(ran) == 2:
            (under_way,) = trial_runs(store, "tags.state = 'running' and tags.`trial.number` = '1'")
            mlflow.MlflowClient().delete_run(under_way.info.run_id)
        if reports:
            trial.report(1, {"loss": 1.0})
        return (1.0,)

    results = run(store, listed(objective))
    assert (ran, [result.params for result in results]) == ([GIVEN[0], GIVEN[1], GIVEN[1]], GIVEN)
    assert states(store) == [("FINISHED", "complete")] * 2
    assert mlflow.active_run() is None


def test_the_end_of_a_shorter_list_leaves_a_longer_one_s_trials_alone(store: Store) -> None:
    def objective(trial: Trial) -> tuple[float, ...]:
        if trial.params == GIVEN[1]:
            assert len(run(store, listed(Recorder(), GIVEN[:1]))) == 1
            assert states(store) == [("FINISHED", "complete"), ("RUNNING", "running")]
        return (1.0,)

    assert (len(run(store, listed(objective))), states(store)) == (2, [("FINISHED", "complete")] * 2)


def _die(folder: Path, at_the_end: bool | None, after: bool) -> None:
    """Die before or after the queue is told of the trial's end, else of its run; None: in the training."""
    note, kill = Queue.note, lambda *_: os.kill(os.getpid(), signal.SIGKILL)

    def dying(self: Queue, trial: Any, **values: Any) -> None:
        if at_the_end is not ("state" in values):
            return note(self, trial, **values)
        if after:
            note(self, trial, **values)
        return kill()

    Queue.note = dying  # type: ignore[method-assign]
    run(open_store(folder), listed(kill if at_the_end is None else lambda _: (1.0,)))


@pytest.mark.slow
@pytest.mark.parametrize(("at_the_end", "after", "expected"), KILLS)
def test_a_killed_trial_runs_again(store: Store, tmp_path: Path, monkeypatch, at_the_end, after, expected) -> None:
    dies(_die, tmp_path / "store", at_the_end, after)
    assert [status for status, _ in states(store)] == ["RUNNING"]
    monkeypatch.setattr(queue, "GRACE", 10**6)  # on one machine nobody waits for its silence
    with no_hang():
        assert [result.params for result in run(store, listed(lambda _: (1.0,)))] == GIVEN
    assert sorted(states(store)) == [("FINISHED", "complete")] * 2 + expected
    assert not list((tmp_path / "store" / "locks").glob("worker-*")), "dead processes leave no locks"


@pytest.mark.slow
def test_a_trial_whose_process_always_dies_is_given_up(store: Store, tmp_path: Path) -> None:
    for _ in range(queue.TRIES):
        dies(_die, tmp_path / "store", None, False)
    results = run(store, listed(Recorder()))
    assert [result.params for result in results] == GIVEN[1:]
    assert [status for status, _ in states(store)] == ["KILLED"] * queue.TRIES + ["FINISHED"]
    with pytest.raises(StoreError, match=r"its process died \(3 times\)"):
        run(store, listed(Recorder(), GIVEN[:1]))
