"""Runs: a parent for a study, a nested run for each trial, each with a true status at its end.

MLflow's active run is never used: neither variables that name a run nor the runs of a calling program reach ours.
"""

from __future__ import annotations

import csv
import getpass
import io
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mlflow import MlflowException
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param, RunTag

from tracking.errors import StoreError
from tracking.store import EXPERIMENT, Store, client, experiments, path_of, read_artifact, search

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

STUDY = "study"  # the tag of a parent run: the name of its study
TRIAL_OF = "trial.study"  # the tag of the run of a trial: the study that it belongs to
TRIAL = "trial.number"
SEARCH = "trial.part"  # the list or search that the trial belongs to
SETTINGS = "trial.settings"  # what all seeds of the same settings share
REPEAT = "repeat"  # the parameter that numbers these seeds
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"  # MLflow's own
Tags = Mapping[str, Any]
NOTHING: Tags = {}
MOST_METRICS = 900  # of a model; MLflow takes 1,000 metrics and tags in a call


@dataclass(frozen=True)
class Inputs:
    """What a run is made from: a data set with its training images, and models by their `models:/` addresses."""

    dataset: str
    digest: str
    images: int
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """An MLflow run, and the name of the study that it belongs to."""

    run_id: str
    experiment_id: str
    study: str

    def log(self, metrics: Mapping[str, float], step: int = 0) -> list[Metric]:
        """Log all metrics of one step in one call; metrics of step 0 alone are bars on MLflow's pages, not curves."""
        now = int(time.time() * 1000)
        logged = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        client().log_batch(self.run_id, logged)
        return logged

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters as text, once each; None is left out: it would make MLflow's axis of numbers a list."""
        batch = [Param(name, str(value)) for name, value in params.items() if value is not None]
        client().log_batch(self.run_id, params=batch)

    def log_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Log an image, uint8 [H, W] or [H, W, 3], for the step slider on MLflow's pages."""
        client().log_image(self.run_id, image, key=name, step=step)

    def log_figure(self, name: str, figure: Figure, caption: str = "") -> None:
        """Log a figure as `figures/<name>.png`; the file has its title (its label), the caption and the time."""
        about = {"Title": str(figure.get_label()), "Description": caption, "Creation Time": str(datetime.now(UTC))}
        about = {key: text.encode("utf-8", "replace").decode() for key, text in about.items()}
        client().log_figure(self.run_id, figure, f"figures/{name}.png", save_kwargs={"metadata": about})

    def log_text(self, name: str, text: str) -> str:
        """Log a text file. Return where it lies: a path, or a server's address of it."""
        client().log_text(self.run_id, text, name)
        place = self._address(name)
        return str(path_of(place)) if place.startswith("file:") else place

    def log_table(self, name: str, columns: Mapping[str, Sequence[str]]) -> None:
        """Log a table as `tables/<name>.csv`, which MLflow's page shows as one."""
        text = io.StringIO()
        csv.writer(text).writerows([columns, *zip(*columns.values(), strict=True)])
        client().log_text(self.run_id, text.getvalue(), f"tables/{name}.csv")

    def log_json(self, name: str, content: Any) -> None:
        """Log plain data as `<name>.json`."""
        client().log_dict(self.run_id, content, f"{name}.json")

    def read_json(self, name: str) -> Any:
        """Return what `log_json` has logged under this name; None if there is nothing, or its writing was cut short."""
        with suppress(ValueError):
            return json.loads(read_artifact(self._address(f"{name}.json")) or b"")

    def read(self, path: str) -> bytes:
        """Return the content of an artifact; a StoreError if there is no such file."""
        content = read_artifact(self._address(path))
        if content is None:
            raise StoreError(f"the artifact {path} of run {self.run_id} is missing")
        return content

    def files(self, folder: str, ending: str = "") -> list[str]:
        """Return the paths of the artifacts in a folder, `figures` or `tables` say, with this ending."""
        found = client().list_artifacts(self.run_id, folder)
        return [file.path for file in found if file.path.endswith(ending) and not file.is_dir]

    def log_inputs(self, inputs: Inputs) -> None:
        """Log what the run is made from."""
        source, profile = json.dumps({"dataset": inputs.dataset}), json.dumps({"num_rows": inputs.images})
        data = Dataset(inputs.dataset, inputs.digest, "local", source, profile=profile)
        used = [LoggedModelInput(uri.removeprefix("models:/")) for uri in inputs.models]
        client().log_inputs(self.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])], used)

    def set_tags(self, tags: Mapping[str, Any], metrics: Sequence[Metric] = ()) -> None:
        """Set tags, as text, and log metrics in the same call."""
        client().log_batch(self.run_id, metrics, tags=[RunTag(name, str(value)) for name, value in tags.items()])

    def _address(self, path: str) -> str:
        return f"{client().get_run(self.run_id).info.artifact_uri}/{path}"


