"""A stage's study: what it is known by, its searches, and what follows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlflow
import pytest
import torch
from searches import Recorder

from study.data.dataset import Dataset
from study.engine.search import Search, Trial, choice, integer
from study.engine.stage import Context, Outcome, Row, Session, Stage
from study.engine.study import Candidate, open_study
from tracking import registry
from tracking.registry import Version
from tracking.store import Store


@dataclass(frozen=True)
class Settings:
    epochs: int = 3
    trials: int = 2


STAGE = Stage("test", "Does it hold?", Settings, lambda _: "", lambda _: None, outputs=("line",), extent=("trials",))


@pytest.fixture
def context(store: Store, tiny: Dataset) -> Context:
    session = Session(tiny, store, torch.device("cpu"), seed=0, preset="smoke", command="python -m study.run smoke")
    return Context(STAGE, session, Settings(), others={}, inputs={})


def name_of(context: Context) -> str:
    with open_study(context, "") as study:
        return study.name


def search(**space: Any) -> Search:
    return Search({"loss": "minimize"}, space or {"n": integer(1, 9)}, {"a": {"n": 1}, "b": {"n": 2}})


def test_a_changed_space_is_a_search_of_its_own(context: Context) -> None:
    spaces = [{"n": integer(1, 9)}, {"n": integer(1, 8)}, {"n": choice(1, 2, 3)}, {"n": integer(1, 9)}]
    ran = []
    for space in spaces:
        objective = Recorder()
        with open_study(context, "") as study:
            results = study.search(search(**space), objective)
        assert [result.params for result in results] == [{"n": 1}, {"n": 2}]
        ran.append(len(objective.ran))
    assert ran == [2, 2, 2, 0]


def test_the_parts_of_a_study_are_searches_of_their_own(context: Context) -> None:
    objective = Recorder()
    with open_study(context, "") as study:
        study.search(search(), objective)
        study.search(search(), objective, "side")
        assert len(objective.ran) == len(study.results) == 4
    runs = mlflow.MlflowClient().search_runs([study.parent.experiment_id], "tags.`optuna.trial` != ''")
    assert sorted(run.info.run_name for run in runs) == ["side 0: 1", "side 1: 2", "trial 0: 1", "trial 1: 2"]


def test_every_trial_starts_from_the_study_s_seed(context: Context) -> None:
    def draws(seed: int) -> set[float]:
        session = replace(context.session, seed=seed)
        with open_study(replace(context, session=session), "") as study:
            results = study.search(search(), lambda trial: (float(torch.rand(())),))
        return {result.values[0] for result in results}

    first, other = draws(0), draws(1)
    assert len(first) == len(other) == 1
    assert first != other


def test_a_study_is_known_by_what_decides_its_trials(context: Context, tiny: Dataset) -> None:
    changes = {
        "seed": replace(context, session=replace(context.session, seed=1)),
        "recipe": replace(context, stage=replace(STAGE, recipe=2)),
        "settings": replace(context, config=Settings(epochs=4)),
        "another stage's settings": replace(context, others={"judge": {"batch_size": 3}}),
        "training data": replace(context, session=replace(context.session, dataset=replace(tiny, train=tiny.val))),
        "test data": replace(context, session=replace(context.session, dataset=replace(tiny, test=tiny.val))),
    }
    names = {what: name_of(changed) for what, changed in changes.items()}
    assert len({*names.values(), name_of(context)}) == 1 + len(changes)
    same = {
        "extent": replace(context, config=Settings(trials=9)),
        "preset and command": replace(context, session=replace(context.session, preset="demo", command="x")),
    }
    assert {name_of(changed) for changed in same.values()} == {name_of(context)}


def run_stage(context: Context, made: list[int], weight: float = 1.0) -> Outcome:
    """Two trials, of which the better is registered; `made` counts how often figures and rows were made."""

    def objective(trial: Trial) -> tuple[float, ...]:
        module = torch.nn.Linear(2, 1)
        torch.nn.init.constant_(module.weight, weight)
        loss = float(trial.params["n"])
        trial.run.log({"loss": loss})
        trial.log_model(module, torch.zeros(2, 2), {"module": {}})
        return (loss,)

    def finish(versions: Mapping[str, Version]) -> list[Row]:
        made.append(1)
        loss = f"{versions['line'].metrics['loss']:.1f}"
        return [Row("loss", loss, baseline="2.0", claim="It is less", verdict="undecided")]

    with open_study(context, "") as study:
        results = study.search(search(), objective)
        return study.close({"line": Candidate(results[0], "loss")}, finish)


def test_figures_and_rows_are_made_once_for_the_same_trials(context: Context) -> None:
    made: list[int] = []
    first = run_stage(context, made)
    assert first.rows == (Row("loss", "1.0", None, "2.0", "It is less", "undecided"),)
    assert run_stage(context, made) == first
    assert len(made) == 1
    mlflow.MlflowClient().delete_run(first.made["line"].run_id)
    second = run_stage(context, made)
    assert len(made) == 2, "a trial was run again"
    assert second.made["line"].number == 2
    assert second.made["line"].weights_digest == first.made["line"].weights_digest


@pytest.mark.parametrize(
    ("fields", "times"),
    [({}, 1), ({"claim": "It is less", "verdict": "perhaps"}, 2), ({"verdict": "held"}, 2)],
    ids=["of before there were claims", "unknown verdict", "verdict without a claim"],
)
def test_rows_of_another_time(context: Context, fields: dict[str, str], times: int) -> None:
    """Rows without claims are read; rows that cannot be are made again."""
    made: list[int] = []
    run_stage(context, made)
    row = {"figure": "loss", "ours": "1.0", "reference": None, "baseline": "2.0"}
    with open_study(context, "") as study:
        study.parent.log_json("outcome", study.parent.read_json("outcome") | {"rows": [row | fields]})
    claims = {found.claim for found in run_stage(context, made).rows}
    assert len(made) == times
    assert claims == ({None} if times == 1 else {"It is less"})


def test_an_input_is_known_by_its_weights_not_by_its_number(context: Context) -> None:
    first = run_stage(context, []).made["line"]
    mlflow.MlflowClient().delete_run(first.run_id)
    again = run_stage(context, []).made["line"]
    other = run_stage(replace(context, config=Settings(epochs=9)), [], weight=2.0).made["line"]
    assert [version.number for version in (first, again, other)] == [1, 2, 3]
    stage = replace(STAGE, name="next", inputs=("line",), outputs=())
    names = [name_of(replace(context, stage=stage, inputs={"line": each})) for each in (first, again, other)]
    assert names[0] == names[1] != names[2]


def test_candidates_of_other_data_do_not_compete(context: Context, tiny: Dataset) -> None:
    run_stage(context, [])
    changed = replace(context.session, dataset=replace(tiny, train=tiny.val))
    version = run_stage(replace(context, session=changed), []).made["line"]
    assert version.number == 2
    assert registry.require_version("tiny-line", None).number == 1
