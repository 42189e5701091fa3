"""Which trials run, with what parameters: lists, searches, and both in one study."""

import time
from typing import Any

import mlflow
import optuna
import pytest
import torch
from optuna.study import StudyDirection
from searches import GIVEN, SPACE, Recorder, listed, parent_of, run, runner, searched, states
from sqlalchemy import create_engine, inspect

from study.engine.queue import Queue
from study.engine.search import choice, integer, pareto_front
from study.engine.trial import Trial
from study.results import Result
from tracking.errors import StoreError
from tracking.store import Store


def x(trial: Trial) -> float:
    return float(trial.params["x"])


def optuna_trials(store: Store) -> list[optuna.trial.FrozenTrial]:
    """Those of the first search."""
    name, *_ = optuna.get_all_study_names(store.optuna_url)
    return optuna.load_study(study_name=name, storage=store.optuna_url).trials


def test_a_list_runs_in_order_and_once_without_optuna(store: Store) -> None:
    seen = Recorder(x)
    results = run(store, listed(seen))
    assert [(result.params, result.values) for result in results] == [(each, (each["x"],)) for each in GIVEN]
    assert states(store) == [("FINISHED", "complete")] * 2
    more = [*GIVEN, {"x": 7.0, "n": 1, "c": "a"}]
    assert len(run(store, listed(seen, more))) == 3
    assert run(store, listed(seen)) == results, "as many as asked for"
    assert seen.ran == more
    assert "studies" not in inspect(create_engine(store.optuna_url)).get_table_names()


def test_after_the_deadline_no_trial_begins_and_the_same_call_goes_on(store: Store) -> None:
    seen = Recorder(lambda trial: time.sleep(1) or trial.params["x"])
    with runner(store) as found:
        found.deadline = time.monotonic() + 0.8
        assert [result.params for result in listed(seen)(found)()] == GIVEN[:1]
        with pytest.raises(StoreError, match=r"no trial of .*late is complete"):
            listed(seen, title="late")(found)()
    assert (len(run(store, listed(seen))), seen.ran) == (2, GIVEN)


def test_a_search_stays_in_range_and_goes_on(store: Store) -> None:
    seen = Recorder(x)
    first = run(store, searched(seen, 9))
    assert all(0.01 <= p["x"] <= 100 and 1 <= p["n"] <= 9 and p["c"] in "ab" for p in seen.ran)
    assert run(store, searched(seen, 10))[:9] == first
    trials = optuna_trials(store)
    assert [trial.user_attrs["sampler"] for trial in trials] == ["random"] * 3 + ["TPE"] * 7
    assert ([trial.values for trial in trials], len(seen.ran)) == ([[params["x"]] for params in seen.ran], 10)
    chance = Recorder(x)
    run(store, searched(chance, 9, title="chance", sampler="random"))
    assert seen.ran[:3] == chance.ran[:3] != seen.ran[3:6] != chance.ran[3:6], "then one of them learns"


def test_no_proposal_repeats_another_while_something_new_is_left(store: Store) -> None:
    seen, again = Recorder(), Recorder()
    assert len(run(store, searched(seen, 4, {"letter": choice(*"abcd")}, sampler="random"))) == 4
    assert sorted(params["letter"] for params in seen.ran) == list("abcd")
    assert len(run(store, searched(again, 3, {"n": integer(1, 2)}, "small"))) == 2, "a repetition counts once"
    assert len(again.ran) == 3


def test_each_trial_starts_from_the_seed_of_its_repeat(store: Store) -> None:
    trials: list[dict[str, Any]] = [{"repeat": 1, "n": 1}, {"repeat": 1, "n": 2}, {"repeat": 2, "n": 1}]
    first, again, other = (result.values for result in run(store, listed(lambda _: (float(torch.rand(())),), trials)))
    assert first == again != other


def test_two_objectives_and_their_pareto_front() -> None:
    points = [(1.0, 4.0), (2.0, 2.0), (3.0, 3.0), (4.0, 1.0), (1.0, 5.0)]
    results = [Result(number, "", "", {}, values, "") for number, values in enumerate(points)]
    assert {result.values for result in pareto_front(results)} == {(1.0, 4.0), (2.0, 2.0), (4.0, 1.0)}


@pytest.mark.parametrize(("trials", "names"), [(18, set(SPACE)), (2, set())])
def test_importances_find_the_parameter_that_matters(store: Store, trials: int, names: set[str]) -> None:
    with runner(store) as found:
        searched(lambda trial: (trial.params["n"] ** 2 + 0.01 * (trial.params["c"] == "a"),), trials)(found)()
        importances = found.importances("s")
    assert (importances.keys(), list(importances)[:1]) == (names, ["n"] * bool(names))


def test_who_finds_no_trial_runs_those_of_later_parts(store: Store) -> None:
    """Another process has the only trial of the first part, and ends it not before the second part is done."""
    with runner(store) as ours, runner(store) as other:
        theirs = other.queue

        def second(trial: Trial) -> tuple[float, ...]:
            theirs.note(taken, state="failed", values=[], reason="as the test asked")
            return (2.0,)

        first = listed(Recorder(), [{"n": 1}], "first", optional=True)(ours)
        later = listed(second, [{"n": 1}], "second")(ours)
        (taken,) = theirs.trials(ours.parts["first"].name)
        assert theirs.take(taken)
        assert (first(), [trial.state for trial in theirs.trials(ours.parts["second"].name)]) == ([], ["complete"])
        assert [result.values for result in later()] == [(2.0,)]


def test_optuna_s_trial_of_a_dead_process_is_failed(store: Store) -> None:
    with runner(store) as found:
        finish = searched(Recorder(), 1)(found)
        part, dead = found.parts["s"], Queue(store)
        (trial,) = dead.trials(part.name)
        assert dead.take(trial)
        found._proposals_of(part).ask(trial)
        dead.close()  # as its process lets go of its lock when it dies
        assert len(finish()) == 1
    assert [each.state.name for each in optuna_trials(store)] == ["FAIL", "COMPLETE"]


def test_optuna_reads_a_search_and_each_trial_leads_to_mlflow(store: Store) -> None:
    run(store, searched(Recorder(x), 6))
    (name,) = optuna.get_all_study_names(store.optuna_url)
    study = optuna.load_study(study_name=name, storage=store.optuna_url)
    assert (study.metric_names, study.directions, len(study.trials)) == (["loss"], [StudyDirection.MINIMIZE], 6)
    for trial in study.trials:
        found = mlflow.get_run(trial.user_attrs["mlflow.run_id"])
        assert found.data.tags["mlflow.parentRunId"] == parent_of(store).run_id
        assert float(found.data.params["x"]) == pytest.approx(trial.value)
        assert trial.user_attrs["mlflow.page"].endswith(f"/runs/{found.info.run_id}")
