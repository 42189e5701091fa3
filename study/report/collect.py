"""From what a store holds to the page of the report."""

from __future__ import annotations

import csv
import json
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from study.checks import UsageError
from study.engine.stage import Outcome, Row, Stage
from study.report.page import Cell, Page, Picture, Section, Trials, render
from study.stages import all_stages
from tracking.errors import reason_of
from tracking.pages import local_address

if TYPE_CHECKING:
    from tracking.reading import Record

T = TypeVar("T")
METRICS = ("val/", "test/", "sample/", "latent/")  # those of the trials' tables, in this order


def collect(dataset: str | None, runs: Sequence[str] = ()) -> Page:
    """Read the open store: of each stage the study with one of these parent runs, else the newest (finished) one.

    Raises:
        UsageError: The store holds no study of the data set.
    """
    from tracking import reading
    from tracking.views import server

    known = {name.partition("/")[0] for name in reading.experiments()}
    stages = all_stages()
    studies = {
        (name, stage.name): found
        for name in sorted(known if dataset is None else known & {dataset})
        for stage in stages
        if (found := reading.parents(f"{name}/{stage.name}"))
    }
    if not studies:
        has = ", ".join(sorted(known)) or "none"
        raise UsageError(f"no study of {dataset or 'any data set'} is in this store (it has: {has})")
    last, _ = max(studies, key=lambda key: max(map(_age, studies[key])))
    known_stages = {stage.name: stage for stage in stages}
    sections = [_section(known_stages[stage], found, runs) for (name, stage), found in studies.items() if name == last]
    missing = [stage for stage in known_stages if stage not in {section.stage for section in sections}]
    flags = _data_flags(sections[-1].parent, last)
    return Page(last, _minute(datetime.now(UTC)), sections, missing, flags, has_server=server() is not None)


def newest(dataset: str, seed: int | None) -> dict[str, Record]:
    """The parent run of the newest (finished) study of each stage in the open store, by the stage's name.

    Args:
        seed: None: any.

    Raises:
        UsageError: The store holds none.
    """
    from tracking import reading

    found = {stage.name: reading.parents(f"{dataset}/{stage.name}") for stage in all_stages()}
    seeds = sorted({parent.tags.get("seed", "") for parents in found.values() for parent in parents})
    wanted = {
        stage: max(chosen, key=_age)
        for stage, parents in found.items()
        if (chosen := [each for each in parents if seed is None or each.tags.get("seed") == str(seed)])
    }
    if not wanted and seeds:
        raise UsageError(f"no study of {dataset} with seed {seed} is in this store (it has: {', '.join(seeds)})")
    if not wanted:
        has = ", ".join(sorted({name.partition("/")[0] for name in reading.experiments()})) or "none"
        raise UsageError(f"no study of {dataset} is in the store to compare with (it has: {has})")
    return wanted


def _data_flags(parent: Record, dataset: str) -> str:
    """The flags that load the same data set again, from the recorded command."""
    try:
        words = shlex.split(parent.tags.get("command", ""))
    except ValueError:  # somebody has changed it
        words = []
    found = [words[place : place + 2] for place, word in enumerate(words) if word in ("--data", "--image-size")]
    colour = ["--colour"] if "--colour" in words else []
    return shlex.join([word for pair in found for word in pair] + colour or ["--data", dataset])


def keep(dataset: str, outcomes: Sequence[Outcome]) -> str:
    """Log the page about these outcomes on the last one's parent run. Returns where it lies."""
    page = collect(dataset, [outcome.run_id for outcome in outcomes])
    parent = next(section.parent for section in page.sections if section.stage == outcomes[-1].stage)
    return parent.log_text("report.html", render(page))


def _age(record: Record) -> tuple[bool, datetime]:
    return record.status == "FINISHED", record.ended or record.started


@dataclass
class _Notes:
    """What is left out of a section, since it cannot be read: one bad artifact must not end the report."""

    lines: list[str]

    def attempt(self, what: str, read: Callable[[], T]) -> T | None:
        """What `read` gives; if it fails, for whatever reason, None and a note."""
        try:
            return read()
        except Exception as error:
            self.lines.append(f"{what} is left out, since it cannot be read: {reason_of(error)}")
            return None


def _section(stage: Stage, studies: Sequence[Record], runs: Sequence[str]) -> Section:
    from tracking import reading
    from tracking.views import place_of, server

    parent = next((study for study in studies if study.run_id in runs), None) or max(studies, key=_age)
    notes = _Notes([])
    trials = reading.trials(parent)
    best = next((trial for trial in trials if trial.run_id == parent.tags.get("best.run_id")), None)
    champion, rows = notes.attempt("the table", lambda: outcome_of(parent)) or ("", None)
    settings = notes.attempt("the list of settings", lambda: json.loads(parent.tags.get("settings", "{}"))) or {}
    pictures, best_pictures = _pictures(parent, notes), _pictures(best, notes) if best else []
    named = {picture.name: picture for picture in pictures}
    named |= {f"best/{picture.name}": picture for picture in best_pictures}
    return Section(
        stage=stage.name,
        question=stage.question,
        about=[text for text in parent.description.split("\n\n") if text != stage.question],
        parent=parent,
        champion=_version(champion or parent.tags.get("best.version", "")),
        rows=rows,
        headline=named.get(stage.headline),
        pictures=pictures,
        tables=_tables(parent, notes),
        best=best.name if best else "",
        best_pictures=best_pictures,
        trials=_trials(trials, parent.tags.get("best.metric", "")),
        made=_made(parent, trials),
        settings=json.dumps(settings, indent=1),
        others=len(studies) - 1,
        notes=notes.lines,
        trials_at=f"{server() or local_address()}/{place_of(parent.run_id).address}",
    )


