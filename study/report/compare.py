"""Two studies side by side: the rows that both have, and the measures of trials with the same parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isnan
from typing import TYPE_CHECKING

from study.checks import UsageError
from study.measures.stats import compare as test
from study.report.collect import age, rows_of, studies
from study.report.page import Page, Section, SideBySide
from study.results import Row, mean_std

if TYPE_CHECKING:
    from tracking.runs import Record

REPEATED = ("repeat", "draw")  # parameters that number the repeats of a trial
ROWS = ("stage", "figure", "here", "there", "verdict")
MEASURES = ("stage", "trials", "measure", "here", "there", "difference", "apart")


def compare(page: Page, other: str, seed: int | None = None) -> SideBySide:
    """Return the page's studies beside those of the open store: of each stage the newest, or the newest of a seed.

    Args:
        other: What the reader calls those.
        seed: None: any.

    Raises:
        UsageError: There are none, they are the page's own, or their rows cannot be read.
    """
    _, found = studies(page.dataset, seed)
    pairs = [(part, max(found[part.stage], key=age)) for part in page.sections if part.stage in found]
    same = [part.stage for part, parent in pairs if part.parent.run_id == parent.run_id]
    pairs = [(part, parent) for part, parent in pairs if part.stage not in same]
    if not pairs:
        raise UsageError(f"--compare must be another study of the same stages, but got {other}")
    notes = [f"{stage}: the same study on both sides" for stage in same]
    rows: list[Sequence[str]] = []
    measures: list[Sequence[str]] = []
    for section, parent in pairs:
        theirs = _numbered(_rows(parent))
        ours = _numbered(section.rows or ())
        rows += [(section.stage, key[0], *_cells(row, theirs[key])) for key, row in ours.items() if key in theirs]
        alone = [figure for figure, _ in ours.keys() ^ theirs.keys()]
        notes += [f"{section.stage}, {figure}: only on one side" for figure in sorted(alone)]
        if section.parent.tags.get("data_digest") != parent.tags.get("data_digest"):
            notes.append(f"{section.stage}: other images under the same name")
        measures += _measures(section, parent, {row.metric for row in ours.values() if row.metric})
    apart = sum(line[-1] == "yes" for line in measures)
    summary = (
        f"{len(rows)} rows in both; {len(measures)} measures of trials with the same parameters, {apart} of them apart "
        "by a t-test at 5 % (one in twenty is by chance)"
    )
    commands = [
        (part.stage, *(each.tags.get("command", "") for each in (part.parent, parent))) for part, parent in pairs
    ]
    return SideBySide(other, summary, [ROWS, *rows], [MEASURES, *measures], commands, notes)


def _rows(parent: Record) -> Sequence[Row]:
    try:
        return rows_of(parent) or ()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"--compare: the rows of run {parent.run_id} are damaged: {error}") from error


def _numbered(rows: Sequence[Row]) -> dict[tuple[str, int], Row]:
    """Return the rows by figure, and by how many rows before had the same one."""
    figures = [row.figure for row in rows]
    return {(row.figure, figures[:place].count(row.figure)): row for place, row in enumerate(rows)}


def _cells(ours: Row, theirs: Row) -> tuple[str, str, str]:
    """Return both figures and the verdicts."""
    here, there = (row.claim.verdict if row.claim else "-" for row in (ours, theirs))
    return ours.ours, theirs.ours, here if here == there else f"{here}, there {there}"


def _measures(section: Section, other: Record, metrics: Collection[str]) -> list[Sequence[str]]:
    """Return a line for each metric of the trials that both have, with their difference."""
    wanted = {*metrics, section.parent.tags.get("best.metric", "")}
    here, there = _values(section.parent, wanted), _values(other, wanted)
    lines: list[Sequence[str]] = []
    for key in sorted(here.keys() & there.keys()):
        found = test(here[key], there[key])
        apart = "too few repeats" if isnan(found.p) else "no" if found.verdict == "inconclusive" else "yes"
        cells = [mean_std(values, "{:.4g}") for values in (here[key], there[key])]
        lines.append((section.stage, *key, *cells, f"{found.difference:+.2g}", apart))
    return lines


def _values(parent: Record, metrics: Collection[str]) -> Mapping[tuple[str, str], list[float]]:
    """Return the values of finished trials by their parameters, without the repeat, and by metric."""
    from tracking import runs as reading

    found: dict[tuple[str, str], list[float]] = {}
    for trial in reading.trials(parent):
        params = ", ".join(f"{name} {trial.params[name]}" for name in sorted(trial.params) if name not in REPEATED)
        for name in metrics & trial.metrics.keys() if trial.status == "FINISHED" else ():
            found.setdefault((params, name), []).append(trial.metrics[name])
    return found
