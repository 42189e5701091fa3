"""Which trials a search runs, and with what parameters."""

import json
from typing import Any

import optuna
import pytest
from searches import FIXED, NAME, SPACE, Recorder, run, search, states

from study.engine.search import Objective, Origin, Search, Trial, choice, integer, named, pareto_front
from study.engine.slots import RUN_ID
from study.engine.trials import Trials, importances
from tracking.runs import study_run, trial_run
from tracking.store import Store


def test_fixed_trials_run_first_and_free_ones_stay_in_range(store: Store) -> None:
    seen = Recorder(lambda trial: trial.params["x"])
    results = run(store, search(free=6), seen)
    assert seen.ran[:2] == FIXED
    assert len(results) == len(seen.ran) == 8
    assert [result.params for result in results] == seen.ran
    assert [result.slot for result in results] == [*named(FIXED), *(f"free {number}" for number in range(6))]
    assert all(0.01 <= p["x"] <= 100 and 1 <= p["n"] <= 9 and p["c"] in "ab" for p in seen.ran)
    assert states(store) == [("FINISHED", "COMPLETE")] * 8


def test_a_trial_knows_the_name_of_its_slot(store: Store) -> None:
    names: list[str] = []

    def objective(trial: Trial) -> tuple[float, ...]:
        names.append(trial.slot)
        return (1.0,)

    fixed = dict(zip(("the exercise's", "a wide one"), FIXED, strict=True))
    results = run(store, Search({"loss": "minimize"}, SPACE, fixed, free=1), objective)
    assert names == [result.slot for result in results] == ["the exercise's", "a wide one", "free 0"]
    assert [result.params for result in results[:2]] == FIXED


def test_parameters_that_were_tried_twice_count_once(store: Store) -> None:
    space = {"n": integer(1, 2)}
    searched = Search({"loss": "minimize"}, space, named([{"n": 1}, {"n": 2}]), free=3)
    results = run(store, searched, lambda trial: (1.0,))
    assert [(result.number, result.params) for result in results] == [(0, {"n": 1}), (1, {"n": 2})]
    assert len(states(store)) == 5


def test_a_second_call_runs_only_what_is_missing(store: Store) -> None:
    objective = Recorder()
    first = run(store, search(free=2), objective)
    assert run(store, search(free=2), objective) == first
    assert len(objective.ran) == 4
    more = [*FIXED, {"x": 7.0, "n": 1, "c": "a"}]
    assert len(run(store, search(more, free=4), objective)) == 7
    assert len(objective.ran) == 7
    assert len({json.dumps(params) for params in objective.ran}) == 7, "no point is proposed twice"
    assert run(store, search(free=2), objective) == first, "as many as asked for"


def test_the_end_of_a_shorter_search_leaves_a_longer_ones_trials_alone(store: Store) -> None:
    """Two commands on one study that ask for different numbers of trials."""
    other = Recorder(lambda trial: trial.params["x"])

    def objective(trial: Trial) -> tuple[float, ...]:
        if trial.params == FIXED[1]:
            assert len(run(store, search(FIXED[:1]), other)) == 1
            assert states(store) == [("FINISHED", "COMPLETE"), ("RUNNING", "RUNNING")]
        return other(trial)

    assert len(run(store, search(), objective)) == 2
    assert states(store) == [("FINISHED", "COMPLETE")] * 2


def test_two_objectives_and_their_pareto_front(store: Store) -> None:
    fixed = [{"x": x, "n": n, "c": "a"} for x, n in ((1.0, 4), (2.0, 2), (3.0, 3), (4.0, 1), (1.0, 5))]
    results = run(
        store,
        Search({"a": "minimize", "b": "minimize"}, SPACE, named(fixed)),
        lambda trial: (trial.params["x"], trial.params["n"]),
    )
    front = {result.values for result in pareto_front(results)}
    assert front == {(1.0, 4.0), (2.0, 2.0), (4.0, 1.0)}
    study = optuna.load_study(study_name=NAME, storage=store.optuna_url)
    assert front == {tuple(trial.values) for trial in study.best_trials}


def test_importances_find_the_parameter_that_matters(store: Store) -> None:
    run(store, search(free=18), lambda trial: (trial.params["n"] ** 2 + 0.01 * (trial.params["c"] == "a"),))
    found = importances(NAME, store)
    assert found.keys() == SPACE.keys()
    assert next(iter(found)) == "n"
    assert found["n"] > 0.8
    assert sum(found.values()) == pytest.approx(1)


def test_importances_of_few_trials_are_not_told(store: Store) -> None:
    run(store, search(), lambda trial: (trial.params["x"],))
    assert importances(NAME, store) == {}


LETTERS = {"letter": choice(*"abcd")}


def test_no_free_trial_repeats_another(store: Store) -> None:
    fixed = named([{"letter": "a"}, {"letter": "b"}])
    recorder = Recorder(lambda trial: float(ord(trial.params["letter"])))
    results = run(store, Search({"loss": "minimize"}, LETTERS, fixed, free=2), recorder)
    assert sorted(params["letter"] for params in recorder.ran) == [*"abcd"]
    assert len(results) == 4
    assert states(store) == [("FINISHED", "COMPLETE")] * 4, "what is not run has no run"
    assert run(store, Search({"loss": "minimize"}, LETTERS, fixed, free=2), recorder) == results
    assert len(recorder.ran) == 4


def test_where_nothing_new_is_left_a_free_trial_repeats_another_and_counts_once(store: Store) -> None:
    recorder = Recorder()
    results = run(
        store, Search({"loss": "minimize"}, LETTERS, named([{"letter": x} for x in "abcd"]), free=1), recorder
    )
    assert len(recorder.ran) == 5
    assert len(results) == 4


def test_who_finds_no_trial_runs_those_of_the_searches_to_come(
    store: Store, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Another process has the only trial of the first search, and ends it not before the second search's is done."""
    caplog.set_level("INFO", "study")
    about: dict[str, Any] = {"title": "a study", "description": "", "tags": {}}
    one = {"1": {"n": 1}}
    with study_run(store, store.experiment("tiny/test"), NAME, **about) as parent:

        def trials(name: str, objective: Objective) -> Trials:
            searched = Search({"loss": "minimize"}, {"n": integer(1, 2)}, one)
            about = {"seed": 0, "origin": Origin(), "watch": None}
            return Trials(searched, objective, store, parent, name=name, label=name, **about)

        def second(trial: Trial) -> tuple[float, ...]:
            with trial_run(parent, "theirs", {}, {}) as run:
                theirs.set_user_attr(RUN_ID, run.run_id)
            other.slots.finish(theirs, "COMPLETE", "", (3.0,))
            return (2.0,)

        other = trials("first", Recorder())
        claimed = other.slots.claim()
        assert claimed is not None
        _, theirs = claimed
        ours, later = trials("first", Recorder()), trials("second", second)
        assert [result.values for result in ours.run(ahead=[later])] == [(3.0,)]
        assert "second: " not in capfd.readouterr().err, "its turn is later"
        assert [result.values for result in later.run()] == [(2.0,)]
        assert "second: trial 0 complete" in capfd.readouterr().err
        for each in (other, ours, later):
            each.close()
