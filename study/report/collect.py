"""From what a store holds to the page of the report; two studies side by side."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from study.checks import UsageError
from study.report.page import Page, Picture, Section, SideBySide, html
from study.results import Row, corrected
from study.stages import all_stages
from tracking.errors import reason_of

if TYPE_CHECKING:
    from study.engine.stage import Outcome, Stage
    from tracking.runs import Record

T = TypeVar("T")
METRICS = ("val/", "test/", "judge1/", "judge2/", "judge3/", "latent/")
"""Those of the trials' tables, in this order."""
UNKNOWN = "not recorded"
ROWS = ("stage", "figure", "here", "there", "verdict")  # of both studies of a comparison


def collect(dataset: str | None, runs: Sequence[str] = (), seed: int | None = None) -> Page:
    """Read the open store: of each stage the study with one of these parent runs, else the newest (finished) one.

    Args:
        dataset: None: the one that the store was last used for.
        seed: Of the studies; None: any.

    Raises:
        UsageError: The store has no such study; the message says what it has.
    """
    from tracking import runs as reading

    stages = {stage.name: stage for stage in all_stages()}
    names = [(data, stage) for data, _, stage in (name.partition("/") for name in reading.names()) if stage in stages]
    every = {each: reading.parents("/".join(each)) for each in names if dataset in (None, each[0])}
    found: dict[tuple[str, str], list[Record]] = {}
    for each, parents in every.items():
        chosen = [parent for parent in parents if seed is None or parent.tags.get("seed") == str(seed)]
        found |= {each: chosen} if chosen else {}
    if not found:
        seeds = sorted({parent.tags.get("seed", "") for parents in every.values() for parent in parents})
        has = f"seeds {', '.join(seeds)}" if seeds else ", ".join(sorted({data for data, _ in names})) or "none"
        what = f"{dataset or 'any data set'}{'' if seed is None else f' with seed {seed}'}"
        raise UsageError(f"no study of {what} is in this store (it has: {has})")
    last, _ = max(found, key=lambda each: max(map(_age, found[each])))
    sections = [_section(stages[name], found[last, name], runs) for name in stages if (last, name) in found]
    shown = corrected([section.rows or () for section in sections])
    sections = [replace(section, rows=section.rows and rows) for section, rows in zip(sections, shown, strict=True)]
    missing = [name for name in stages if (last, name) not in found]
    return Page(last, _minute(datetime.now(UTC)), sections, missing)


def _age(record: Record) -> tuple[bool, datetime]:
    """Return what is larger for a newer study; a finished one is always newer."""
    return record.status == "FINISHED", record.ended or record.started


def keep(dataset: str, outcomes: Sequence[Outcome]) -> str:
    """Log the page about these outcomes on the last one's parent run. Return where it lies."""
    page = collect(dataset, [outcome.run_id for outcome in outcomes])
    parent = next(section.parent for section in page.sections if section.stage == outcomes[-1].stage)
    return parent.log_text("report.html", html(page))


def _section(stage: Stage, found: Sequence[Record], runs: Sequence[str]) -> Section:
    from tracking import runs as reading
    from tracking.views import trials_page

    notes: list[str] = []

    def attempt(what: str, read: Callable[[], T]) -> T | None:
        """Return what `read` gives; None and a note if it fails: one bad artifact must not end the report."""
        try:
            return read()
        except Exception as error:  # whatever a file that somebody has changed leads to
            notes.append(f"{what} is left out, since it cannot be read: {reason_of(error)}")
            return None

    def pictures(record: Record) -> list[Picture]:
        paths = attempt("what is in figures/", lambda: record.files("figures", ".png")) or []
        read = [attempt(path, partial(_picture, record, path)) for path in paths]
        return sorted(filter(None, read), key=lambda picture: (picture.made, picture.name))

    parent = next((study for study in found if study.run_id in runs), None) or max(found, key=_age)
    trials = reading.runs_of(parent)
    best = next((trial for trial in trials if trial.run_id == parent.tags.get("best.run_id")), None)
    table, same = _trial_table(trials, parent.tags.get("best.metric", ""))
    own, bests = pictures(parent), pictures(best) if best else []
    named = {picture.name: picture for picture in own} | {f"best/{picture.name}": picture for picture in bests}
    paths = attempt("what is in tables/", lambda: parent.files("tables", ".csv")) or []
    tables = {PurePosixPath(path).stem: attempt(path, partial(_table, parent, path)) for path in paths}
    return Section(
        stage=stage.name,
        question=stage.question,
        about=[text for text in parent.description.split("\n\n") if text != stage.question],
        parent=parent,
        champion=_version(parent.tags.get("best.version", "")),
        rows=attempt("the table", lambda: _rows(parent)),
        headline=named.get(stage.headline),
        pictures=own,
        tables={name: table for name, table in tables.items() if table},
        best=best.name if best else "",
        best_pictures=bests,
        trials=trials,
        table=table,
        same=same,
        made=_made(parent, trials),
        others=len(found) - 1,
        notes=notes,
        trials_at=trials_page(parent.run_id),
    )


def _rows(parent: Record) -> list[Row] | None:
    kept = parent.read_json("outcome")
    return None if kept is None else [Row(**row) for row in kept["rows"]]


def _table(record: Record, path: str) -> list[list[str]]:
    rows = list(csv.reader(record.read(path).decode().splitlines()))
    if not rows:
        raise ValueError("it is empty")
    return rows