@dataclass(frozen=True)
class Record(Run):
    """A run as the store has it. `ended` is None while it runs."""

    name: str
    status: str
    started: datetime
    ended: datetime | None
    params: Mapping[str, str]
    metrics: Mapping[str, float]  # the last value of each
    tags: Mapping[str, str]

    @property
    def description(self) -> str:
        """The text on its page."""
        return self.tags.get(NOTE, "")


def of_model(model_id: str, metrics: Iterable[Metric], inputs: Inputs | None) -> list[Metric]:
    """Return metrics of a run as those of its model too; the run has each once, of equal step, time and value."""
    about = (model_id, inputs.dataset, inputs.digest) if inputs else (model_id, None, None)
    finite = [each for each in metrics if math.isfinite(each.value)][:MOST_METRICS]  # MLflow would make NaN a 0
    return [Metric(each.key, each.value, each.timestamp, each.step, *about) for each in finite]


@contextmanager
def study_run(
    store: Store, experiment: str, study: str, *, title: str = "", description: str = "", tags: Tags = NOTHING
) -> Iterator[Run]:
    """Open the parent run of a study: found again as a user may have changed it, else made, with its trials under it.

    Several processes may work under it: one that is stopped, or fails, ends it only if no other has a trial under way.
    """
    run = None
    try:
        with store.locks.hold(study):
            run = _parent(experiment, study)
            if run is None:
                made = _create(experiment, title, {STUDY: study, NOTE: description, **tags})
                run = Run(made, experiment, study)
                for orphan in runs_of(run):
                    orphan.set_tags({PARENT: run.run_id})
        yield run
    except BaseException as error:
        with suppress(Exception):  # The store may be what failed; the error itself is reported.
            if run is None and _status(error) == "KILLED":  # perhaps made, and the stop came before we knew of it
                run = _parent(experiment, study)
            if run is not None and not runs_of(run, status="RUNNING"):
                end(run.run_id, _status(error))
        raise
    end(run.run_id, "FINISHED")


@contextmanager
def trial_run(parent: Run, name: str, params: Mapping[str, Any] = NOTHING, tags: Tags = NOTHING) -> Iterator[Run]:
    """Open a run for one trial: FINISHED, FAILED on an exception, KILLED if the process is asked to stop."""
    try:
        client().update_run(parent.run_id, status="RUNNING")
    except MlflowException as error:
        if not is_deleted(parent.run_id):
            raise
        gone = f"the run of the study {parent.study} was deleted in MLflow while it was under way"
        raise StoreError(f"{gone}: the same command makes it anew, with its trials") from error
    made = _create(parent.experiment_id, name, {TRIAL_OF: parent.study, PARENT: parent.run_id, **tags})
    run = Run(made, parent.experiment_id, parent.study)
    try:
        run.log_params(params)
        yield run
    except BaseException as error:
        with suppress(Exception):  # The store may be what failed; the error itself is reported.
            client().set_terminated(run.run_id, _status(error))
        raise
    client().set_terminated(run.run_id)


def end(run_id: str, status: str = "KILLED") -> None:
    """End a run that has another status (else its end stays when it was), and is neither deleted nor elsewhere."""
    if not is_deleted(run_id) and client().get_run(run_id).info.status != status:
        client().set_terminated(run_id, status)


