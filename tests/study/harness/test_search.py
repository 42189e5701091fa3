import json
import multiprocessing
import os
import re
import signal
import time
from pathlib import Path

import mlflow
import optuna
import pytest
import torch

from models.autoencoder import Autoencoder
from study import metrics, search, slots
from study.search import Pruned, Result, Search, Trial, pareto_front, run_search, study_name
from study.training import batches, check_finite, train_autoencoder
from tracking.runs import study_run, trial_run
from tracking.store import Store, StoreError, open_store

SPACE = {"x": search.log_uniform(0.01, 100), "n": search.integer(1, 9), "c": search.choice("a", "b")}
FIXED = [{"x": 0.5, "n": 2, "c": "a"}, {"x": 50.0, "n": 3, "c": "b"}]


def run(store: Store, searched: Search, objective, name: str = "tiny/test/0") -> list[Result]:
    with study_run(store, store.experiment("tiny/test"), name, "", {}) as parent:
        return run_search(name, searched, objective, store, parent, seed=0, label="test")


def states(store: Store) -> list[tuple[str, str]]:
    """The status and the Optuna state of every trial's run, the oldest first."""
    runs = mlflow.MlflowClient().search_runs(
        [store.experiment("tiny/test")], "tags.`optuna.trial` != ''", order_by=["attributes.start_time ASC"]
    )
    return [(found.info.status, found.data.tags["optuna.state"]) for found in runs]


def test_fixed_trials_run_first_and_free_ones_stay_in_range(store: Store) -> None:
    seen: list[dict] = []

    def objective(trial: Trial) -> tuple[float, ...]:
        seen.append(trial.params)
        return (trial.params["x"],)

    results = run(store, Search({"loss": "minimize"}, SPACE, FIXED, free=6), objective)
    assert seen[:2] == FIXED
    assert len(results) == len(seen) == 8
    assert [result.params for result in results] == seen
    assert all(0.01 <= p["x"] <= 100 and 1 <= p["n"] <= 9 and p["c"] in "ab" for p in seen)
    assert states(store) == [("FINISHED", "COMPLETE")] * 8


def test_parameters_that_were_tried_twice_count_once(store: Store) -> None:
    space = {"n": search.integer(1, 2)}
    results = run(store, Search({"loss": "minimize"}, space, [{"n": 1}, {"n": 2}], free=3), lambda trial: (1.0,))
    assert [(result.number, result.params) for result in results] == [(0, {"n": 1}), (1, {"n": 2})]
    assert len(states(store)) == 5


def test_a_second_call_runs_only_what_is_missing(store: Store) -> None:
    ran: list[dict] = []

    def objective(trial: Trial) -> tuple[float, ...]:
        ran.append(trial.params)
        return (1.0,)

    first = run(store, Search({"loss": "minimize"}, SPACE, FIXED, free=2), objective)
    assert run(store, Search({"loss": "minimize"}, SPACE, FIXED, free=2), objective) == first
    assert len(ran) == 4
    more = [*FIXED, {"x": 7.0, "n": 1, "c": "a"}]
    assert len(run(store, Search({"loss": "minimize"}, SPACE, more, free=4), objective)) == 7
    assert len(ran) == 7
    assert len({json.dumps(params) for params in ran}) == 7, "no point is proposed twice"
    assert run(store, Search({"loss": "minimize"}, SPACE, FIXED, free=2), objective) == first, "as many as asked for"


def test_the_outcome_of_every_trial_is_named_and_the_study_goes_on(store: Store) -> None:
    def objective(trial: Trial) -> tuple[float, ...]:
        if trial.params["n"] == 2:
            raise FloatingPointError("critic/loss is nan after epoch 3")
        if trial.params["n"] == 3:
            raise Pruned
        return (1.0,)

    fixed = [*FIXED, {"x": 1.0, "n": 4, "c": "a"}]
    results = run(store, Search({"loss": "minimize"}, SPACE, fixed), objective)
    assert [result.params["n"] for result in results] == [4]
    assert states(store) == [("FAILED", "FAIL"), ("FINISHED", "PRUNED"), ("FINISHED", "COMPLETE")]
    failed = mlflow.MlflowClient().search_runs([store.experiment("tiny/test")], "tags.`optuna.state` = 'FAIL'")
    assert failed[0].data.tags["reason"] == "critic/loss is nan after epoch 3"
    assert run(store, Search({"loss": "minimize"}, SPACE, fixed), objective) == results, "failed trials stay failed"


