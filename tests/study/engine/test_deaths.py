"""A process that dies, wherever it is: its trial is tried again, and nothing is left lying."""

import os
import signal
from pathlib import Path

import optuna
import pytest
from conftest import no_hang
from searches import FIXED, dies, run, search, states

from study.engine import slots
from study.engine.search import Trial
from tracking.errors import StoreError
from tracking.store import Store, open_store


def _die_in_trial(folder: Path, number: int) -> None:
    def objective(trial: Trial) -> tuple[float, ...]:
        if trial.number == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return (1.0,)

    run(open_store(folder), search(free=1), objective)


def test_a_trial_whose_process_was_killed_is_ended_and_tried_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(_die_in_trial, tmp_path / "store", 1)
    assert states(store) == [("FINISHED", "COMPLETE"), ("RUNNING", "RUNNING")]
    monkeypatch.setattr(slots, "GRACE", 10**6)  # on one machine nobody waits for its silence
    with no_hang():
        results = run(store, search(free=1), lambda trial: (2.0,))
    assert [result.params for result in results[:1]] == FIXED[:1]
    assert FIXED[1] in [result.params for result in results]
    assert len(results) == 3
    assert sorted(states(store)) == [("FINISHED", "COMPLETE")] * 3 + [("KILLED", "RUNNING")]


def _die_in_every_trial(folder: Path) -> None:
    def objective(trial: Trial) -> tuple[float, ...]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    run(open_store(folder), search(FIXED[:1]), objective)


def test_a_trial_whose_process_always_dies_is_given_up(store: Store, tmp_path: Path) -> None:
    for _ in range(1 + slots.RETRIES):
        dies(_die_in_every_trial, tmp_path / "store")
    with pytest.raises(StoreError, match="is complete: given up, since its process died 3 times"):
        run(store, search(FIXED[:1]), lambda trial: (1.0,))
    assert [status for status, _ in states(store)] == ["KILLED"] * (1 + slots.RETRIES)


def _die_in_a_call(folder: Path, owner: type, name: str, after: bool) -> None:
    call = getattr(owner, name)

    def dying(*args: object, **kwargs: object) -> object:
        if name == "set_user_attr" and args[1] != slots.RUN_ID:
            return call(*args, **kwargs)
        if after:
            call(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    setattr(owner, name, dying)
    run(open_store(folder), search(), lambda trial: (1.0,))


@pytest.mark.parametrize(
    ("owner", "name", "after", "expected"),
    [
        (optuna.Study, "tell", True, []),  # the outcome is told, its run still open
        (optuna.Study, "tell", False, [("KILLED", "COMPLETE")]),
        (optuna.Trial, "set_user_attr", False, [("KILLED", "RUNNING")]),  # the trial does not know its run yet
    ],
)
def test_a_process_that_died_between_two_writes(store: Store, tmp_path: Path, owner, name, after, expected) -> None:
    dies(_die_in_a_call, tmp_path / "store", owner, name, after)
    assert [status for status, _ in states(store)] == ["RUNNING"]
    results = run(store, search(), lambda trial: (1.0,))
    assert sorted(result.params["x"] for result in results) == [0.5, 50.0]
    assert sorted(states(store)) == [("FINISHED", "COMPLETE")] * 2 + expected


def test_dead_processes_leave_no_locks(store: Store, tmp_path: Path) -> None:
    dies(_die_in_every_trial, tmp_path / "store")
    locks = tmp_path / "store" / "locks"
    assert len(list(locks.glob("worker-*"))) == 1
    run(store, search(), lambda trial: (1.0,))
    assert not list(locks.glob("worker-*"))
