"""What becomes of a trial: complete, pruned, failed, stopped; each is named, and the study goes on."""

import re
from collections.abc import Callable
from typing import Any

import mlflow
import pytest
import torch
from searches import GIVEN, Recorder, listed, parent_of, run, runner, searched, states, trial_runs

from study.engine import queue
from study.engine.search import Pruned
from study.engine.trial import Trial
from study.training.loops import check_finite
from tracking.errors import StoreError
from tracking.store import Store


def reasons(store: Store, state: str = "%") -> list[str]:
    """Of the trials that ended in this state, or of all; the oldest first."""
    return [each.data.tags["reason"] for each in trial_runs(store, f"tags.state LIKE '{state}'")]


def _raise(error: BaseException) -> float:
    raise error


OUTCOMES: list[tuple[Callable[[], float], str, str]] = [
    (lambda: check_finite(3, {"val/loss": float("nan")}) or 0.0, "failed", r"val/loss is nan after epoch 3"),
    (lambda: float("inf"), "failed", r"loss is inf"),
    (lambda: float(torch.empty(10**15).sum()), "failed", r"out of memory: .*can't allocate memory"),
    (lambda: _raise(MemoryError("Unable to allocate 8 PiB")), "failed", r"out of memory: Unable to allocate 8 PiB"),
    (lambda: _raise(torch.OutOfMemoryError("CUDA out of memory.")), "failed", r"out of memory: CUDA out of memory"),
    (lambda: _raise(Pruned("collapsed")), "pruned", "collapsed"),
    (lambda: 1.0, "complete", "loss=1"),
]


def test_the_outcome_of_every_trial_is_named_and_the_study_goes_on(store: Store) -> None:
    trials = [{"number": number} for number in range(len(OUTCOMES))]
    objective = Recorder(lambda trial: OUTCOMES[trial.params["number"]][0]())
    results = run(store, listed(objective, trials))
    assert [result.params for result in results] == trials[-1:]
    status = {"failed": "FAILED", "pruned": "FINISHED", "complete": "FINISHED"}
    assert states(store) == [(status[state], state) for _, state, _ in OUTCOMES]
    assert all(re.search(rule, told) for (_, _, rule), told in zip(OUTCOMES, reasons(store), strict=True))
    assert run(store, listed(objective, trials)) == results
    assert objective.ran == trials, "none is tried again"
    with pytest.raises(StoreError, match=r"no trial of .*complete: loss is inf"):
        run(store, listed(objective, trials[1:2]))
    assert run(store, listed(objective, trials[1:2], optional=True)) == []


def report_x(trial: Trial) -> tuple[float, ...]:
    """An objective that reports the parameter x, five times."""
    for epoch in range(1, 6):
        trial.report(epoch, {"val/fd": trial.params["x"], "critic/loss": 0.0})
    return (trial.params["x"],)


def test_hopeless_trials_of_a_search_are_pruned_and_told_with_their_last_value(store: Store) -> None:
    pruning = {"prune_on": "val/fd"}
    with runner(store) as found:
        search = searched(report_x, 12, **pruning)(found)
        given = listed(report_x, [{"x": 99.0}, {"x": 98.0}])(found)
        results = search()
        pruned = found.pruned("s")
        assert [result.values for result in given()] == [(99.0,), (98.0,)], "given trials run to their end"
        assert 0 < len(pruned) == 12 - len(results)
        assert all(result.values == (result.params["x"],) for result in pruned)
        assert all(re.search(r"val/fd .* at epoch \d", reason) for reason in reasons(store, "pruned"))
        mlflow.MlflowClient().delete_run(pruned[0].run_id)
    again = run(store, searched(lambda _: (1.0,), 12, **pruning))
    assert pruned[0].params in [result.params for result in again], "its run was deleted: it ran again"


@pytest.mark.parametrize("lost", [KeyboardInterrupt(), StoreError("the store was lost: disk is full")])
def test_a_stopped_trial_runs_again_with_the_same_parameters(store: Store, lost: BaseException) -> None:
    objective = Recorder(lambda trial: 1.0 if len(objective.ran) != 2 else _raise(lost))
    with pytest.raises(type(lost)):
        run(store, searched(objective, 3))
    assert (len(run(store, searched(objective, 3))), len(objective.ran)) == (3, 4)
    assert objective.ran[2] == objective.ran[1]
    status = "KILLED" if isinstance(lost, KeyboardInterrupt) else "FAILED"
    assert states(store)[1:] == [(status, "stopped"), *[("FINISHED", "complete")] * 2]


def test_an_error_that_may_pass_is_tried_again_three_times(store: Store, caplog) -> None:
    passing = Recorder(lambda trial: 1.0 if len(passing.ran) != 1 else _raise(OSError("disk is busy")))
    assert (len(run(store, listed(passing))), passing.ran) == (2, [GIVEN[0], *GIVEN])
    assert "OSError: disk is busy" in caplog.text
    lasting = Recorder(lambda trial: _raise(OSError("disk is gone")))
    with pytest.raises(StoreError, match=r"OSError: disk is gone \(3 times\)"):
        run(store, listed(lasting, GIVEN[:1], "lasting"))
    assert len(lasting.ran) == queue.TRIES


def test_a_stage_s_own_bug_is_raised_at_once(store: Store) -> None:
    """With the author's traceback; once it is mended, the same call goes on."""
    objective = Recorder(lambda trial: float(len(None)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="NoneType") as raised:
        run(store, listed(objective))
    assert any(entry.name == "<lambda>" for entry in raised.traceback)
    assert (len(objective.ran), states(store)) == (1, [("FAILED", "stopped")])
    assert len(run(store, listed(Recorder()))) == 2


@pytest.mark.parametrize("call", ["create_run", "update_run", "log_batch", "set_terminated"])
def test_a_stop_in_mid_call_is_no_death_and_leaves_no_run_open(store: Store, monkeypatch, call: str) -> None:
    real = getattr(mlflow.MlflowClient, call)

    def stopped(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(mlflow.MlflowClient, call, real)
        real(*given, **named)
        raise KeyboardInterrupt  # before anybody has the answer

    # The first run that is made is the parent; after the call that ends a trial's run, the trial is complete.
    for _ in range({"create_run": queue.TRIES + 2, "set_terminated": 1}.get(call, queue.TRIES + 1)):
        monkeypatch.setattr(mlflow.MlflowClient, call, stopped)
        with pytest.raises(KeyboardInterrupt):
            run(store, searched(Recorder(), 1))
        runs = mlflow.MlflowClient().search_runs([store.experiment("tiny/test")])
        assert "RUNNING" not in {each.info.status for each in runs}
    monkeypatch.undo()
    assert len(run(store, searched(Recorder(), 1))) == 1
    assert parent_of(store).run_id