def _nan_loss(_: Trial) -> float:
    check_finite(3, {"val/loss": float("nan")})
    return 0.0


def _diverging_autoencoder(trial: Trial) -> float:
    images = torch.randint(0, 255, (64, 1, 28, 28), dtype=torch.uint8)
    torch.manual_seed(0)
    train_autoencoder(Autoencoder(latent_dim=3, architecture="conv"), images, images, 3, 32, 1e30, trial.report)
    return 0.0


@pytest.mark.parametrize(
    ("break_down", "reason"),
    [
        (_nan_loss, r"val/loss is nan after epoch 3"),
        (_diverging_autoencoder, r"(train|val)/loss is (nan|inf) after epoch 1"),
        (lambda _: float("inf"), r"loss is inf"),
        (lambda _: metrics.max_abs_pcc(torch.rand(50, 3) * torch.tensor([1, 0, 1])), r"coordinates \[1\] are constant"),
        (lambda _: float(next(batches(10, 20, torch.device("cpu"))).sum()), r"batch_size <= .* but got 20 and 10"),
        (lambda _: 1.0 / len([]), r"division by zero"),
    ],
)
def test_numeric_trouble_ends_the_trial_with_a_reason_and_the_study_goes_on(store: Store, break_down, reason) -> None:
    def objective(trial: Trial) -> tuple[float, ...]:
        return (break_down(trial) if trial.params["n"] == 2 else 1.0,)

    results = run(store, Search({"loss": "minimize"}, SPACE, FIXED), objective)
    assert [result.params for result in results] == FIXED[1:]
    assert states(store) == [("FAILED", "FAIL"), ("FINISHED", "COMPLETE")]
    (failed,) = mlflow.MlflowClient().search_runs([store.experiment("tiny/test")], "tags.`optuna.state` = 'FAIL'")
    assert re.search(reason, failed.data.tags["reason"])


def test_a_study_without_a_complete_trial_says_why(store: Store) -> None:
    def objective(trial: Trial) -> tuple[float, ...]:
        raise FloatingPointError("generator/loss is inf after epoch 1")

    with pytest.raises(StoreError, match="no trial of tiny/test/0 is complete: fail generator/loss is inf"):
        run(store, Search({"loss": "minimize"}, SPACE, FIXED), objective)
    assert run(store, Search({"loss": "minimize"}, SPACE, FIXED, optional=True), objective) == []


def test_a_hopeless_trial_is_pruned(store: Store) -> None:
    def objective(trial: Trial) -> tuple[float, ...]:
        for epoch in range(1, 6):
            trial.report(epoch, {"val/fd": trial.params["x"], "critic/loss": 0.0})
        return (trial.params["x"],)

    fixed = [{"x": x, "n": 1, "c": "a"} for x in (1.0, 1.1, 1.2)]
    pruning = Search({"loss": "minimize"}, SPACE, fixed, free=12, prune_on="val/fd", prune_after=2)
    results = run(store, pruning, objective)
    outcomes = [state for _, state in states(store)]
    assert len(outcomes) == 15
    assert outcomes[:5] == ["COMPLETE"] * 5
    assert 0 < outcomes.count("PRUNED") == 15 - len(results)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, RuntimeError])
def test_a_stopped_trial_is_tried_again_with_the_same_parameters(store: Store, interrupt: type) -> None:
    tried: list[dict] = []

    def objective(trial: Trial) -> tuple[float, ...]:
        tried.append(trial.params)
        if len(tried) == 3:
            raise interrupt
        return (1.0,)

    searched = Search({"loss": "minimize"}, SPACE, FIXED, free=2)
    with pytest.raises(interrupt):
        run(store, searched, objective)
    assert len(run(store, searched, objective)) == 4
    assert len(tried) == 5
    assert tried[3] == tried[2]
    status = "KILLED" if interrupt is KeyboardInterrupt else "FAILED"
    assert states(store)[2] == (status, "STOPPED")
    assert states(store)[3:] == [("FINISHED", "COMPLETE")] * 2


