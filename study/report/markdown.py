"""The report's tables as Markdown, for a page beside the code."""

from __future__ import annotations

import re
from collections.abc import Sequence

from study.report.page import RULE, Comparison, Page, Section

MOST_COLUMNS = 6  # of a study's table that fits a page
ROWS = ("figure", "ours", "reference", "held against", "verdict")


def markdown(page: Page) -> str:
    """The claims first, then each stage's rows and narrow tables, with the command that made them."""
    parts = [
        f"# Results on {page.dataset}",
        f"Written by `python -m study.report --markdown FILE` on {page.written}. ± is the standard deviation over "
        "seeds or draws. A claim held, or did not hold, if a t-test tells both sides apart at a level of 5 % (a "
        "rival that was measured once is taken to spread as ours does); else, and with one seed of ours, it is "
        "undecided. Each claim stands for itself: of twenty that are left to chance, one is decided.",
    ]
    if page.claims:
        claims = [
            (row.claim.verdict, row.claim.text, row.ours, row.rival or "", section.stage)
            for section, row in page.claims
            if row.claim
        ]
        parts += ["## Claims", _table(("verdict", "claim", "ours", "held against", "stage"), claims)]
    if page.comparison is not None:
        parts += _comparison(page.comparison)
    for section in page.sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _comparison(comparison: Comparison) -> list[str]:
    lines = [
        (line.stage, line.figure, line.ours, line.other, line.difference, line.beyond, line.verdict)
        for line in comparison.lines
    ]
    columns = ("stage", "figure", "here", "there", "difference", "beyond the spread", "verdict")
    others = {"Only here": comparison.here_only, "Only there": comparison.there_only, "Note": comparison.notes}
    facts = [f"- {name}: {_plain('; '.join(found))}" for name, found in others.items() if found]
    parts = [f"## Beside {_plain(comparison.other)}", f"{comparison.summary}. {RULE}", _table(columns, lines)]
    return [*parts, "\n".join(facts)] if facts else parts


def _section(section: Section) -> list[str]:
    made = dict(section.made)
    facts = [
        f"- {name}: {_plain(made[name])}" for name in ("Trials", "Trained for", "Commit of the trials") if name in made
    ]
    parts = [f"## {section.stage}", _plain(section.question), f"    {made.get('Command', '')}", "\n".join(facts)]
    if section.rows:
        figures = [
            (row.figure, row.ours, row.reference or "", row.baseline or "", row.claim.verdict if row.claim else "")
            for row in section.rows
        ]
        parts.append(_table(ROWS, figures))
    for name, (columns, *rows) in section.tables.items():
        if len(columns) <= MOST_COLUMNS:
            parts += [f"### {name}", _table(columns, rows)]
    return parts


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """The text without a meaning in Markdown or HTML, on one line."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(text.split()))
