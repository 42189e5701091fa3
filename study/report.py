"""`python -m study.report`: one self-contained HTML page about the studies in a store."""

from __future__ import annotations

import base64
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from study.cli import exit_code
from study.config import QUESTIONS, STAGES, StageName, UsageError

if TYPE_CHECKING:
    from tracking.reading import Record

TEMPLATE = Path(__file__).with_name("report.html")
METRICS = ("val/", "test/", "sample/", "latent/")  # those of the trials' tables, in this order


@dataclass(frozen=True)
class ReportConfig:
    """Write one HTML page about the studies in a store: the table, figures, trials, and how each number was made."""

    data: Literal["mnist", "fashion-mnist", "kmnist", "digits"] | None = None
    """Data set; None: the one that the store was last used for."""
    out: Path = Path("report.html")
    """The page to write."""
    pictures: Path | None = None
    """Folder to write the page's figures to as well, a PNG file each."""
    store: Path = Path("mlruns")
    """Folder of the results."""
    tracking_uri: str | None = None
    """MLflow server in place of the folder."""


@dataclass(frozen=True)
class Picture:
    """A figure of a run, compressed."""

    name: str
    title: str
    caption: str
    columns: Sequence[str]  # of the plotted values, if it plots any
    rows: Sequence[Sequence[str]]
    png: bytes
    size: tuple[int, int]  # pixels
    made: str

    @property
    def uri(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Cell:
    """An entry of a table that can be sorted: what it shows, and what it is sorted by."""

    text: str
    key: float | str


@dataclass(frozen=True)
class Trials:
    """The trials of a study, one a row. `same` are the parameters that all of them share."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    same: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """What the page tells of a stage: its newest study."""

    stage: StageName
    question: str
    about: Sequence[str]  # paragraphs
    parent: Record
    champion: str  # the registered version, "" before there is one
    rows: Sequence[dict[str, str | None]] | None  # of the final table; None: not recorded
    pictures: Sequence[Picture]
    tables: Mapping[str, Sequence[Sequence[str]]]  # the first row of each has the columns' names
    best: str  # the name of the study's best trial
    best_pictures: Sequence[Picture]
    trials: Trials
    made: Sequence[tuple[str, str]]  # how its numbers were made
    settings: str
    others: int  # further studies of this stage in the store


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    dataset: str
    written: str
    sections: Sequence[Section]
    missing: Sequence[StageName]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page that the command line asks for. Returns the exit code."""
    return exit_code(lambda: _run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: Sequence[str]) -> None:
    config = tyro.cli(ReportConfig, args=list(arguments), prog="python -m study.report")
    if not config.out.parent.is_dir():
        raise UsageError(f"the folder of --out must exist, but got {config.out}")
    from tracking.store import open_existing_store

    open_existing_store(config.store, config.tracking_uri)
    page = collect(config.data)
    config.out.write_text(render(page), encoding="utf-8")
    print(f"{config.out}: {page.dataset}, {', '.join(section.stage for section in page.sections)}")
    if config.pictures is not None:
        config.pictures.mkdir(parents=True, exist_ok=True)
        for name, picture in named_pictures(page):
            (config.pictures / f"{name}.png").write_bytes(picture.png)
        print(f"{config.pictures}: its figures")


def collect(dataset: str | None) -> Page:
    """Read the open store: of each stage the newest finished study, else the newest.

    Raises:
        UsageError: The store holds no study of the data set.
    """
    from tracking import reading

    known = {name.partition("/")[0] for name in reading.experiments()}
    studies = {
        (name, stage): found
        for name in sorted(known if dataset is None else known & {dataset})
        for stage in STAGES
        if (found := reading.parents(f"{name}/{stage}"))
    }
    if not studies:
        has = ", ".join(sorted(known)) or "none"
        raise UsageError(f"no study of {dataset or 'any data set'} is in this store (it has: {has})")
    last, _ = max(studies, key=lambda key: max(map(_age, studies[key])))
    sections = [_section(stage, found) for (name, stage), found in studies.items() if name == last]
    missing = [stage for stage in STAGES if stage not in {section.stage for section in sections}]
    return Page(last, _minute(datetime.now(UTC)), sections, missing)


def render(page: Page) -> str:
    """The HTML page; whatever comes from the store is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATE.parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(TEMPLATE.name).render(page=page)


def keep(dataset: str, stage: StageName) -> str:
    """Log the page on the stage's parent run, the newest. Returns where it lies."""
    page = collect(dataset)
    parent = next(section.parent for section in page.sections if section.stage == stage)
    return parent.log_text("report.html", render(page))


def named_pictures(page: Page) -> Iterable[tuple[str, Picture]]:
    """The page's figures, each with a name of its own."""
    for section in page.sections:
        yield from ((f"{section.stage}-{picture.name}", picture) for picture in section.pictures)
        yield from ((f"{section.stage}-best-{picture.name}", picture) for picture in section.best_pictures)


def _age(record: Record) -> tuple[bool, datetime]:
    return record.status == "FINISHED", record.ended or record.started


def _section(stage: StageName, studies: Sequence[Record]) -> Section:
    from tracking import reading

    parent = max(studies, key=_age)
    trials = reading.trials(parent)
    outcome = parent.read_json("outcome") or {}
    best = reading.run(parent.tags["best.run_id"]) if "best.run_id" in parent.tags else None
    return Section(
        stage=stage,
        question=QUESTIONS[stage],
        about=[text for text in parent.description.split("\n\n") if text != QUESTIONS[stage]],
        parent=parent,
        champion=_version(outcome.get("champion") or parent.tags.get("best.version", "")),
        rows=outcome.get("rows"),
        pictures=_pictures(parent),
        tables=parent.tables(),
        best=best.name if best else "",
        best_pictures=_pictures(best) if best else [],
        trials=_trials(trials, parent.tags.get("best.metric", "")),
        made=_made(parent, trials),
        settings=json.dumps(json.loads(parent.tags.get("settings", "{}")), indent=1),
        others=len(studies) - 1,
    )


def _pictures(record: Record) -> list[Picture]:
    """The figures of a run, in the order in which they were made."""
    found = [_picture(name, content) for name, content in record.figures().items()]
    return sorted(found, key=lambda picture: (picture.made, picture.name))


def _picture(name: str, png: bytes) -> Picture:
    """Compress a figure, which says itself what it shows (see `tracking.figures.facts`)."""
    from PIL import Image

    image = Image.open(BytesIO(png))
    facts: dict[str, str] = dict(getattr(image, "text", {}))
    small = BytesIO()
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
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
    reason = record.tags.get("reason", "")
    text = f"{state}: {reason}" if state in ("fail", "stopped") and reason else state
    return Cell(text, text)


def _cell(value: str | float) -> Cell:
    try:
        return Cell(f"{float(value):.4g}", float(value))
    except ValueError:
        return Cell(str(value) or "-", str(value))


def _seconds(record: Record) -> float:
    return (record.ended - record.started).total_seconds() if record.ended else 0.0


def _made(parent: Record, trials: Sequence[Record]) -> list[tuple[str, str]]:
    tags, unknown = parent.tags, "not recorded"
    states = Counter(_state(trial).text.partition(":")[0] for trial in trials)
    commits = sorted({trial.tags["git_commit"] for trial in trials if "git_commit" in trial.tags})
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
        ("Commit of the table and figures", tags.get("git_commit", unknown)),
        ("Versions", tags.get("versions", unknown)),
        ("Began, ended", f"{_minute(parent.started)}, {_minute(parent.ended) if parent.ended else 'not yet'}"),
        ("MLflow run", parent.run_id),
    ]


def _version(uri: str) -> str:
    """A registered version as people write it: `mnist-judge v1`."""
    return uri.removeprefix("models:/").replace("/", " v")


def _minute(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")


if __name__ == "__main__":
    sys.exit(main())
