"""What becomes of a trial: complete, pruned, failed, stopped; each is named, and the study goes on."""

import re
from typing import Any

import mlflow
import pytest
import torch
from searches import FIXED, NAME, Recorder, parent_of, run, search, states

from models.autoencoder import Autoencoder
from study.engine import attempt, slots, trials
from study.engine.search import Pruned, Trial, named
from study.measures.latents import max_abs_pcc
from study.training.autoencoder import AutoencoderSettings, train_autoencoder
from study.training.loops import check_finite
from tracking.errors import StoreError
from tracking.store import Store


def reasons(store: Store, state: str) -> list[str]:
    """Those of the trials that ended in this state."""
    found = mlflow.MlflowClient().search_runs([store.experiment("tiny/test")], f"tags.`optuna.state` = '{state}'")
    return [each.data.tags["reason"] for each in found]


def test_the_outcome_of_every_trial_is_named_and_the_study_goes_on(store: Store) -> None:
    def objective(trial: Trial) -> tuple[float, ...]:
        if trial.params["n"] == 2:
            raise FloatingPointError("critic/loss is nan after epoch 3")
        if trial.params["n"] == 3:
            raise Pruned("collapsed")
        return (1.0,)

    searched = search([*FIXED, {"x": 1.0, "n": 4, "c": "a"}])
    results = run(store, searched, objective)
    assert [result.params["n"] for result in results] == [4]
    assert states(store) == [("FAILED", "FAIL"), ("FINISHED", "PRUNED"), ("FINISHED", "COMPLETE")]
    assert reasons(store, "FAIL") == ["critic/loss is nan after epoch 3"]
    assert reasons(store, "PRUNED") == ["collapsed"]
    again = Recorder()
    assert run(store, searched, again) == results
    assert again.ran == [], "failed trials stay failed"


def _raise(error: Exception) -> float:
    raise error


def _nan_loss(_: Trial) -> float:
    check_finite(3, {"val/loss": float("nan")})
    return 0.0


def _diverging_autoencoder(trial: Trial) -> float:
    images = torch.randint(0, 255, (64, 1, 16, 16), dtype=torch.uint8)
    torch.manual_seed(0)
    settings = AutoencoderSettings(epochs=3, batch_size=32, learning_rate=1e30)
    train_autoencoder(Autoencoder(3, "conv", (1, 16, 16), channels=(2, 4)), images, images, settings, trial.report)
    return 0.0


@pytest.mark.parametrize(
    ("break_down", "reason"),
    [
        (_nan_loss, r"val/loss is nan after epoch 3"),
        (_diverging_autoencoder, r"(train|val)/loss is (nan|inf) after epoch 1"),
        (lambda _: float("inf"), r"loss is inf"),
        (lambda _: max_abs_pcc(torch.rand(50, 3) * torch.tensor([1, 0, 1])), r"coordinates \[1\] are constant"),
        (lambda _: float(torch.empty(10**15).sum()), r"out of memory: .*can't allocate memory"),
        (lambda _: _raise(MemoryError("Unable to allocate 8 PiB")), r"out of memory: Unable to allocate 8 PiB"),
        (lambda _: _raise(torch.OutOfMemoryError("CUDA out of memory.")), r"out of memory: CUDA out of memory"),
    ],
)
def test_what_the_numbers_bring_about_ends_the_trial_with_a_reason_and_the_study_goes_on(
    store: Store, break_down, reason
) -> None:
    objective = Recorder(lambda trial: break_down(trial) if trial.params["n"] == 2 else 1.0)
    results = run(store, search(), objective)
    assert objective.ran == FIXED, "it is not tried again"
    assert [result.params for result in results] == FIXED[1:]
    assert states(store) == [("FAILED", "FAIL"), ("FINISHED", "COMPLETE")]
    (told,) = reasons(store, "FAIL")
    assert re.search(reason, told)


def test_a_study_without_a_complete_trial_says_why(store: Store) -> None:
    def objective(trial: Trial) -> tuple[float, ...]:
        raise FloatingPointError("generator/loss is inf after epoch 1")

    with pytest.raises(StoreError, match="no trial of tiny/test/0 is complete: fail generator/loss is inf"):
        run(store, search(), objective)
    assert run(store, search(optional=True), objective) == []


def report_x(trial: Trial) -> tuple[float, ...]:
    """An objective that reports the parameter x, five times."""
    for epoch in range(1, 6):
        trial.report(epoch, {"val/fd": trial.params["x"], "critic/loss": 0.0})
    return (trial.params["x"],)


def fixed_x(*values: float) -> list[dict]:
    return [{"x": x, "n": 1, "c": "a"} for x in values]


PRUNING = {"prune_on": "val/fd", "prune_after": 2}


def test_hopeless_free_trials_are_pruned(store: Store) -> None:
    results = run(store, search(fixed_x(1.0, 1.1, 1.2), free=12, **PRUNING), report_x)
    outcomes = [state for _, state in states(store)]
    assert len(outcomes) == 15
    assert outcomes[:5] == ["COMPLETE"] * 5
    assert 0 < outcomes.count("PRUNED") == 15 - len(results)
    assert set(reasons(store, "PRUNED")) == {"val/fd above the median of the others at epoch 2"}


