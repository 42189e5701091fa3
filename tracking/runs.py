"""Runs: a parent a study, a nested run a trial, each with a true status at its end."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow.entities import Metric, Param

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Run:
    """An MLflow run that is being written."""

    run_id: str
    experiment_id: str

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """All metrics of one step in one call."""
        now = int(time.time() * 1000)
        batch = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        mlflow.MlflowClient().log_batch(self.run_id, metrics=batch)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters, kept as text; one that is logged already must have the same value."""
        batch = [Param(name, str(value)) for name, value in params.items()]
        mlflow.MlflowClient().log_batch(self.run_id, params=batch)

    def log_image(self, name: str, image: np.ndarray, step: int) -> None:
        """An image, uint8 [H, W] or [H, W, 3], for the step slider of MLflow's image panel."""
        mlflow.MlflowClient().log_image(self.run_id, image, key=name, step=step)

    def log_figure(self, name: str, figure: Figure) -> None:
        """A figure as `figures/<name>.png` among the artifacts."""
        mlflow.MlflowClient().log_figure(self.run_id, figure, f"figures/{name}.png")

    def log_table(self, name: str, columns: Mapping[str, Sequence[str]]) -> None:
        """A table as `tables/<name>.csv` among the artifacts, which MLflow's page shows as one."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        mlflow.MlflowClient().log_text(self.run_id, text.getvalue(), f"tables/{name}.csv")

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        for name, value in _text(tags).items():
            mlflow.MlflowClient().set_tag(self.run_id, name, value)


@contextmanager
def study_run(experiment_id: str, study: str, description: str, tags: Mapping[str, Any]) -> Iterator[Run]:
    """The parent run of the study of this name: found again if the store has it, else made."""
    found = mlflow.MlflowClient().search_runs(
        [experiment_id], f"tags.study = '{study}'", max_results=1, order_by=["attributes.start_time ASC"]
    )
    if found:
        active = mlflow.start_run(run_id=found[0].info.run_id)
        mlflow.MlflowClient().update_run(active.info.run_id, status="RUNNING")
    else:
        tags = _text({"study": study, **tags})
        active = mlflow.start_run(experiment_id=experiment_id, run_name=study, tags=tags, description=description)
    with _ended(active) as run:
        yield run


@contextmanager
def trial_run(parent: Run, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> Iterator[Run]:
    """A nested run for one trial; FINISHED, FAILED on an exception, KILLED if the process is told to stop."""
    active = mlflow.start_run(
        experiment_id=parent.experiment_id,
        run_name=name,
        parent_run_id=parent.run_id,
        nested=True,
        tags=_text(tags),
    )
    with _ended(active) as run:
        run.log_params(params)
        yield run


def run_metrics(run: Run) -> dict[str, float]:
    """The last values of all metrics of a run."""
    return dict(mlflow.MlflowClient().get_run(run.run_id).data.metrics)


def trial_metrics(parent: Run) -> dict[str, dict[str, float]]:
    """The last values of all metrics of the study's trials, by run id."""
    found: dict[str, dict[str, float]] = {}
    token = None
    while True:
        page = mlflow.MlflowClient().search_runs(
            [parent.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.run_id}'", page_token=token
        )
        found |= {run.info.run_id: dict(run.data.metrics) for run in page}
        token = page.token
        if not token:
            return found


def metric_history(run_id: str, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of a metric of a run, in order."""
    found = sorted(mlflow.MlflowClient().get_metric_history(run_id, metric), key=lambda entry: entry.step)
    return [entry.step for entry in found], [entry.value for entry in found]


def end_killed(run_id: str) -> None:
    """Mark the run of a process that died as KILLED."""
    mlflow.MlflowClient().set_terminated(run_id, "KILLED")


def _text(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags as a server takes them."""
    return {name: str(value) for name, value in tags.items()}


@contextmanager
def _ended(active: mlflow.ActiveRun) -> Iterator[Run]:
    status = "FINISHED"
    try:
        yield Run(active.info.run_id, active.info.experiment_id)
    except Exception:
        status = "FAILED"
        raise
    except BaseException:  # KeyboardInterrupt, SystemExit: someone stopped us
        status = "KILLED"
        raise
    finally:
        mlflow.end_run(status)