def outcome_of(parent: Record) -> tuple[str, list[Row] | None]:
    """The champion and the rows that a closed study has kept; none of an open one."""
    kept = parent.read_json("outcome")
    if kept is None:
        return "", None
    return str(kept["champion"]), [Row(**row) for row in kept["rows"]]


def _tables(record: Record, notes: _Notes) -> dict[str, list[list[str]]]:
    """The rows of its tables, the first with the columns' names, by the table's name."""

    def rows(path: str) -> list[list[str]]:
        found = list(csv.reader(record.read(path).decode().splitlines()))
        if not found:
            raise ValueError("it is empty")
        return found

    paths = notes.attempt("what is in tables/", lambda: record.files("tables", ".csv")) or []
    found = {PurePosixPath(path).stem: notes.attempt(path, partial(rows, path)) for path in paths}
    return {name: table for name, table in found.items() if table}


def _pictures(record: Record, notes: _Notes) -> list[Picture]:
    """The figures of a run, in the order in which they were made."""
    paths = notes.attempt("what is in figures/", lambda: record.files("figures", ".png")) or []
    found = [notes.attempt(path, partial(_picture, record, path)) for path in paths]
    return sorted(filter(None, found), key=lambda picture: (picture.made, picture.name))


def _picture(record: Record, path: str) -> Picture:
    """Compress a figure, which says itself what it shows (see `study.plots.facts`)."""
    from PIL import Image

    name, image = PurePosixPath(path).stem, Image.open(BytesIO(record.read(path)))
    facts: dict[str, str] = dict(getattr(image, "text", {}))
    small = BytesIO()
    image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(small, "PNG")
    columns, rows = json.loads(facts.get("Values", "[[], []]"))
    title = facts.get("Title") or name.replace("_", " ")
    made = facts.get("Creation Time", "")
    return Picture(name, title, facts.get("Description", ""), columns, rows, small.getvalue(), image.size, made)


def _trials(records: Sequence[Record], objective: str) -> Trials:
    """A table of the parameters that differ and of the metrics of the kinds that are compared."""
    params = sorted({name for record in records for name in record.params})
    values = {name: {record.params.get(name, "") for record in records} for name in params}
    varied = [name for name in params if len(values[name]) > 1]
    known = {name for record in records for name in record.metrics if name.startswith(METRICS)}
    order = {prefix: place for place, prefix in enumerate(METRICS)}
    metrics = sorted(known - {objective}, key=lambda name: (order[f"{name.partition('/')[0]}/"], name))
    objectives = [objective] if objective else []
    rows = [
        [
            Cell(record.name, record.started.timestamp()),
            _state(record),
            *(_cell(record.metrics.get(name, "")) for name in objectives),
            *(_cell(record.params.get(name, "")) for name in varied),
            *(_cell(record.metrics.get(name, "")) for name in metrics),
            _cell(round(_seconds(record))),
        ]
        for record in records
    ]
    same = [(name, next(iter(values[name]))) for name in params if name not in varied]
    return Trials(["trial", "state", *objectives, *varied, *metrics, "seconds"], rows, same)


def _state(record: Record) -> Cell:
    state = record.tags.get("optuna.state", record.status).lower()
    if record.status == "KILLED" and state != "stopped":  # its process could say no more
        state = "killed"
    reason = record.tags.get("reason", "")
    text = f"{state}: {reason}" if state in ("fail", "stopped") and reason else state
    return Cell(text, text)


def _cell(value: str | float) -> Cell:
    try:
        return Cell(f"{float(value):.4g}", float(value))
    except ValueError:
        return Cell(str(value) or "-", str(value))


def _seconds(record: Record) -> float:
    """How long it took; of a killed one nobody knows: its end is when that was noticed."""
    known = record.ended and record.status != "KILLED"
    return (record.ended - record.started).total_seconds() if record.ended and known else 0.0


def _made(parent: Record, trials: Sequence[Record]) -> list[tuple[str, str]]:
    tags, unknown = parent.tags, "not recorded"
    states = Counter(_state(trial).text.partition(":")[0] for trial in trials)
    commits = sorted({_commit(trial) for trial in trials if "git_commit" in trial.tags})
    computed = sorted({_computed_with(trial) for trial in trials if "versions" in trial.tags})
    inputs = [_version(value) for name, value in tags.items() if name.startswith("input.")]
    return [
        ("Command", tags.get("command", unknown)),
        ("Data set", f"{tags.get('dataset', unknown)}: {tags.get('images', 'sizes not recorded')}"),
        ("Seed", tags.get("seed", unknown)),
        ("Builds on", ", ".join(inputs) or "nothing but the data"),
        ("Trials", ", ".join(f"{count} {state}" for state, count in states.most_common()) or "none"),
        ("Trained for", f"{sum(map(_seconds, trials)) / 60:.0f} minutes"),
        ("Chosen by", tags.get("best.metric", "nothing yet")),
        ("Commit of the trials", ", ".join(commits) or unknown),
        ("Computed with", "; ".join(computed) or unknown),
        ("Began, ended", f"{_minute(parent.started)}, {_minute(parent.ended) if parent.ended else 'not yet'}"),
        ("MLflow run", parent.run_id),
    ]


def _commit(trial: Record) -> str:
    changed = trial.tags.get("git_dirty") == "true"
    return trial.tags["git_commit"] + (" with changes that were not committed" if changed else "")


def _computed_with(trial: Record) -> str:
    return f"{trial.tags['versions']}; {trial.tags.get('device')}, threads: {trial.tags.get('threads')}"


def _version(uri: str) -> str:
    """A registered version as people write it: `mnist-judge v1`."""
    return uri.removeprefix("models:/").replace("/", " v")


def _minute(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
