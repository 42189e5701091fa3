"""Two studies side by side: the rows that both have, and the measures of trials with the same parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from study.checks import UsageError
from study.measures.stats import compare as test
from study.report.page import Page, Section, SideBySide
from study.results import Row, mean_std

REPEATED = ("repeat", "draw")  # parameters that number the repeats of a trial
ROWS = ("stage", "figure", "here", "there", "verdict")
MEASURES = ("stage", "trials", "measure", "here", "there", "difference", "apart")


def compare(page: Page, there: Page, name: str) -> SideBySide:
    """Return a page's studies beside those of another page, which the reader calls by this name.

    Raises:
        UsageError: They are the same studies, or of other stages.
    """
    others = {section.stage: section for section in there.sections}
    pairs = [(section, others[section.stage]) for section in page.sections if section.stage in others]
    same = [here.stage for here, other in pairs if here.parent.run_id == other.parent.run_id]
    pairs = [(here, other) for here, other in pairs if here.stage not in same]
    if not pairs:
        raise UsageError(f"--compare must be another study of the same stages, but got {name}")
    notes = [f"{stage}: the same study on both sides" for stage in same]
    rows: list[Sequence[str]] = []
    measures: list[Sequence[str]] = []
    for here, other in pairs:
        ours, theirs = _numbered(here.rows or ()), _numbered(other.rows or ())
        rows += [(here.stage, key[0], *_cells(ours[key], theirs[key])) for key in ours if key in theirs]
        measures += _measures(here, other)
        alone = sorted(f"{here.stage}, {figure}: only on one side" for figure, _ in ours.keys() ^ theirs.keys())
        notes += [*alone, *(f"{here.stage}, there: {note}" for note in other.notes)]
        if here.parent.tags.get("data_digest") != other.parent.tags.get("data_digest"):
            notes.append(f"{here.stage}: other images under the same name")
    apart = sum(line[-1] == "yes" for line in measures)
    summary = (
        f"{len(rows)} rows in both; {len(measures)} measures of trials with the same parameters, {apart} of them apart "
        "by a t-test at 5 % (one in twenty is by chance)"
    )
    commands = [(here.stage, here.made["Command"], other.made["Command"]) for here, other in pairs]
    return SideBySide(name, summary, [ROWS, *rows], [MEASURES, *measures], commands, notes)


def _numbered(rows: Sequence[Row]) -> dict[tuple[str, int], Row]:
    """Return the rows by figure, and by how many rows before had the same one."""
    figures = [row.figure for row in rows]
    return {(row.figure, figures[:place].count(row.figure)): row for place, row in enumerate(rows)}


def _cells(ours: Row, theirs: Row) -> tuple[str, str, str]:
    """Return both figures and the verdicts."""
    here, there = (row.claim.verdict if row.claim else "-" for row in (ours, theirs))
    return ours.ours, theirs.ours, here if here == there else f"{here}, there {there}"


def _measures(ours: Section, theirs: Section) -> list[Sequence[str]]:
    """Return a line for each of our rows' metrics of the trials that both have, with their difference."""
    metrics = {row.metric for row in ours.rows or () if row.metric} | {ours.made["Chosen by"]}
    here, there = _values(ours, metrics), _values(theirs, metrics)
    lines: list[Sequence[str]] = []
    for key in sorted(here.keys() & there.keys()):
        found = test(here[key], there[key])
        apart = "too few repeats" if isnan(found.p) else "no" if found.verdict == "inconclusive" else "yes"
        cells = [mean_std(values, "{:.4g}") for values in (here[key], there[key])]
        lines.append((ours.stage, *key, *cells, f"{found.difference:+.2g}", apart))
    return lines


def _values(section: Section, metrics: set[str]) -> Mapping[tuple[str, str], list[float]]:
    """Return the values of finished trials by their parameters, without the repeat, and by metric."""
    found: dict[tuple[str, str], list[float]] = {}
    for trial in section.trials:
        params = ", ".join(f"{name} {trial.params[name]}" for name in sorted(trial.params) if name not in REPEATED)
        for name in metrics & trial.metrics.keys() if trial.status == "FINISHED" else ():
            found.setdefault((params, name), []).append(trial.metrics[name])
    return found
