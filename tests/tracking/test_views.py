"""The tag by which MLflow keeps a view (that its page opens it, test_browser.py shows), and the server of study.ui."""

import base64
import json
import socket
import zlib
from typing import Any

import mlflow
import numpy as np
import pytest
from servers import free_port

from tracking import views
from tracking.errors import StoreError
from tracking.runs import study_run, trial_run
from tracking.server import HOST, check_port, serve
from tracking.store import Store
from tracking.views import View

QUESTION = "How many?"
CHARTS = {"One": [views.scatter("size", "val/loss")], "Two": [views.curves("val/loss"), views.pictures("samples", 3)]}
VIEW = View(("val/loss", "minimize"), ["val/loss"], ["size"], ["test/loss"], CHARTS, repeated=True)


@pytest.fixture
def experiment(store: Store) -> str:
    return store.experiment("tiny/test", QUESTION)


def tags(experiment: str) -> dict[str, str]:
    return mlflow.MlflowClient().get_experiment(experiment).tags


def state_of(tag: str) -> dict[str, Any]:
    """What the page reads from the tag."""
    return json.loads(zlib.decompress(base64.b64decode(json.loads(tag)["state"].removeprefix("deflate;"))))


def test_a_view_lists_trials_by_the_deciding_metric_with_a_section_for_each_group_of_charts(experiment: str) -> None:
    for _ in range(2):
        views.save_view(experiment, VIEW, QUESTION)
    state = state_of(tags(experiment)[views.TAG])
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`val/loss`", True)
    assert state["searchFilter"] == "tags.`trial.study` LIKE '%'"
    assert state["selectedColumns"][1:4] == ["metrics.`val/loss`", "params.`size`", "metrics.`test/loss`"]
    means = state_of(tags(experiment)[views.STATE + views.MEANS])
    assert [chart["type"] for chart in means["compareRunCharts"]] == ["SCATTER", "LINE"], "groups have no pictures"
    assert means.keys() - state.keys() == {"groupBy", "useGroupedValuesInCharts"}, "test_browser.py shows what they do"
    sections = {section["uuid"]: section["name"] for section in state["compareRunSections"]}
    shown = [(sections[chart["metricSectionId"]], chart["type"]) for chart in state["compareRunCharts"]]
    assert shown == [("One", "SCATTER"), ("Two", "LINE"), ("Two", "IMAGE")]
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == 3
    note = tags(experiment)["mlflow.note.content"]
    own = {"mlflow.note.content": "a user's words", "mlflow.sharedViewState.mine": "a user's view"}
    for name, value in own.items():
        mlflow.MlflowClient().set_experiment_tag(experiment, name, value)
    views.save_view(experiment, VIEW, QUESTION)
    assert own.items() <= tags(experiment).items()
    assert note.startswith(f"{QUESTION} [The trials](#/experiments/{experiment}/runs?viewStateShareKey=trials&")
    assert note.count("[The trials]") == 1


def test_a_view_of_very_many_charts_still_fits_a_tag(experiment: str) -> None:
    names = [f"{number}{bytes(np.random.default_rng(number).integers(97, 123, 60)).decode()}" for number in range(99)]
    many = View(VIEW.order_by, ["val/loss"], [], [], {"many": [views.curves(name) for name in names]})
    views.save_view(experiment, many, QUESTION)
    tag = tags(experiment)[views.TAG]
    kept = [chart["displayName"] for chart in state_of(tag)["compareRunCharts"]]
    assert len(tag) <= 5000
    assert 5 < len(kept) < 99
    assert kept == names[: len(kept)], "the last ones are left out"


def test_without_a_view_the_study_goes_on(experiment: str, monkeypatch, caplog) -> None:
    monkeypatch.setattr(views, "MOST_CHARACTERS", 10**6)
    long = View(VIEW.order_by, [f"{number}" * 99 for number in range(2000)], [], [], {})
    views.save_view(experiment, long, QUESTION)
    assert "does not take the saved view" in caplog.text
    assert tags(experiment)["mlflow.note.content"] == QUESTION


def test_places_are_ours_in_the_order_in_which_they_were_made(store: Store, experiment: str) -> None:
    mlflow.MlflowClient().create_experiment("somebody else's")
    second = store.experiment("tiny/second")
    views.save_view(second, VIEW, "")
    assert list(views.places().items()) == [
        ("tiny/test", f"#/experiments/{experiment}/runs?workflowType=machine_learning"),
        ("tiny/second", f"#/experiments/{second}/runs?viewStateShareKey=trials&workflowType=machine_learning"),
    ]


def test_pictures_are_found_by_name_with_their_last_step(store: Store, experiment: str) -> None:
    with study_run(store, experiment, "tiny/test/0") as parent, trial_run(parent, "trial") as run:
        for step in (0, 12):
            run.log_image("some/samples", np.zeros((8, 8), np.uint8), step)
        run.log_image("mistakes", np.zeros((8, 8), np.uint8), 0)
    assert views.logged_pictures(run.run_id) == {"some/samples": 12, "mistakes": 0}


def test_a_taken_port_is_refused_and_a_free_one_is_not() -> None:
    check_port(port := free_port())
    told = pytest.raises(StoreError, match=rf"--port must be free on {HOST}, but got {port} \(.*in use")
    with socket.create_server((HOST, port)), told:
        check_port(port)


@pytest.mark.server
def test_a_server_that_cannot_start_says_why_in_a_sentence() -> None:
    with pytest.raises(StoreError, match=r"server does not start: .+"):
        serve("nonsense://nowhere", free_port(), pytest.fail)
