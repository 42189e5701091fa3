"""Which trials run, with what parameters: lists, searches, and both in one study."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from searches import GIVEN, NAME, SPACE, Recorder, listed, run, runner, searched, states

from study.engine.queue import Queue
from study.engine.search import Result, choice, importances, integer, pareto_front
from study.engine.trial import Trial
from tracking.store import Store


def test_a_list_runs_in_order_and_once(store: Store) -> None:
    seen = Recorder(lambda trial: trial.params["x"])
    results = run(store, listed(seen))
    assert seen.ran == GIVEN
    assert [(result.params, result.values) for result in results] == [(each, (each["x"],)) for each in GIVEN]
    assert states(store) == [("FINISHED", "complete")] * 2
    more = [*GIVEN, {"x": 7.0, "n": 1, "c": "a"}]
    assert len(run(store, listed(seen, more))) == 3
    assert seen.ran == more
    assert run(store, listed(seen)) == results, "as many as asked for"
    assert len(seen.ran) == 3


def test_a_list_leaves_optuna_alone(store: Store) -> None:
    run(store, listed(Recorder()))
    with pytest.raises(KeyError):
        optuna.load_study(study_name=f"{NAME}/", storage=store.optuna_url)


def test_a_search_stays_in_range_and_goes_on(store: Store) -> None:
    seen = Recorder(lambda trial: trial.params["x"])
    first = run(store, searched(seen, store, 4))
    assert [result.params for result in first] == seen.ran
    assert all(0.01 <= p["x"] <= 100 and 1 <= p["n"] <= 9 and p["c"] in "ab" for p in seen.ran)
    assert run(store, searched(seen, store, 6))[:4] == first
    assert len(seen.ran) == 6
    trials = optuna.load_study(study_name=f"{NAME}/s", storage=store.optuna_url).trials
    assert [trial.user_attrs["sampler"] for trial in trials] == ["random"] * 4 + ["TPE"] * 2
    assert [trial.values for trial in trials] == [[params["x"]] for params in seen.ran]


def test_a_search_learns_from_known_results(store: Store) -> None:
    known = run(store, listed(Recorder(lambda trial: trial.params["x"])))
    run(store, searched(Recorder(), store, 1, known=known))
    trials = optuna.load_study(study_name=f"{NAME}/s", storage=store.optuna_url).trials
    assert [trial.params for trial in trials[:2]] == GIVEN
    run(store, searched(Recorder(), store, 2, known=known))
    assert len(optuna.load_study(study_name=f"{NAME}/s", storage=store.optuna_url).trials) == 4, "told once"


def test_no_proposal_repeats_another(store: Store) -> None:
    letters = {"letter": choice(*"abcd")}
    known = run(store, listed(Recorder(), [{"letter": letter} for letter in "ab"]))
    seen = Recorder()
    assert len(run(store, searched(seen, store, 2, letters, known=known))) == 2
    assert sorted(params["letter"] for params in seen.ran) == ["c", "d"]


def test_where_nothing_new_is_left_a_repetition_counts_once(store: Store) -> None:
    seen = Recorder()
    assert len(run(store, searched(seen, store, 3, {"n": integer(1, 2)}))) == 2
    assert len(seen.ran) == 3


def test_each_trial_starts_from_the_seed_of_its_repeat(store: Store) -> None:
    import torch

    trials: list[dict[str, Any]] = [{"repeat": 1, "n": 1}, {"repeat": 1, "n": 2}, {"repeat": 2, "n": 1}]
    first, again, other = (result.values for result in run(store, listed(lambda _: (float(torch.rand(())),), trials)))
    assert first == again != other


def test_two_objectives_and_their_pareto_front() -> None:
    points = [(1.0, 4.0), (2.0, 2.0), (3.0, 3.0), (4.0, 1.0), (1.0, 5.0)]
    results = [Result(number, "", "", {}, values, "") for number, values in enumerate(points)]
    assert {result.values for result in pareto_front(results)} == {(1.0, 4.0), (2.0, 2.0), (4.0, 1.0)}


def test_importances_find_the_parameter_that_matters(store: Store) -> None:
    def loss(trial: Trial) -> float:
        return float(trial.params["n"] ** 2 + 0.01 * (trial.params["c"] == "a"))

    run(store, searched(Recorder(loss), store, 18))
    found = importances(f"{NAME}/s", store)
    assert found.keys() == SPACE.keys()
    assert next(iter(found)) == "n"
    assert importances_of_few(store) == {}


def importances_of_few(store: Store) -> dict[str, float]:
    run(store, searched(Recorder(), store, 2, title="few"))
    return importances(f"{NAME}/few", store)


def test_who_finds_no_trial_runs_those_of_later_parts(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Another process has the only trial of the first part, and ends it not before the second part is done."""
    one = [{"n": 1}]
    with runner(store) as ours, runner(store) as other:
        theirs = Queue(store)
        first = listed(Recorder(), one, "first", optional=True)

        def second(trial: Trial) -> tuple[float, ...]:
            theirs.note(taken, state="failed", values=[], reason="as the test asked")
            return (2.0,)

        later = listed(second, one, "second")
        ours.enqueue(first)
        ours.enqueue(later)
        (taken,) = theirs.trials(first.name)
        assert theirs.take(taken)
        assert ours.finish(first) == []
        assert [trial.state for trial in theirs.trials(later.name)] == ["complete"]
        assert [result.values for result in ours.finish(later)] == [(2.0,)]
        theirs.close()
        del other


def test_optuna_s_trial_of_a_dead_process_is_failed(store: Store) -> None:
    with runner(store) as found:
        part = searched(Recorder(), store, 1)
        found.enqueue(part)
        dead = Queue(store)
        (trial,) = dead.trials(part.name)
        assert dead.take(trial)
        found._open_proposals(part).ask(trial)
        dead.close()  # as its process lets go of its lock when it dies
        assert len(found.finish(part)) == 1
    trials = optuna.load_study(study_name=f"{NAME}/s", storage=store.optuna_url).trials
    assert [each.state.name for each in trials] == ["FAIL", "COMPLETE"]


def test_integers_are_a_range() -> None:
    assert integer(1, 3) == optuna.distributions.IntDistribution(1, 3)
