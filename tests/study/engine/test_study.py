"""A stage's study: its identity, its parts, and what follows them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlflow
import pytest
import torch
from searches import Recorder

from study.data.dataset import Dataset
from study.engine.search import Search, choice, integer
from study.engine.stage import Candidate, Context, Outcome, Session, Stage
from study.engine.trial import Trial
from study.results import Row, claim
from tracking import registry
from tracking.registry import Version
from tracking.store import Store

LOSS: Any = {"objectives": {"loss": "minimize"}}
CLAIM = claim("It is less", [1.0], 2.0)


@dataclass(frozen=True)
class Settings:
    epochs: int = 3
    trials: int = 2


STAGE = Stage("test", "Does it hold?", Settings, lambda _: None, outputs=("line",), identity_excludes=("trials",))  # type: ignore[arg-type, return-value]


@pytest.fixture
def context(store: Store, tiny: Dataset) -> Context:
    session = Session(tiny, store, torch.device("cpu"), seed=0, preset="smoke", command="python -m study.run smoke")
    return Context(STAGE, session, Settings(), others={}, inputs={})


def name_of(context: Context) -> str:
    with context.open("") as study:
        return study.parent.study


def test_parts_are_lists_and_searches_of_their_own(context: Context) -> None:
    objective = Recorder(lambda trial: trial.params["n"])
    spaces = [{"n": integer(1, 9)}, {"n": integer(1, 8)}, {"n": choice(1, 2, 3)}, {"n": integer(1, 9)}]
    given: list[dict[str, Any]] = [{"n": 1, "learning_rate": 0.00050001, "norm": True, "one": 1, "long": "x" * 70}]
    given += [{"n": 2, "clip_value": 0.123456, "norm": False, "kind": "WGAN", "one": 1, "repeat": 1}]
    for space in spaces:
        with context.open("") as study:
            side = study.enqueue(given, objective, "side", **LOSS)
            study.run(given, objective, **LOSS)
            study.search(Search({"loss": "minimize"}, space, 1), objective, "free")
            side()
            table = study.table()
        assert table.values("loss", part="side") == [], "no metric of that name was logged"
        assert ([trial.params for trial in table.where(part="side")], len(table)) == (given, 5)
    assert len(objective.ran) == 4 + 3, "another space is another search; the same one is found again"
    runs = mlflow.MlflowClient().search_runs([study.parent.experiment_id], "tags.`trial.number` != ''")
    names = {run.info.run_name for run in runs if not run.info.run_name.startswith("free")}
    each = "n 1, lr 5e-4, norm True", "n 2, clip 0.123, norm False, WGAN, seed 1"
    assert names == {f"{part}{name}" for part in ("side: ", "") for name in each}, "what varies, and what fits"
    exact = {f"{part}n 2, clip 0.123456, norm False, WGAN, one 1" for part in ("side: ", "")}
    assert exact < {run.data.tags["trial.settings"] for run in runs}, "all but the seed"


def test_identity(context: Context, tiny: Dataset) -> None:
    data = [{"dataset": replace(tiny, **{part: tiny.val})} for part in ("train", "test")]
    changes: list[dict[str, Any]] = [
        *({"session": replace(context.session, **change)} for change in ({"seed": 1}, *data)),
        {"stage": replace(STAGE, version=2)},
        {"settings": Settings(epochs=4)},
        {"others": {"judge": {"batch_size": 3}}},  # another stage's settings
    ]
    assert len({name_of(replace(context, **change)) for change in ({}, *changes)}) == 1 + len(changes)
    session = replace(context.session, preset="demo", command="x")
    assert name_of(replace(context, settings=Settings(trials=9), session=session)) == name_of(context)


def run_stage(context: Context, made: list[int], weight: float = 1.0) -> Outcome:
    """Two trials, of which the better is registered; `made` counts how often figures and rows were made."""

    def objective(trial: Trial) -> tuple[float, ...]:
        module = torch.nn.Linear(2, 1)
        torch.nn.init.constant_(module.weight, weight)
        loss = float(trial.params["n"])
        trial.log({"loss": loss})
        trial.log_model(module, torch.zeros(2, 2), {"module": {}})
        return (loss,)

    def finish(versions: Mapping[str, Version]) -> list[Row]:
        made.append(1)
        return [Row("loss", f"{versions['line'].metrics['loss']:.1f}", baseline="2.0", claim=CLAIM)]

    with context.open("") as study:
        results = study.run([{"n": 1}, {"n": 2}], objective, **LOSS)
        return study.close({"line": Candidate(results[0], "loss")}, finish)


def test_figures_and_rows_are_made_once_for_the_same_trials(context: Context) -> None:
    made: list[int] = []
    first = run_stage(context, made)
    assert first.rows == (Row("loss", "1.0", baseline="2.0", claim=CLAIM),)
    assert (run_stage(context, made), len(made)) == (first, 1)
    client, run = mlflow.MlflowClient(), mlflow.get_run(first.made["line"].run_id)
    data = [{"dataset_name": "tiny", "dataset_digest": context.dataset.digest}]
    search = {"filter_string": "metrics.loss < 1.5", "datasets": data, "output_format": "list"}
    (model,) = mlflow.search_logged_models([run.info.experiment_id], **search)
    assert (model.source_run_id, [each.value for each in model.metrics]) == (run.info.run_id, [1.0])
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 1, "the run itself has it once"
    client.delete_run(run.info.run_id)
    second = run_stage(context, made)
    assert (len(made), second.made["line"].number) == (2, 2), "a trial was run again"
    assert second.made["line"].weights_digest == first.made["line"].weights_digest
    page = client.get_model_version("tiny-line", "2").description
    assert "loss" in page
    client.delete_model_version("tiny-line", "2")
    assert (run_stage(context, made).made["line"].number, len(made)) == (3, 3), "rows and page name the number"
    assert len(client.get_model_version("tiny-line", "3").description) == len(page)


def test_a_command_that_looks_on_waits_for_the_outcome_of_the_trials_that_it_has_seen(context: Context) -> None:
    """There is an outcome from before a run was deleted; the worker that ran the trial again died before the next."""

    class Dies(list[int]):
        def append(self, _: int) -> None:
            raise OSError("its process dies here")

    first = run_stage(context, [])
    mlflow.MlflowClient().delete_run(first.made["line"].run_id)
    with pytest.raises(OSError, match="dies here"):
        run_stage(context, Dies())
    by_worker, by_command = list[int](), list[int]()
    watch = lambda: str(run_stage(context, by_worker))  # noqa: E731
    run_stage(replace(context, session=replace(context.session, watch=watch)), by_command)
    assert (by_worker, by_command) == ([1], [])


@pytest.mark.parametrize("change", [{"claim": {"text": "It is less", "verdict": "perhaps"}}, {"odd": 1}])
def test_rows_that_cannot_be_read_are_made_again(context: Context, change: dict[str, Any]) -> None:
    made: list[int] = []
    run_stage(context, made)
    row = {"figure": "loss", "ours": "1.0", "reference": None, "baseline": "2.0"}
    with context.open("") as study:
        study.parent.log_json("outcome", study.parent.read_json("outcome") | {"rows": [row | change]})
    assert ([found.claim for found in run_stage(context, made).rows], len(made)) == ([CLAIM], 2)


def test_an_input_is_known_by_its_weights_not_by_its_number(context: Context, tiny: Dataset) -> None:
    first = run_stage(context, []).made["line"]
    mlflow.MlflowClient().delete_run(first.run_id)
    again = run_stage(context, []).made["line"]
    other = run_stage(replace(context, settings=Settings(epochs=9)), [], weight=2.0).made["line"]
    assert [version.number for version in (first, again, other)] == [1, 2, 3]
    stage = replace(STAGE, name="next", inputs=("line",), outputs=())
    names = [name_of(replace(context, stage=stage, inputs={"line": each})) for each in (first, again, other)]
    assert names[0] == names[1] != names[2]
    changed = replace(context.session, dataset=replace(tiny, train=tiny.val))
    assert run_stage(replace(context, session=changed), []).made["line"].number == 4
    assert registry.require_version("tiny-line").number < 4, "candidates of other data do not compete"
