"""All that the report's page shows; the page itself, and its tables as Markdown."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from study.measures.stats import Verdict
from study.results import Claim, Row, verdicts

if TYPE_CHECKING:
    from tracking.runs import Record

Cells = Sequence[Sequence[str]]
"""A table: the first row has the columns' names."""

TEMPLATE = Path(__file__).with_name("page.html")
MOST_HEADLINES = 4
MOST_COLUMNS = 6  # of a study's table that fits a page of Markdown
SIGNS: Mapping[Verdict, str] = {"supported": "✓", "refuted": "✗", "equivalent": "=", "inconclusive": "?"}
RULE = (
    "± is the standard deviation over seeds or draws. A claim is supported or refuted if a t-test finds a difference at"
    " a level of 5 %, corrected for the number of claims (primary claims by Holm's method, others by Benjamini and"
    " Hochberg's); equivalent if the 90 % interval lies within the margin; else inconclusive. With fewer than three"
    " repeats of either side there is no claim."
)


@dataclass(frozen=True)
class Picture:
    """A figure of a run, compressed."""

    name: str
    title: str
    caption: str
    png: bytes
    size: tuple[int, int]  # pixels
    made: str  # when

    @property
    def uri(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Section:
    """What the page says of a stage: its newest study."""

    stage: str
    question: str
    about: Sequence[str]  # paragraphs
    parent: Record
    champion: str  # the registered version, "" before there is one
    rows: Sequence[Row] | None  # None: the study has not come to its end
    headline: Picture | None  # that of its pictures which stands for it
    pictures: Sequence[Picture]
    tables: Mapping[str, Cells]
    best: str  # the name of the study's best trial
    best_pictures: Sequence[Picture]
    trials: Sequence[Record]
    table: Cells  # of the trials
    same: str  # the parameters that all trials share
    made: Mapping[str, str]  # how its numbers were made
    others: int  # further studies of this stage in the store
    notes: Sequence[str]  # what is left out, and why
    trials_at: str  # the address of MLflow's page on them


@dataclass(frozen=True)
class SideBySide:
    """The rows of the page's studies beside those of others."""

    other: str  # what the reader calls those
    rows: Cells
    notes: Sequence[str]


@dataclass(frozen=True)
class Page:
    """The report on the studies of one data set. `missing` are the stages that the store has no study of."""

    dataset: str
    written: str
    sections: Sequence[Section]
    missing: Sequence[str]
    comparison: SideBySide | None = None

    @property
    def claims(self) -> list[tuple[Section, Row, Claim]]:
        """All claims, in the order of stages and rows."""
        return [(part, row, row.claim) for part in self.sections for row in part.rows or () if row.claim]

    @property
    def verdicts(self) -> str:
        """How many claims have each verdict: "2 supported, 1 inconclusive"."""
        return verdicts(row for _, row, _ in self.claims)

    @property
    def headlines(self) -> list[tuple[Section, Picture]]:
        """The pictures of the first sections that have a headline, with their sections."""
        found = [(section, section.headline) for section in self.sections if section.headline is not None]
        return found[:MOST_HEADLINES]

    @property
    def pictures(self) -> Iterator[tuple[str, Picture]]:
        """All figures, each with a name of its own."""
        for section in self.sections:
            yield from ((f"{section.stage}-{picture.name}", picture) for picture in section.pictures)
            yield from ((f"{section.stage}-best-{picture.name}", picture) for picture in section.best_pictures)


def html(page: Page) -> str:
    """Return the HTML page; whatever comes from the store is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader, strict = FileSystemLoader(TEMPLATE.parent), StrictUndefined
    environment = Environment(loader=loader, autoescape=True, undefined=strict, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(TEMPLATE.name).render(page=page, signs=SIGNS, rule=RULE)


def markdown(page: Page) -> str:
    """Return the claims, then each stage's rows and narrow tables with the command that made them, as Markdown."""
    head = f"Written by `python -m study.report --markdown FILE` on {page.written}. {RULE}"
    parts = [f"# Results on {_plain(page.dataset)}", head]
    if page.claims:
        columns = ("verdict", "claim", "ours", "rival", "difference, 95 % interval, repeats", "stage")
        claims = [
            (f"{claim.verdict}{'*' * claim.primary}", claim.text, row.ours, row.rival or "", claim.interval, part.stage)
            for part, row, claim in page.claims
        ]
        parts += ["## Claims", f"{page.verdicts}; primary ones have a star.", _table([columns, *claims])]
    if page.comparison is not None:
        parts += [f"## Beside {_plain(page.comparison.other)}", _table(page.comparison.rows)]
        parts += [f"- {_plain(note)}" for note in page.comparison.notes]
    for section in page.sections:
        facts = [f"- {name}: {_plain(section.made[name])}" for name in ("Trials", "Trained for", "Commit")]
        parts += [
            f"## {section.stage}",
            _plain(section.question),
            f"    {' '.join(section.made['Command'].split())}",
            "\n".join(facts),
        ]
        if section.rows:
            rows = [(row.figure, row.ours, row.reference or "", row.baseline or "") for row in section.rows]
            parts.append(_table([("figure", "ours", "reference", "baseline"), *rows]))
        narrow = {name: table for name, table in section.tables.items() if len(table[0]) <= MOST_COLUMNS}
        parts += [part for name, table in narrow.items() for part in (f"### {_plain(name)}", _table(table))]
    return "\n\n".join(parts) + "\n"


def _table(rows: Cells) -> str:
    lines = [[_plain(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], ["---"] * len(lines[0]), *lines[1:]))


def _plain(text: str) -> str:
    """Return the text without a meaning in Markdown or HTML, on one line."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))
