"""How studies look on MLflow's pages: a saved view of the trials of an experiment, and addresses.

MLflow keeps a saved view as a tag of the experiment: everybody finds it in the page's list of views, and opens it by
its address. It has no way to unfold nested runs, but lists them one by one as soon as a filter or an order is set.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import mlflow

from tracking.errors import reason_of
from tracking.registry import REGISTERED, Direction
from tracking.runs import NOTE, REPEAT, SETTINGS, TRIAL_OF, Run
from tracking.server import local_address
from tracking.store import client, experiments

STATE = "mlflow.sharedViewState."  # the tag that holds a view is this and its key in the view's address
KEY, TAG, MEANS = "trials", f"{STATE}trials", "settings"  # MEANS: the key of the view of means over seeds
MOST_CHARACTERS = 5000  # of an experiment's tag, as MLflow has it
TRAINING = "workflowType=machine_learning"  # else a browser's first visit shows the pages for language models
WIDTHS = {"metrics": 120, "params": 100, "tags": 160}  # pixels of a column
FRAME = {"attributes.`Run Name`": 330}  # of the column that is always there
WIDE = {"columns": 1, "cardHeight": 640}  # of a section whose charts show the pictures of many trials
BY_SETTINGS: dict[str, Any] = {
    "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": SETTINGS}]},
    "useGroupedValuesInCharts": True,
    # MLflow groups the runs that it shows, 100 at first: those without seeds would take their place.
    "searchFilter": f"tags.`{TRIAL_OF}` LIKE '%' AND params.`{REPEAT}` LIKE '%'",
}
Chart = Mapping[str, Any]
log = logging.getLogger("study")


@dataclass(frozen=True)
class View:
    """What the view shows of every trial, best first by `order_by`: a column each for the metrics that decide, the
    parameters, the other metrics; charts in sections, by the title above them. `repeated`: there are means over seeds.
    """

    order_by: tuple[str, Direction]
    deciding: Sequence[str]
    params: Sequence[str]
    others: Sequence[str]
    sections: Mapping[str, Sequence[Chart]]
    repeated: bool = False


def scatter(x: str, y: str, *, x_is: str = "PARAM") -> Chart:
    """Return a chart of a metric against a parameter, or another metric (`x_is="METRIC"`): a point a trial."""
    axes = {"xaxis": {"key": x, "type": x_is}, "yaxis": {"key": y, "type": "METRIC"}}
    return {"type": "SCATTER", "displayName": x, "runsCountToCompare": 100, **axes}


def parallel(params: Sequence[str], metrics: Sequence[str]) -> Chart:
    """Return a chart of parallel coordinates: a line a trial."""
    axes = {"selectedParams": list(params), "selectedMetrics": list(metrics), "showAllRuns": True}
    return {"type": "PARALLEL", "displayName": "all together", **axes}


def curves(metric: str) -> Chart:
    """Return a chart of a metric over the epochs: a curve a trial."""
    axes = {"xAxisKey": "step", "xAxisScaleType": "linear", "scaleType": "linear", "yAxisKey": "metric"}
    plain = {"lineSmoothness": 0, "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "range": {}}
    names = {"displayName": metric, "metricKey": metric, "selectedMetricKeys": [metric], "yAxisExpressions": []}
    return {"type": "LINE", "runsCountToCompare": 100, "selectedXAxisMetricKey": "", **names, **axes, **plain}


def pictures(name: str, step: int) -> Chart:
    """Return a chart of the pictures of this name in trials, with a slider over the epochs that begins at `step`."""
    shown = {"imageKeys": [name], "step": step, "showRunParams": False}
    return {"type": "IMAGE", "displayName": name, "runsCountToCompare": 100, **shown}


def save_view(experiment_id: str, view: View, question: str) -> None:
    """Keep the view with the experiment, and the way to it in its description, if that is still the question.

    Where MLflow does not take it, the study goes on without a view: its format is MLflow's own affair.
    """
    try:
        client().set_experiment_tag(experiment_id, TAG, _tag(view))
        if view.repeated:
            client().set_experiment_tag(experiment_id, STATE + MEANS, _tag(view, means=True))
    except mlflow.MlflowException as error:
        log.warning("MLflow does not take the saved view of the trials: %s", reason_of(error))
        return
    experiment = client().get_experiment(experiment_id)
    if experiment.tags.get(NOTE, "") == question:
        table = _address(experiment)
        ways = f"[The trials]({table}), [their charts]({table}&compareRunsMode=CHART)"
        ways += f", [means over seeds]({_address(experiment, MEANS)})." if view.repeated else "."
        client().set_experiment_tag(experiment_id, NOTE, f"{question} {ways}")


def logged_pictures(run_id: str) -> dict[str, int]:
    """Return the pictures that a run has logged for the slider: the last step of each, by its name."""
    found: dict[str, int] = {}
    for file in client().list_artifacts(run_id, "images"):
        parts = re.match(r"(.+?)[+%]step[+%](\d+)[+%]", PurePosixPath(file.path).name)  # as MLflow names them
        if parts:
            name = re.sub("[~#]", "/", parts[1])
            found[name] = max(found.get(name, 0), int(parts[2]))
    return found


def figures_of(run_id: str) -> dict[str, str]:
    """Return a run's figures by name, as Markdown for a page of MLflow's; samples before losses."""
    files = sorted((PurePosixPath(file.path) for file in client().list_artifacts(run_id, "figures")), reverse=True)
    where = "get-artifact?path={}&run_uuid={}"
    return {file.stem: f"![{file.stem}]({where.format(quote(str(file), safe=''), run_id)})" for file in files}


def places() -> dict[str, str]:
    """Return where the trials of each experiment of ours are on the pages of a server, in the order of their making."""
    return {each.name: _address(each) for each in experiments()}


def trials_page(run_id: str) -> str:
    """Return the address of the trials of the experiment of the run; of a folder, while `study.ui` shows it."""
    return f"{_base()}/{_address(client().get_experiment(client().get_run(run_id).info.experiment_id))}"


def page_of(run: Run) -> str:
    """Return the address of the page of a run; of a store that is a folder, while `study.ui` shows it."""
    return f"{_base()}/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def run_address(run_id: str) -> str:
    """Return where the page of a run is on the pages of a server."""
    return f"#/experiments/{client().get_run(run_id).info.experiment_id}/runs/{run_id}"


def model_address(name: str, number: int) -> str:
    """Return where the page of a version is on the pages of a server."""
    return f"#/models/{quote(name, safe='')}/versions/{number}"


def server() -> str | None:
    """Return the address of the server that the open store is on; None: it is a folder."""
    uri = mlflow.get_tracking_uri()
    return uri.rstrip("/") if uri.startswith("http") else None


def _base() -> str:
    return server() or local_address()


def _address(experiment: Any, key: str = KEY) -> str:
    view = f"viewStateShareKey={key}&" if STATE + key in experiment.tags else ""
    return f"#/experiments/{experiment.experiment_id}/runs?{view}{TRAINING}"


def _tag(view: View, *, means: bool = False) -> str:
    """Return the text of the tag; the last charts are left out where it would be too long."""
    title, more = ("By settings", BY_SETTINGS) if means else ("Trials", {})
    now = int(time.time() * 1000)
    charts = [(name, chart) for name, section in view.sections.items() for chart in section]
    charts = [each for each in charts if not means or each[1]["type"] != "IMAGE"]  # groups have no pictures
    while True:
        state = json.dumps(_state(view, charts) | more, separators=(",", ":"))
        packed = base64.b64encode(zlib.compress(state.encode(), 9)).decode()
        text = json.dumps({"name": title, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"})
        if len(text) <= MOST_CHARACTERS or not charts:
            return text
        charts.pop()


def _state(view: View, charts: Sequence[tuple[str, Chart]]) -> dict[str, Any]:
    deciding, others = ([f"metrics.`{name}`" for name in names] for names in (view.deciding, view.others))
    params = [f"params.`{name}`" for name in view.params]
    columns = [f"tags.`{REGISTERED}`", *deciding, *params, *others, f"tags.`{TRIAL_OF}`"]
    names = list(dict.fromkeys(name for name, _ in charts))
    with_pictures = {name for name, chart in charts if chart["type"] == "IMAGE"}
    own = {"deleted": False, "isGenerated": False}
    return {
        "searchFilter": f"tags.`{TRIAL_OF}` LIKE '%'",
        "orderByKey": f"metrics.`{view.order_by[0]}`",
        "orderByAsc": view.order_by[1] == "minimize",
        "selectedColumns": columns,
        "columnOrder": [*FRAME, *columns],
        "columnWidths": FRAME | {name: WIDTHS[name.partition(".")[0]] for name in columns},
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,  # else MLflow sorts the sections by name
        "compareRunSections": [
            {"uuid": f"section-{number}", "name": name, "display": True, "isReordered": False, **own}
            | (WIDE if name in with_pictures else {})
            for number, name in enumerate(names)
        ],
        "compareRunCharts": [
            {"uuid": f"chart-{number}", "metricSectionId": f"section-{names.index(name)}", **own, **chart}
            for number, (name, chart) in enumerate(charts)
        ],
    }