def _die_in_the_second_trial(folder: Path) -> None:
    store = open_store(folder)

    def objective(trial: Trial) -> tuple[float, ...]:
        if trial.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return (1.0,)

    run(store, Search({"loss": "minimize"}, SPACE, FIXED, free=1), objective)


def test_a_trial_whose_process_was_killed_is_ended_and_tried_again(store: Store, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_in_the_second_trial, args=(tmp_path / "store",))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert states(store) == [("FINISHED", "COMPLETE"), ("RUNNING", "RUNNING")]
    began = time.monotonic()
    results = run(store, Search({"loss": "minimize"}, SPACE, FIXED, free=1), lambda trial: (2.0,))
    assert time.monotonic() - began < slots.GRACE / 2, "on one machine nobody waits for its silence"
    assert [result.params for result in results[:1]] == FIXED[:1]
    assert FIXED[1] in [result.params for result in results]
    assert len(results) == 3
    assert sorted(states(store)) == [("FINISHED", "COMPLETE")] * 3 + [("KILLED", "RUNNING")]


def test_two_objectives_and_their_pareto_front(store: Store) -> None:
    fixed = [{"x": x, "n": n, "c": "a"} for x, n in ((1.0, 4), (2.0, 2), (3.0, 3), (4.0, 1), (1.0, 5))]
    results = run(
        store,
        Search({"a": "minimize", "b": "minimize"}, SPACE, fixed),
        lambda trial: (trial.params["x"], trial.params["n"]),
    )
    front = {result.values for result in pareto_front(results)}
    assert front == {(1.0, 4.0), (2.0, 2.0), (4.0, 1.0)}
    study = optuna.load_study(study_name="tiny/test/0", storage=store.optuna_url)
    assert front == {tuple(trial.values) for trial in study.best_trials}


def test_a_name_for_each_set_of_settings() -> None:
    names = {study_name("mnist", "judge", settings) for settings in ({"epochs": 3}, {"epochs": 4}, {"space": SPACE})}
    assert len(names) == 3
    assert study_name("mnist", "judge", {"epochs": 3}) in names
    other = {**SPACE, "n": search.integer(1, 8)}
    assert study_name("mnist", "judge", {"space": other}) not in names


def test_pruned_trials_are_told_with_what_they_last_reported(store: Store) -> None:
    def mixed(trial: Trial) -> tuple[float, ...]:
        trial.report(1, {"loss": 5.0})
        trial.report(2, {"loss": 4.0})
        if trial.params["n"] == 2:
            raise Pruned("collapsed to 2 digits at epoch 2")
        return (1.0,)

    searched = Search({"loss": "minimize"}, SPACE, FIXED, prune_on="loss", prune_after=9)
    run(store, searched, mixed)
    (stopped,) = search.pruned("tiny/test/0", store)
    assert stopped.params == FIXED[0]
    assert stopped.values == (4.0,)
    reasons = [
        found.data.tags["reason"]
        for found in mlflow.MlflowClient().search_runs(
            [store.experiment("tiny/test")], "tags.`optuna.state` = 'PRUNED'"
        )
    ]
    assert reasons == ["collapsed to 2 digits at epoch 2"]


def test_importances_find_the_parameter_that_matters(store: Store) -> None:
    searched = Search({"loss": "minimize"}, SPACE, FIXED, free=18)
    run(store, searched, lambda trial: (trial.params["n"] ** 2 + 0.01 * (trial.params["c"] == "a"),))
    found = search.importances("tiny/test/0", store)
    assert found.keys() == SPACE.keys()
    assert next(iter(found)) == "n"
    assert found["n"] > 0.8
    assert sum(found.values()) == pytest.approx(1)


def test_importances_of_few_trials_are_not_told(store: Store) -> None:
    run(store, Search({"loss": "minimize"}, SPACE, FIXED), lambda trial: (trial.params["x"],))
    assert search.importances("tiny/test/0", store) == {}


