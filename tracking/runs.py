"""Runs: a parent a study, a nested run a trial, each with a true status at its end."""

from __future__ import annotations

import csv
import io
import json
import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from tracking.client import client, if_there
from tracking.environment import no_names
from tracking.errors import StoreError
from tracking.store import Store

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure


STUDY = "study"  # the tag of a parent run: its study's name
TRIAL_OF = "trial.study"  # that of a trial's run: the study that it belongs to
TRIAL = "trial.number"
SEARCH = "trial.part"  # the list or search that it belongs to
PARENT = "mlflow.parentRunId"  # MLflow's own
ASKED = 500  # ids in one question
log = logging.getLogger("study")


Measured = Mapping[str, Mapping[str, float]]
"""The metrics of trials, by run id."""


@dataclass(frozen=True)
class Inputs:
    """What a run is made from: a data set, and models of other runs by their `models:/` addresses."""

    dataset: str
    digest: str
    images: int  # for training
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """An MLflow run that is being written, and the name of the study that it belongs to."""

    run_id: str
    experiment_id: str
    study: str

    def log(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """All metrics of one step in one call; those that have only step 0 are bars on MLflow's pages, not curves."""
        now = int(time.time() * 1000)
        batch = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        client().log_batch(self.run_id, metrics=batch)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters, kept as text; one that is logged already must have the same value.

        One that is None does not apply, and is left out: as text it would make MLflow's axis of its numbers a list.
        """
        batch = [Param(name, str(value)) for name, value in params.items() if value is not None]
        client().log_batch(self.run_id, params=batch)

    def log_image(self, name: str, image: np.ndarray, step: int) -> None:
        """An image, uint8 [H, W] or [H, W, 3], for the step slider on MLflow's pages."""
        client().log_image(self.run_id, image, key=name, step=step)

    def log_figure(self, name: str, figure: Figure, caption: str = "") -> None:
        """A figure as `figures/<name>.png` among the artifacts; the file has its title (its label) and caption."""
        facts = {"Title": str(figure.get_label()), "Description": caption}
        facts = {key: text.encode("utf-8", "replace").decode() for key, text in facts.items()}
        metadata = facts | {"Creation Time": datetime.now(UTC).isoformat()}
        client().log_figure(self.run_id, figure, f"figures/{name}.png", save_kwargs={"metadata": metadata})

    def log_text(self, name: str, text: str) -> str:
        """A text file of this name among the artifacts. Returns where it lies: a path, or a server's address of it."""
        client().log_text(self.run_id, text, name)
        place = client().get_run(self.run_id).info.artifact_uri
        return f"{url2pathname(urlsplit(place).path) if place.startswith('file:') else place}/{name}"

    def log_table(self, name: str, columns: Mapping[str, Sequence[str]]) -> None:
        """A table as `tables/<name>.csv` among the artifacts, which MLflow's page shows as one."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        client().log_text(self.run_id, text.getvalue(), f"tables/{name}.csv")

    def log_json(self, name: str, content: Any) -> None:
        """Plain data as `<name>.json` among the artifacts."""
        client().log_dict(self.run_id, content, f"{name}.json")

    def read_json(self, name: str) -> Any:
        """What `log_json` has kept under this name; None if there is nothing, or its writing was cut short."""
        location = client().get_run(self.run_id).info.artifact_uri
        with if_there():
            return mlflow.artifacts.load_dict(f"{location}/{name}.json")
        return None

    def log_inputs(self, inputs: Inputs) -> None:
        """What the run is made from."""
        source = json.dumps({"dataset": inputs.dataset})
        profile = json.dumps({"num_rows": inputs.images})
        data = Dataset(inputs.dataset, inputs.digest, "local", source, profile=profile)
        used = [LoggedModelInput(uri.removeprefix("models:/")) for uri in inputs.models]
        tags = [InputTag("mlflow.data.context", "training")]
        client().log_inputs(self.run_id, [DatasetInput(data, tags)], used)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        client().log_batch(self.run_id, tags=[RunTag(*tag) for tag in _text(tags).items()])


@contextmanager
def study_run(
    store: Store, experiment_id: str, study: str, *, title: str, description: str, tags: Mapping[str, Any]
) -> Iterator[Run]:
    """The parent run of the study of this name: found again if the store has it, else made.

    Title, description and tags are written once, as it is made: what a user has changed since stays. A parent that was
    deleted is made again, and the trials that it has left behind come under the new one.
    Several processes may work under it. One that is stopped, or fails, ends it only if no other has a trial under way.
    """
    with no_names():
        run = None
        try:
            with store.locks.hold(study):
                run = _parent(experiment_id, study)
                if run is None:
                    context = mlflow.tracking.context.registry.resolve_tags()  # the user and program
                    about = context | {STUDY: study, "mlflow.note.content": description} | _text(tags)
                    made = client().create_run(experiment_id, run_name=title, tags=about)
                    run = Run(made.info.run_id, experiment_id, study)
                    for orphan in _trials(run):
                        client().set_tag(orphan.info.run_id, PARENT, run.run_id)
            yield run
        except BaseException as error:
            with suppress(Exception):  # The store may be what failed; the error itself is reported.
                if run is None and _status(error) == "KILLED":  # perhaps made, and the stop came before we knew of it
                    run = _parent(experiment_id, study)
                if run is not None and not any(_trials(run, "attributes.status = 'RUNNING'")):
                    _end(run.run_id, _status(error))
            raise
        _end(run.run_id, "FINISHED")


def _parent(experiment_id: str, study: str) -> Run | None:
    """The parent run of the study of this name; of several the oldest."""
    oldest = ["attributes.start_time ASC"]
    found = client().search_runs([experiment_id], f"tags.`{STUDY}` = '{study}'", max_results=1, order_by=oldest)
    return Run(found[0].info.run_id, experiment_id, study) if found else None


@contextmanager
def trial_run(parent: Run, name: str, params: Mapping[str, Any], tags: Mapping[str, Any]) -> Iterator[Run]:
    """A nested run for one trial; FINISHED, FAILED on an exception, KILLED if the process is asked to stop.

    Raises:
        StoreError: The parent was deleted meanwhile.
    """
    try:
        client().update_run(parent.run_id, status="RUNNING")
    except MlflowException as error:
        if not is_deleted(parent.run_id):
            raise
        raise StoreError(
            f"the run of the study {parent.study} was deleted in MLflow while it was under way:"
            " give the same command again, which makes it anew and keeps its trials"
        ) from error
    callers = mlflow.active_run()  # of the program that calls us: MLflow would have it as the parent
    with no_names():
        active = mlflow.start_run(
            experiment_id=parent.experiment_id,
            run_name=name,
            parent_run_id=None if callers else parent.run_id,
            nested=True,
            tags=_text({TRIAL_OF: parent.study, **tags}),
            log_system_metrics=None if _can_log_system() else False,  # None: as the user has it set
        )
        run = Run(active.info.run_id, active.info.experiment_id, parent.study)
        try:
            if callers:
                client().set_tag(run.run_id, PARENT, parent.run_id)
            run.log_params(params)
            yield run
        except BaseException as error:
            with suppress(Exception):  # The store may be what failed; the error itself is reported.
                mlflow.end_run(_status(error))
            raise
        mlflow.end_run()


def end_killed(run_id: str) -> None:
    """Mark the run of a trial whose process died as KILLED, unless it was deleted or is in another store."""
    if not is_deleted(run_id):
        client().set_terminated(run_id, "KILLED")


def is_deleted(run_id: str) -> bool:
    """Whether the store has no such run, or only among the deleted ones; False where the store cannot say."""
    try:
        return client().get_run(run_id).info.lifecycle_stage == "deleted"
    except MlflowException as error:
        return error.error_code == "RESOURCE_DOES_NOT_EXIST"
    except Exception:  # a server that is away
        return False


def correct_statuses(parent: Run, search: str, outcomes: Mapping[str, str], under_way: Collection[int]) -> None:
    """Correct the status of runs, of trials of this search, whose processes died before they could.

    Args:
        outcomes: The status that is wanted, by run id. Of other runs, those that are open become KILLED.
        under_way: Numbers of the trials that processes are working on: their runs are left alone.
    """
    numbers = {str(number) for number in under_way}
    not_finished = {run_id for run_id, outcome in outcomes.items() if outcome != "FINISHED"}
    ours = f"tags.`{SEARCH}` = '{search}' and attributes.status"  # a run takes MLflow a millisecond: not all are read
    for run in [*_trials(parent, f"{ours} != 'FINISHED'"), *_trials(parent, f"{ours} = 'FINISHED'", not_finished)]:
        status = run.info.status
        wanted = outcomes.get(run.info.run_id, "KILLED" if status == "RUNNING" else status)
        wrong = status == "RUNNING" or ("FINISHED" in (status, wanted) and status != wanted)
        if wrong and run.data.tags.get(TRIAL) not in numbers:
            client().set_terminated(run.info.run_id, wanted)


def trial_ids(parent: Run, among: Collection[str] | None = None) -> set[str]:
    """The ids of the runs of the study's trials that the store has; not of those that were deleted.

    Args:
        among: Ids to look for; None: all.
    """
    return {run.info.run_id for run in _trials(parent, among=among)}


def trial_metrics(parent: Run) -> Measured:
    """The last values of all metrics of the study's trials, by run id."""
    return {run.info.run_id: dict(run.data.metrics) for run in _trials(parent)}


def metric_history(run_id: str, metric: str) -> tuple[list[int], list[float]]:
    """Steps and values of a metric of a run, in order; of several values of a step, the first."""
    found: dict[int, float] = {}
    for entry in client().get_metric_history(run_id, metric):
        found.setdefault(entry.step, entry.value)
    return sorted(found), [found[step] for step in sorted(found)]


def created(experiment_id: str) -> int:
    """Return when the experiment was made, in milliseconds: with its id, that tells stores apart."""
    return client().get_experiment(experiment_id).creation_time or 0


def _text(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags as a server takes them."""
    return {name: str(value) for name, value in tags.items()}


@cache
def _can_log_system() -> bool:
    """Whether the package is here with which MLflow measures the machine; a warning, once, if it is asked for."""
    found = find_spec("psutil") is not None
    if not found and mlflow.environment_variables.MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        log.warning("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING does nothing without psutil: pip install psutil")
    return found


def _status(error: BaseException) -> str:
    """KeyboardInterrupt, SystemExit: someone stopped us."""
    return "FAILED" if isinstance(error, Exception) else "KILLED"


def _end(run_id: str, status: str) -> None:
    """End the run, unless it has this status: its end stays when it was."""
    found = client().get_run(run_id).info
    if found.status != status and found.lifecycle_stage != "deleted":
        client().set_terminated(run_id, status)


def _trials(study: Run, condition: str = "", among: Collection[str] | None = None) -> Iterator[Any]:
    """The runs of the study's trials for which this condition holds, of all or of those with these ids."""
    common = " and ".join(filter(None, [f"tags.`{TRIAL_OF}` = '{study.study}'", condition]))
    ids = [f"'{run_id}'" for run_id in sorted(among or ())]
    parts = [", ".join(ids[start : start + ASKED]) for start in range(0, len(ids), ASKED)]
    for wanted in [common] if among is None else [f"{common} and attributes.run_id IN ({part})" for part in parts]:
        token = None
        while token != "":
            page = client().search_runs([study.experiment_id], wanted, page_token=token)
            yield from page
            token = page.token or ""