def test_a_fixed_trial_is_never_pruned_also_where_it_comes_after_good_free_ones(store: Store) -> None:
    def good(trial: Trial) -> tuple[float, ...]:
        trial.report(3, {"val/fd": 0.001})
        return (0.001,)

    run(store, search(fixed_x(1.0), free=8, **PRUNING), good)
    hopeless = fixed_x(99.0, 98.0, 97.0)
    results = run(store, search(fixed_x(1.0) + hopeless, free=16, **PRUNING), report_x)
    by_slot = {result.slot: result.values for result in results}
    assert [by_slot[slot] for slot in named(hopeless)] == [(99.0,), (98.0,), (97.0,)]
    assert "PRUNED" in [state for _, state in states(store)], "free ones that are hopeless are"


def test_pruned_trials_are_told_with_what_they_last_reported(store: Store) -> None:
    def mixed(trial: Trial) -> tuple[float, ...]:
        trial.report(1, {"loss": 5.0})
        trial.report(2, {"loss": 4.0})
        if trial.params["n"] == 2:
            raise Pruned("collapsed to 2 digits at epoch 2")
        return (1.0,)

    run(store, search(prune_on="loss", prune_after=9), mixed)
    (stopped,) = trials.pruned(NAME, store, parent_of(store))
    assert stopped.params == FIXED[0]
    assert stopped.values == (4.0,)
    assert reasons(store, "PRUNED") == ["collapsed to 2 digits at epoch 2"]
    mlflow.MlflowClient().delete_run(stopped.run_id)
    assert trials.pruned(NAME, store, parent_of(store)) == []


@pytest.mark.parametrize("lost", [KeyboardInterrupt(), StoreError("the store was lost: disk is full")])
def test_a_stopped_trial_is_tried_again_with_the_same_parameters_by_the_next_call(
    store: Store, lost: BaseException
) -> None:
    objective = Recorder(lambda trial: 1.0 if len(objective.ran) != 3 else _raise(lost))
    with pytest.raises(type(lost)):
        run(store, search(free=2), objective)
    assert len(objective.ran) == 3
    assert len(run(store, search(free=2), objective)) == 4
    assert len(objective.ran) == 5
    assert objective.ran[3] == objective.ran[2]
    status = "KILLED" if isinstance(lost, KeyboardInterrupt) else "FAILED"
    assert states(store)[2] == (status, "STOPPED")
    assert states(store)[3:] == [("FINISHED", "COMPLETE")] * 2


def test_a_trial_that_ends_in_an_error_is_tried_again_at_once(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    objective = Recorder(lambda trial: 1.0 if len(objective.ran) != 3 else _raise(KeyError("width")))
    assert len(run(store, search(free=2), objective)) == 4
    assert len(objective.ran) == 5
    assert objective.ran[3] == objective.ran[2]
    assert states(store)[2] == ("FAILED", "ERROR")
    assert reasons(store, "ERROR") == ["KeyError: 'width'"]
    assert "trial 2 is run again, since KeyError: 'width'" in caplog.text


def test_errors_that_come_again_and_again_fail_the_trial_until_the_code_has_changed(store: Store) -> None:
    def call(code: str, mended: bool = False) -> tuple[int, int]:
        """How many results there are, and how many trials were run for them."""
        objective = Recorder(lambda trial: 1.0 if mended or trial.params["n"] != 2 else _raise(ValueError("n is even")))
        return len(run(store, search(), objective, code=code)), len(objective.ran)

    assert call("c0ffee") == (1, slots.TRIES + 1)
    assert call("c0ffee", mended=True) == (1, 0), "failed for good, as far as this code goes"
    assert call("0ther") == (1, slots.TRIES)
    assert call("f1xed", mended=True) == (2, 1)
    assert sorted(states(store)) == [("FAILED", "ERROR")] * 2 * slots.TRIES + [("FINISHED", "COMPLETE")] * 2


def test_a_study_of_which_every_trial_ends_in_an_error_says_why(store: Store) -> None:
    message = r"no trial of tiny/test/0 is complete: failed 3 times \(.*\): ValueError: n is even$"
    with pytest.raises(StoreError, match=message):
        run(store, search(), lambda trial: (_raise(ValueError("n is even")),))


def test_a_stop_before_the_run_has_begun_is_no_death(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    for _ in range(slots.RETRIES + 2):
        with monkeypatch.context() as patched:
            patched.setattr(attempt, "trial_run", stopped)
            with pytest.raises(KeyboardInterrupt):
                run(store, search(), lambda trial: (1.0,))
    assert len(run(store, search(), lambda trial: (1.0,))) == 2
    assert states(store) == [("FINISHED", "COMPLETE")] * 2


@pytest.mark.parametrize("call", ["create_run", "update_run", "log_batch", "set_terminated"])
def test_a_stop_in_the_middle_of_a_call_leaves_no_run_open(
    store: Store, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    run(store, search(), lambda trial: (1.0,))  # so that the next run that is made is a trial's
    real = getattr(mlflow.MlflowClient, call)
    stopped: list[str] = []

    def stopped_once(*given: Any, **named: Any) -> Any:
        answer = real(*given, **named)
        if not stopped:
            stopped.append(call)
            raise KeyboardInterrupt  # before anybody has the answer
        return answer

    monkeypatch.setattr(mlflow.MlflowClient, call, stopped_once)
    with pytest.raises(KeyboardInterrupt):
        run(store, search(free=1), Recorder())
    assert stopped
    monkeypatch.undo()
    runs = mlflow.MlflowClient().search_runs([store.experiment("tiny/test")])
    assert "RUNNING" not in {each.info.status for each in runs}
    assert len(run(store, search(free=1), Recorder())) == 3
