"""Reading what studies have left in a store, for those who look at it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tracking.client import client
from tracking.runs import STUDY, TRIAL_OF, Run
from tracking.store import EXPERIMENT


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
        return self.tags.get("mlflow.note.content", "")

    def files(self, folder: str, ending: str) -> list[str]:
        """The paths of its artifacts in this folder, `figures` or `tables`, with this ending."""
        found = client().list_artifacts(self.run_id, folder)
        return [file.path for file in found if file.path.endswith(ending) and not file.is_dir]

    def read(self, path: str) -> bytes:
        """The content of an artifact."""
        with TemporaryDirectory() as folder:
            return Path(client().download_artifacts(self.run_id, path, folder)).read_bytes()


def experiments() -> list[str]:
    """The names of all experiments of ours, as we gave them."""
    return sorted(each.tags[EXPERIMENT] for each in client().search_experiments() if EXPERIMENT in each.tags)


def parents(experiment: str) -> list[Record]:
    """The parent runs of all studies in the experiment that we gave this name, the oldest first."""
    found = client().search_experiments(filter_string=f"tags.`{EXPERIMENT}` = '{experiment}'")
    return [run for each in found for run in _search(each.experiment_id, f"tags.`{STUDY}` LIKE '%'")]


def trials(parent: Record) -> list[Record]:
    """The trials of a study, the oldest first."""
    return _search(parent.experiment_id, f"tags.`{TRIAL_OF}` = '{parent.study}'")


def _search(experiment_id: str, condition: str) -> list[Record]:
    found, token = [], None
    while True:
        page = client().search_runs(
            [experiment_id], condition, order_by=["attributes.start_time ASC"], page_token=token
        )
        found += [_record(run) for run in page]
        token = page.token
        if not token:
            return found


def _record(run: Any) -> Record:
    return Record(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        study=run.data.tags.get(STUDY, run.data.tags.get(TRIAL_OF, "")),
        name=run.info.run_name,
        status=run.info.status,
        started=_time(run.info.start_time),
        ended=_time(run.info.end_time) if run.info.end_time else None,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
    )


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