def is_deleted(run_id: str) -> bool:
    """Return whether the store has no such run, or only a deleted one; False where the store cannot say."""
    try:
        return client().get_run(run_id).info.lifecycle_stage == "deleted"
    except MlflowException as error:
        return error.error_code == "RESOURCE_DOES_NOT_EXIST"
    except Exception:  # a server that is away
        return False


def metric_history(run_id: str, metric: str) -> tuple[list[int], list[float]]:
    """Return steps and values of a metric of a run, in order; of several values of a step, the first."""
    found: dict[int, float] = {}
    for entry in client().get_metric_history(run_id, metric):
        found.setdefault(entry.step, entry.value)
    return sorted(found), [found[step] for step in sorted(found)]


def mean_histories(groups: Mapping[Any, Sequence[str]], metric: str) -> dict[str, tuple[list[int], list[float]]]:
    """Return for each group of runs the steps that all have, and the metric's means; groups without any are left out.

    Args:
        groups: Ids of runs by the group's name.
    """
    means = {}
    for name, run_ids in groups.items():
        histories = [dict(zip(*metric_history(run_id, metric), strict=True)) for run_id in run_ids]
        steps = sorted(set.intersection(*map(set, histories))) if histories else []
        if steps:
            means[name] = steps, [fmean(each[step] for each in histories) for step in steps]
    return means


def created(experiment_id: str) -> int:
    """Return when the experiment was made, in milliseconds: with its id, that tells stores apart."""
    return client().get_experiment(experiment_id).creation_time or 0


def names() -> list[str]:
    """Return the names of all experiments of ours, as we gave them."""
    return sorted(each.tags[EXPERIMENT] for each in experiments())


def parents(experiment: str) -> list[Record]:
    """Return the parent runs of all studies in the experiment that we gave this name, the oldest first."""
    ours = [each for each in experiments() if each.tags[EXPERIMENT] == experiment]
    return [run for each in ours for run in _records(each.experiment_id, f"tags.`{STUDY}` LIKE '%'")]


def runs_of(study: Run, part: str = "", status: str = "") -> list[Record]:
    """Return the runs of a study's trials, the oldest first: all, or of a list or search, or with this status."""
    wanted = {f"tags.`{TRIAL_OF}`": study.study, f"tags.`{SEARCH}`": part, "attributes.status": status}
    condition = " and ".join(f"{name} = '{value}'" for name, value in wanted.items() if value)
    return _records(study.experiment_id, condition)


def _records(experiment_id: str, condition: str) -> list[Record]:
    found = []
    for run in search(client().search_runs, [experiment_id], condition, order_by=["attributes.start_time ASC"]):
        info, data = run.info, run.data
        study = data.tags.get(STUDY, data.tags.get(TRIAL_OF, ""))
        started = datetime.fromtimestamp(info.start_time / 1000, UTC)
        ended = datetime.fromtimestamp(info.end_time / 1000, UTC) if info.end_time else None
        about = (info.run_name, info.status, started, ended, data.params, data.metrics, data.tags)
        found.append(Record(info.run_id, experiment_id, study, *about))
    return found


def _parent(experiment_id: str, study: str) -> Run | None:
    """Return the parent run of the study of this name; of several the oldest."""
    found = _records(experiment_id, f"tags.`{STUDY}` = '{study}'")
    return Run(found[0].run_id, experiment_id, study) if found else None


def _create(experiment_id: str, name: str, tags: Mapping[str, Any]) -> str:
    """Make a run. Return its id."""
    about = {"mlflow.source.name": sys.argv[0], "mlflow.source.type": "LOCAL"}
    with suppress(Exception):  # a user without a name, in a container say
        about["mlflow.user"] = getpass.getuser()
    text = {name: str(value) for name, value in tags.items()}
    return client().create_run(experiment_id, run_name=name, tags=about | text).info.run_id


def _status(error: BaseException) -> str:
    """Return the status of a run that ends in this error: KILLED where someone stopped us."""
    return "FAILED" if isinstance(error, Exception) else "KILLED"