def test_a_store_from_before_there_were_slots_goes_on(store: Store) -> None:
    study = optuna.create_study(study_name="tiny/test/0", storage=store.optuna_url)
    space = {name: SPACE[name] for name in ("x", "n", "c")}
    with study_run(store, store.experiment("tiny/test"), "tiny/test/0", "", {}) as parent:
        for params in (FIXED[0], {"x": 9.0, "n": 9, "c": "b"}):  # a fixed and a free one
            with trial_run(parent, "old", params, {"optuna.study": "tiny/test/0"}) as old:
                attributes = {"outcome": "COMPLETE", "reason": "loss=1", "mlflow.run_id": old.run_id}
                study.add_trial(
                    optuna.create_trial(params=params, distributions=space, value=1.0, user_attrs=attributes)
                )
    ran: list[dict] = []

    def objective(trial: Trial) -> tuple[float, ...]:
        ran.append(trial.params)
        return (2.0,)

    assert len(run(store, Search({"loss": "minimize"}, SPACE, FIXED, free=2), objective)) == 4
    assert ran[0] == FIXED[1]
    assert len(ran) == 2


def _die_in_every_trial(folder: Path) -> None:
    def objective(trial: Trial) -> tuple[float, ...]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    run(open_store(folder), Search({"loss": "minimize"}, SPACE, FIXED[:1]), objective)


def test_a_trial_whose_process_always_dies_is_given_up(store: Store, tmp_path: Path) -> None:
    for _ in range(1 + slots.RETRIES):
        process = multiprocessing.get_context("spawn").Process(target=_die_in_every_trial, args=(tmp_path / "store",))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    with pytest.raises(StoreError, match="is complete: given up, since its process died 3 times"):
        run(store, Search({"loss": "minimize"}, SPACE, FIXED[:1]), lambda trial: (1.0,))
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
    run(open_store(folder), Search({"loss": "minimize"}, SPACE, FIXED), lambda trial: (1.0,))


@pytest.mark.parametrize(
    ("owner", "name", "after", "expected"),
    [
        (optuna.Study, "tell", True, []),  # the outcome is told, its run still open
        (optuna.Study, "tell", False, [("KILLED", "COMPLETE")]),
        (optuna.Trial, "set_user_attr", False, [("KILLED", "RUNNING")]),  # the trial does not know its run yet
    ],
)
def test_a_process_that_died_between_two_writes(store: Store, tmp_path: Path, owner, name, after, expected) -> None:
    arguments = (tmp_path / "store", owner, name, after)
    process = multiprocessing.get_context("spawn").Process(target=_die_in_a_call, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert [status for status, _ in states(store)] == ["RUNNING"]
    results = run(store, Search({"loss": "minimize"}, SPACE, FIXED), lambda trial: (1.0,))
    assert sorted(result.params["x"] for result in results) == [0.5, 50.0]
    assert sorted(states(store)) == [("FINISHED", "COMPLETE")] * 2 + expected


def test_a_stop_before_the_run_has_begun_is_no_death(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    for _ in range(slots.RETRIES + 2):
        with monkeypatch.context() as patched:
            patched.setattr(search, "trial_run", stopped)
            with pytest.raises(KeyboardInterrupt):
                run(store, Search({"loss": "minimize"}, SPACE, FIXED), lambda trial: (1.0,))
    assert len(run(store, Search({"loss": "minimize"}, SPACE, FIXED), lambda trial: (1.0,))) == 2
    assert states(store) == [("FINISHED", "COMPLETE")] * 2


def test_the_end_of_a_shorter_search_leaves_a_longer_ones_trials_alone(store: Store) -> None:
    """Two commands on one study that ask for different numbers of trials."""

    def other(trial: Trial) -> tuple[float, ...]:
        return (trial.params["x"],)

    def objective(trial: Trial) -> tuple[float, ...]:
        if trial.params == FIXED[1]:
            assert len(run(store, Search({"loss": "minimize"}, SPACE, FIXED[:1]), other)) == 1
            assert states(store) == [("FINISHED", "COMPLETE"), ("RUNNING", "RUNNING")]
        return other(trial)

    assert len(run(store, Search({"loss": "minimize"}, SPACE, FIXED), objective)) == 2
    assert states(store) == [("FINISHED", "COMPLETE")] * 2


def test_dead_processes_leave_no_locks(store: Store, tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_die_in_every_trial, args=(tmp_path / "store",))
    process.start()
    process.join(60)
    locks = tmp_path / "store" / "locks"
    assert len(list(locks.glob("worker-*"))) == 1
    run(store, Search({"loss": "minimize"}, SPACE, FIXED), lambda trial: (1.0,))
    assert not list(locks.glob("worker-*"))