def _picture(record: Record, path: str) -> Picture:
    """Return a figure with fewer colours, and the title and caption of its file."""
    from PIL import Image

    name, image = PurePosixPath(path).stem, Image.open(BytesIO(record.read(path)))
    facts: Mapping[str, str] = dict(getattr(image, "text", {}))
    small = BytesIO()
    image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(small, "PNG")
    title, made = facts.get("Title") or name.replace("_", " "), facts.get("Creation Time", "")
    return Picture(name, title, facts.get("Description", ""), small.getvalue(), image.size, made)


def _trial_table(records: Sequence[Record], objective: str) -> tuple[list[list[str]], str]:
    """Return a row a trial of the parameters that differ and the metrics that are compared; and what they share."""
    params = sorted({name for record in records for name in record.params})
    values = {name: {record.params.get(name, "") for record in records} for name in params}
    varied = [name for name in params if len(values[name]) > 1]
    known = {name for record in records for name in record.metrics if name.startswith(METRICS)} - {objective}
    metrics = sorted(known, key=lambda name: (METRICS.index(f"{name.partition('/')[0]}/"), name))
    metrics = [objective] * bool(objective) + metrics
    rows = [["trial", "state", *varied, *metrics, "seconds"]]
    for record in records:
        cells = [*(record.params.get(name, "-") for name in varied)]
        cells += [f"{record.metrics[name]:.4g}" if name in record.metrics else "-" for name in metrics]
        reason = record.tags.get("reason", "") if state(record) in ("failed", "stopped") else ""
        shown = f"{state(record)}: {reason}" if reason else state(record)
        rows.append([record.name, shown, *cells, f"{seconds(record):.0f}"])
    return rows, ", ".join(f"{name} {min(values[name])}" for name in params if name not in varied)


def state(record: Record) -> str:
    """Return how a trial ended, or that it is running."""
    found = record.tags.get("state", record.status).lower()
    return "killed" if record.status == "KILLED" and found != "stopped" else found  # its process could say no more


def seconds(record: Record) -> float:
    """Return how long it took; 0 of a killed one: its end is when that was noticed."""
    known = record.ended and record.status != "KILLED"
    return (record.ended - record.started).total_seconds() if record.ended and known else 0.0


def _made(parent: Record, trials: Sequence[Record]) -> dict[str, str]:
    """Return how the numbers were made, fact by fact."""
    tags = parent.tags
    states = Counter(map(state, trials))
    inputs = [_version(uri) for name, uri in tags.items() if name.startswith("input.") and "weights" not in name]
    changes = {"true": " with changes that were not committed"}
    computed = [trial.tags for trial in trials if "git_commit" in trial.tags]
    commits = {each["git_commit"] + changes.get(each.get("git_dirty", ""), "") for each in computed}
    machines = {f"{each.get('versions')}; {each.get('device')}, {each.get('threads')} threads" for each in computed}

    return {
        "Command": tags.get("command", UNKNOWN),
        "Data set": f"{tags.get('dataset', UNKNOWN)}: {tags.get('images', 'sizes not recorded')}",
        "Seed": tags.get("seed", UNKNOWN),
        "Builds on": ", ".join(inputs) or "nothing but the data",
        "Trials": ", ".join(f"{count} {state}" for state, count in states.most_common()) or "none",
        "Trained for": f"{sum(map(seconds, trials)) / 60:.0f} minutes",
        "Chosen by": tags.get("best.metric", "nothing yet"),
        "Commit": ", ".join(sorted(commits)) or UNKNOWN,
        "Computed with": ", ".join(sorted(machines)) or UNKNOWN,
        "Began, ended": f"{_minute(parent.started)}, {_minute(parent.ended) if parent.ended else 'not yet'}",
        "MLflow run": parent.run_id,
        "Settings": tags.get("settings", UNKNOWN),
    }


def _version(uri: str) -> str:
    """Return a registered version as people write it: `mnist-judge v1`."""
    return uri.removeprefix("models:/").replace("/", " v")


def _minute(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def side_by_side(page: Page, there: Page, name: str) -> SideBySide:
    """Return the rows of a page's studies beside those of another page, which the reader calls by this name.

    Raises:
        UsageError: They are the same studies, or of other stages.
    """
    others = {section.stage: section for section in there.sections}
    pairs = [(section, others[section.stage]) for section in page.sections if section.stage in others]
    pairs = [(here, other) for here, other in pairs if here.parent.run_id != other.parent.run_id]
    if not pairs:
        raise UsageError(f"a comparison needs another study of the same stages, but got {name}")
    notes: list[str] = []
    rows: list[Sequence[str]] = [ROWS]
    for here, other in pairs:
        ours, theirs = _numbered(here.rows or ()), _numbered(other.rows or ())
        for key in [key for key in ours if key in theirs]:
            verdict, other_verdict = (row.claim.verdict if row.claim else "-" for row in (ours[key], theirs[key]))
            decided = verdict if verdict == other_verdict else f"{verdict}, there {other_verdict}"
            rows.append((here.stage, key[0], ours[key].ours, theirs[key].ours, decided))
        alone = sorted(f"{here.stage}, {figure}: only on one side" for figure, _ in ours.keys() ^ theirs.keys())
        notes += [*alone, *(f"{here.stage}, there: {note}" for note in other.notes)]
        if here.parent.tags.get("data_digest") != other.parent.tags.get("data_digest"):
            notes.append(f"{here.stage}: other images under the same name")
    return SideBySide(name, rows, notes)


def _numbered(rows: Sequence[Row]) -> dict[tuple[str, int], Row]:
    """Return the rows by figure, and by how many rows before had the same one."""
    figures = [row.figure for row in rows]
    return {(row.figure, figures[:place].count(row.figure)): row for place, row in enumerate(rows)}
