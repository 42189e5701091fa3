"""Two studies side by side: the rows that both have, how far apart they are, and whether that is beyond the spread."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from study.checks import UsageError
from study.report.collect import newest, outcome_of
from study.report.page import Comparison, Difference, Line, Page
from study.results import Row

if TYPE_CHECKING:
    from tracking.reading import Record

BRACKETS = re.compile(r"\s*\([^()]*\)")
BETWEEN = re.compile(r"[,;] ")
NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
ITEM = re.compile(rf"(?P<label>(?:\D*\s)?)(?P<value>{NUMBER})(?P<unit>%?)(?: ± (?P<spread>{NUMBER})%?)?(?:\s\D*)?")
"""`0.172 ± 0.009`, `94.9% ± 0.5%`, `loosely paired 0.12`: a part of a cell that has one number."""


def compare(page: Page, other: str, seed: int | None = None) -> Comparison:
    """Hold the page's studies against those of the open store: of each stage the newest, or the newest of a seed.

    Args:
        other: What the reader calls those.
        seed: None: any.

    Raises:
        UsageError: There are none, they are the page's own, or the two have no row in common.
    """
    there = newest(page.dataset, seed)
    pairs = [(section, there[section.stage]) for section in page.sections if section.stage in there]
    same = [section.stage for section, parent in pairs if section.parent.run_id == parent.run_id]
    if pairs and len(same) == len(pairs):
        raise UsageError(f"--compare must be another study, but the report itself is about that of {other}")
    lines: list[Line] = []
    here_only: list[str] = []
    there_only: list[str] = []
    notes = [f"{stage}: the same study on both sides" for stage in same]
    pairs = [(section, parent) for section, parent in pairs if section.stage not in same]
    for section, parent in pairs:
        ours, others = _by_figure(section.rows or ()), _by_figure(_rows(parent))
        lines += [_line(section.stage, row, others[key]) for key, row in ours.items() if key in others]
        here_only += [f"{section.stage}, {row.figure}" for key, row in ours.items() if key not in others]
        there_only += [f"{section.stage}, {row.figure}" for key, row in others.items() if key not in ours]
        if section.parent.tags.get("data_digest") != parent.tags.get("data_digest"):
            notes.append(f"{section.stage}: other images under the same name")
    if not lines:
        raise UsageError(f"--compare: the studies of {page.dataset} here and those of {other} have no row in common")
    commands = [(section.stage, _command(section.parent.tags), _command(parent.tags)) for section, parent in pairs]
    return Comparison(other, lines, commands, here_only, there_only, notes)


def _rows(parent: Record) -> Sequence[Row]:
    """The rows of the other study's stage; none where it has not come to its end.

    Raises:
        UsageError: They cannot be read.
    """
    try:
        return outcome_of(parent)[1] or ()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"--compare: the rows of run {parent.run_id} cannot be read, they are damaged: {error}"
        ) from error


def _command(tags: Mapping[str, str]) -> str:
    return tags.get("command", "not recorded")


def _by_figure(rows: Sequence[Row]) -> dict[tuple[str, int], Row]:
    """The rows by their figure without its brackets, which may name a version, and by how many had the same before:
    `... on noise` stands below several others.
    """
    seen: Counter[str] = Counter()
    found = {}
    for row in rows:
        name = BRACKETS.sub("", row.figure)
        found[name, seen[name]] = row
        seen[name] += 1
    return found


def _line(stage: str, ours: Row, other: Row) -> Line:
    mine, theirs = (row.claim.verdict if row.claim else "-" for row in (ours, other))
    verdict: str = mine
    if mine != theirs:
        verdict = f"{verdict}, there {theirs}"
    figure = ours.figure if ours.figure == other.figure else BRACKETS.sub("", ours.figure)
    here, there = _cell(ours), _cell(other)
    return Line(stage, figure, here, there, differences(here, there), verdict)


def _cell(row: Row) -> str:
    """What the row is about: a baseline, where it has nothing of ours."""
    return row.baseline if row.ours == "-" and row.baseline else row.ours


def differences(ours: str, other: str) -> list[Difference]:
    """How far the numbers of two cells of the same form are apart, ours less the other's.

    A difference is beyond the spread if the two ranges, mean ± standard deviation, do not meet.

    Returns:
        One difference a number; none if the cells differ in more than their numbers, or have none. What stands in
        brackets is left out.
    """
    parts = [BETWEEN.split(BRACKETS.sub("", cell)) for cell in (ours, other)]
    if len(parts[0]) != len(parts[1]):
        return []
    found = []
    for here, there in zip(*parts, strict=True):
        first, second = ITEM.fullmatch(here), ITEM.fullmatch(there)
        if first is None or second is None:
            if here != there:
                return []
            continue
        if (first["label"], first["unit"]) != (second["label"], second["unit"]):
            return []
        apart = _decimal(first["value"]) - _decimal(second["value"])
        beyond = None
        if first["spread"] and second["spread"]:
            beyond = abs(apart) > _decimal(first["spread"]) + _decimal(second["spread"])
        form = "{:+.1e}" if "e" in first["value"] + second["value"] else "{:+f}"
        text = form.format(apart) if apart else "0"
        found.append(Difference(first["label"].strip(), text + (" points" if first["unit"] else ""), beyond))
    return found


def _decimal(number: str) -> Decimal:
    """As it is printed: floats would move the last digit."""
    return Decimal(number.replace(",", ""))
