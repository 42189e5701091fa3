"""All that the report's page shows, and the page itself."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from study.measures.stats import Verdict

if TYPE_CHECKING:
    from study.results import Row
    from tracking.reading import Record

TEMPLATE = Path(__file__).with_name("page.html")
MOST_HEADLINES = 4
RULE = (
    "The difference is the figure here minus the one there. It is beyond the spread if the two ranges, mean ± standard"
    " deviation, do not meet; a figure of one seed or draw has no spread, and its difference may be chance."
)
SIGNS: Mapping[Verdict, str] = {
    "supported": "✓",
    "refuted": "✗",
    "equivalent": "=",
    "inconclusive": "?",
}


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
    """What the page says of a stage: its newest study."""

    stage: str
    question: str
    about: Sequence[str]  # paragraphs
    parent: Record
    champion: str  # the registered version, "" before there is one
    rows: Sequence[Row] | None  # of the final table; None: not recorded
    headline: Picture | None  # that of its pictures which stands for it; None: it names none, or there is none yet
    pictures: Sequence[Picture]
    tables: Mapping[str, Sequence[Sequence[str]]]  # the first row of each has the columns' names
    best: str  # the name of the study's best trial
    best_pictures: Sequence[Picture]
    trials: Trials
    made: Sequence[tuple[str, str]]  # how its numbers were made
    settings: str
    others: int  # further studies of this stage in the store
    notes: Sequence[str]  # what is left out, and why
    trials_at: str  # the address of MLflow's page on them


@dataclass(frozen=True)
class Difference:
    """Of a number from the same one in another study."""

    label: str  # which of its cell's numbers it is, "" if there is one only
    text: str
    beyond: bool | None  # whether it is beyond the spread; None: one of the two has no spread


@dataclass(frozen=True)
class Line:
    """A row that two studies have."""

    stage: str
    figure: str
    ours: str
    other: str
    differences: Sequence[Difference]  # none where the cells are not of the same form
    verdict: str

    @property
    def difference(self) -> str:
        return ", ".join(f"{each.label} {each.text}".strip() for each in self.differences) or "-"

    @property
    def beyond(self) -> str:
        """Whether the difference is beyond the spread: which of several are."""
        known = [each for each in self.differences if each.beyond is not None]
        if not known:
            return "no spread" if self.differences else "-"
        return ", ".join(each.label or "yes" for each in known if each.beyond) or "no"

    @property
    def is_marked(self) -> bool:
        return any(each.beyond for each in self.differences)


@dataclass(frozen=True)
class Comparison:
    """The page's studies beside others."""

    other: str  # what the reader calls those
    lines: Sequence[Line]
    commands: Sequence[tuple[str, str, str]]  # stage, the page's, the other's
    here_only: Sequence[str]  # rows
    there_only: Sequence[str]
    notes: Sequence[str]

    @property
    def summary(self) -> str:
        marked = sum(line.is_marked for line in self.lines)
        none = sum(line.beyond == "no spread" for line in self.lines)
        return f"{len(self.lines)} rows in both, {marked} of them apart beyond the spread, {none} without a spread"


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    dataset: str
    written: str
    sections: Sequence[Section]
    missing: Sequence[str]
    flags: str  # of a command on the same data set
    has_server: bool  # whether the store is a server's, whose pages are always there
    comparison: Comparison | None = None

    @property
    def claims(self) -> list[tuple[Section, Row]]:
        """The rows that have a claim, with their sections."""
        return [(section, row) for section in self.sections for row in section.rows or () if row.claim]

    @property
    def verdicts(self) -> list[tuple[str, int]]:
        """How many claims have each verdict, those that no claim has left out."""
        counted = Counter(row.claim.verdict for _, row in self.claims if row.claim)
        return [(name, counted[name]) for name in get_args(Verdict) if counted[name]]

    @property
    def headlines(self) -> list[tuple[Section, Picture]]:
        """The pictures of the first sections that have a headline, with their sections."""
        found = [(section, section.headline) for section in self.sections if section.headline is not None]
        return found[:MOST_HEADLINES]


def render(page: Page) -> str:
    """The HTML page; whatever comes from the store is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATE.parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(TEMPLATE.name).render(page=page, signs=SIGNS, rule=RULE)


def named_pictures(page: Page) -> Iterable[tuple[str, Picture]]:
    """The page's figures, each with a name of its own."""
    for section in page.sections:
        yield from ((f"{section.stage}-{picture.name}", picture) for picture in section.pictures)
        yield from ((f"{section.stage}-best-{picture.name}", picture) for picture in section.best_pictures)
