"""Trials as one table, and what a stage says of them: rows, claims, and the table that `study.run` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from math import isfinite, nan
from statistics import mean, stdev
from textwrap import wrap
from typing import TYPE_CHECKING, Any, get_args

from study.measures.stats import LEVEL, Better, MeanDifference, Verdict, benjamini_hochberg, compare, holm

if TYPE_CHECKING:
    from study.engine.stage import Outcome

MOST_FOUND = 7
FEWEST = 3  # repeats of either side of a claim
ACCURACY_MARGIN, FD_MARGIN, MSE_MARGIN = 0.01, 0.1, 0.05  # differences that count as none: a point, fractions
WIDTHS = {"figure": 44, "ours": 26, "reference": 20, "baseline": 44, "verdict": 13}
"""Columns of the printed table, and the most characters of a line in each."""


@dataclass(frozen=True)
class Result:
    """A trial that ran to its end.

    Attributes:
        part: The list or the search of its study that it belongs to.
        key: Its name in that part.
        values: One of each objective; of a pruned trial, the last that it reported.
        metrics: The last value of each, in a study's table.
    """

    number: int
    part: str
    key: str
    params: Mapping[str, Any]
    values: tuple[float, ...]
    run_id: str
    metrics: Mapping[str, float] = field(default_factory=dict)


class Table(tuple[Result, ...]):
    """Trials with their parameters and metrics. `part` counts as a parameter; a condition is a value or a function."""

    @property
    def run_ids(self) -> list[str]:
        return [trial.run_id for trial in self]

    def where(self, **conditions: Any) -> Table:
        """Return the trials for which all conditions hold; a trial without such a parameter is left out."""

        def holds(trial: Result, name: str, wanted: Any) -> bool:
            params = {**trial.params, "part": trial.part}
            if name not in params:
                return False
            return bool(wanted(params[name])) if callable(wanted) else params[name] == wanted

        return Table([trial for trial in self if all(holds(trial, *each) for each in conditions.items())])

    def values(self, metric: str, **conditions: Any) -> list[float]:
        """Return the metric of each of these trials that has it."""
        return [trial.metrics[metric] for trial in self.where(**conditions) if metric in trial.metrics]

    def cell(self, metric: str, form: str = "{:.3f}", **conditions: Any) -> str | None:
        """Return "mean ± standard deviation" of the metric over these trials; None if none has it."""
        values = self.values(metric, **conditions)
        return mean_std(values, form) if values else None

    def series(
        self, x: str, metric: str, by: str | Callable[[Result], str] | None = None, **conditions: Any
    ) -> dict[str, tuple[list[Any], list[float], list[float]]]:
        """Return for each label the values of parameter x in order, and the metric's means and standard deviations.

        Args:
            by: The parameter that labels a curve, or a function of a trial; None: one curve, labelled by the metric.
        """
        groups: dict[str, dict[Any, list[float]]] = {}
        for trial in self.where(**conditions):
            if x in trial.params and metric in trial.metrics:
                label = metric if by is None else str(trial.params[by] if isinstance(by, str) else by(trial))
                groups.setdefault(label, {}).setdefault(trial.params[x], []).append(trial.metrics[metric])
        return {
            label: (sorted(found), [mean(found[at]) for at in sorted(found)], [std(found[at]) for at in sorted(found)])
            for label, found in groups.items()
        }


@dataclass(frozen=True, kw_only=True)
class Claim(MeanDifference):
    """A sentence that could turn out false, and the test that decides it.

    Attributes:
        better: Whether less or more is better.
        margin: The difference that counts as none.
        shown: The rival's figure, as a cell.
        primary: Whether it is one of the few that the study was made for: those are corrected together by Holm's
            method, the others by Benjamini and Hochberg's.
        adjusted: The p-value after the correction for all claims that are shown with it (see `corrected`).
    """

    text: str
    better: Better
    margin: float | None = None
    shown: str = ""
    primary: bool = False
    adjusted: float | None = None

    def __post_init__(self) -> None:
        if not self.text or self.better not in get_args(Better):
            raise ValueError(f"a claim needs a text, and `better` must be 'less' or 'more', but got {self.better!r}")
        object.__setattr__(self, "counts", tuple(self.counts))  # a list, where it was read from JSON

    @property
    def verdict(self) -> Verdict:
        """The decision at a level of 5 %."""
        if self.difference and (self.p if self.adjusted is None else self.adjusted) < LEVEL:
            return "supported" if (self.difference < 0) == (self.better == "less") else "refuted"
        return "equivalent" if self.equivalent else "inconclusive"

    @property
    def interval(self) -> str:
        """The difference with its interval and repeats; if inconclusive, the one that would have been found."""
        ours, rivals = self.counts
        text = f"{self.difference:+.3g} ({self.low:.3g} to {self.high:.3g}; {ours} against {rivals or 'a goal'})"
        found = self.verdict != "inconclusive" or not isfinite(self.detectable)
        return text if found else f"{text}; {self.detectable:.2g} would be found four times of five"


def claim(
    text: str,
    ours: Sequence[float],
    rival: Sequence[float] | float,
    *,
    better: Better = "less",
    factor: float = 1.0,
    paired: bool = False,
    margin: float | None = None,
    shown: str = "",
    primary: bool = False,
) -> Claim | None:
    """Return the claim that mean(ours) beats factor * mean(rival); None with fewer than three repeats of either side.

    Args:
        rival: Its repeats, or a number: a fixed goal.
        paired: Whether both sides share seeds or draws, in this order.
        margin: A difference that counts as none.
        shown: The rival's figure, as a cell.
        primary: See `Claim`.
    """
    found = compare(ours, rival, factor=factor, paired=paired, margin=margin)
    if min(found.counts[0], found.counts[1] or FEWEST) < FEWEST or not isfinite(found.p):
        return None
    return Claim(**vars(found), text=text, better=better, margin=margin, shown=shown, primary=primary)


@dataclass(frozen=True)
class Row:
    """One line of the final table. None: there is none.

    Attributes:
        metric: The trials' metric that the row sums up, if it is one of the figures to look at first: a column of the
            trials in MLflow; the row stands on the pages of the registered models.
        found: What was found, as a sentence for the end of `study.run`; one row of a stage has it.

    Raises:
        ValueError: A cell is no text.
    """

    figure: str
    ours: str
    reference: str | None = None
    baseline: str | None = None
    claim: Claim | None = None
    metric: str | None = None
    found: str | None = None

    def __post_init__(self) -> None:
        cells = [self.figure, self.ours, self.reference or "", self.baseline or ""]
        if not all(isinstance(cell, str) for cell in cells):
            raise ValueError(f"the cells of a row must be text, but row {self.figure!r} has {cells!r}")
        if isinstance(self.claim, dict):  # read from JSON
            object.__setattr__(self, "claim", Claim(**self.claim))

    @property
    def rival(self) -> str | None:
        """The figure beside ours: the claim's rival, else the baseline, else the reference."""
        return (self.claim and self.claim.shown) or self.baseline or self.reference


def compared(
    figure: str,
    ours: Sequence[float],
    beside: Mapping[str, Sequence[float]],
    form: str = "{:.3f}",
    *,
    text: str = "",
    goal: float | None = None,
    within: float | None = None,
    reference: str | None = None,
    metric: str | None = None,
    found: str | None = None,
    **rule: Any,
) -> Row:
    """Return the row of our repeats beside those of others, with the claim that ours beat the first of them, or a goal.

    Args:
        beside: By title; whoever has no values is left out.
        text: The claim; "": there is none.
        within: The margin, as a fraction of the rival's mean.
        rule: Further arguments of `claim`.
    """
    shown = [] if goal is None else [f"goal {form.format(goal)}"]
    shown += [f"{title} {mean_std(values, form)}" for title, values in beside.items() if values]
    rival = next(iter(beside.values()), ()) if goal is None else goal
    if within and not isinstance(rival, float) and rival:
        rule["margin"] = within * mean(rival)
    decided = claim(text, ours, rival, shown=shown[0], **rule) if text and shown else None
    cell = mean_std(ours, form) if ours else "failed"
    return Row(figure, cell, reference, ", ".join(shown) or None, decided, metric, found)


def wide_table(label: str, groups: Mapping[str, Table], metrics: Sequence[str]) -> dict[str, list[str]]:
    """Return a column for each of these metrics that there is, and a line for each group that is not empty."""
    groups = {title: trials for title, trials in groups.items() if len(trials)}
    forms = {metric: "{:.0f}" if metric.endswith("/steps") else "{:.4g}" for metric in metrics}
    cells = {metric: [trials.cell(metric, form) for trials in groups.values()] for metric, form in forms.items()}
    columns = {metric: [cell or "-" for cell in column] for metric, column in cells.items() if any(column)}
    return {label: [*groups], "repeats": [str(len(trials)) for trials in groups.values()], **columns}


def std(values: Sequence[float]) -> float:
    """Return the standard deviation; 0 of a single value, nan if one of several is not finite."""
    if not all(map(isfinite, values)):
        return nan
    return stdev(values) if len(values) > 1 else 0.0


def mean_std(values: Sequence[float], form: str = "{:.3f}") -> str:
    """Return "mean ± standard deviation" in this format; the mean alone of a single value."""
    middle = form.format(mean(values))
    return f"{middle} ± {form.format(std(values))}" if len(values) > 1 else middle


def corrected(tables: Sequence[Sequence[Row]]) -> list[tuple[Row, ...]]:
    """Return the rows of each stage with their claims corrected for how many all stages show (see `Claim`)."""
    claims = [row.claim for rows in tables for row in rows if row.claim]
    adjusted: dict[int, float] = {}
    for primary, correct in ((True, holm), (False, benjamini_hochberg)):
        group = [each for each in claims if each.primary == primary]
        adjusted |= zip(map(id, group), correct([each.p for each in group]), strict=True)

    def correct_row(row: Row) -> Row:
        return replace(row, claim=replace(row.claim, adjusted=adjusted[id(row.claim)])) if row.claim else row

    return [tuple(map(correct_row, rows)) for rows in tables]


def findings(outcomes: Sequence[Outcome]) -> list[str]:
    """Return one line a stage: the row that says what was found, else its first row; and the registered models."""
    lines = []
    for outcome in outcomes:
        said = next((row.found for row in outcome.rows if row.found), None)
        first = next(iter(outcome.rows), None)
        if said is None and first is not None:
            said = " against ".join(filter(None, (f"{first.figure}: {first.ours}", first.rival)))
        models = ", ".join(f"{version.name} v{version.number}" for version in outcome.made.values())
        if said:
            lines.append(f"{outcome.stage}: {said}{models and f' [{models}]'}")
    return lines[:MOST_FOUND]


def verdicts(rows: Iterable[Row]) -> str:
    """Return how many claims have each verdict: "2 supported, 1 inconclusive"; "" if there are no claims."""
    counted = Counter(row.claim.verdict for row in rows if row.claim)
    return ", ".join(f"{counted[each]} {each}" for each in get_args(Verdict) if counted[each])


def printed(outcomes: Sequence[Outcome]) -> str:
    """Return the rows of each stage as text, below the stage's name and the versions that it registered."""
    judged = any(row.claim for outcome in outcomes for row in outcome.rows)
    names = [name for name in WIDTHS if judged or name != "verdict"]
    options: Any = {"break_long_words": False, "break_on_hyphens": False}

    def lines_of(row: Row) -> list[tuple[str, ...]]:
        """Return the lines of a row, of which each is a cell's part for each column."""
        cells = {**vars(row), "figure": f"  {row.figure}", "verdict": row.claim and row.claim.verdict}
        indents = {"figure": "    "}
        columns = [
            wrap(cells[name] or "-", WIDTHS[name], subsequent_indent=indents.get(name, ""), **options) for name in names
        ]
        return list(zip_longest(*columns, fillvalue=""))

    blocks = [(outcome, [line for row in outcome.rows for line in lines_of(row)]) for outcome in outcomes]
    columns = zip(names, *(line for _, lines in blocks for line in lines), strict=True)
    widths = [max(map(len, column)) for column in columns]

    def joined(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    text = [joined(names), joined(["-" * width for width in widths])]
    for outcome, lines in blocks:
        models = ", ".join(f"{version.name} v{version.number}" for version in outcome.made.values())
        text += [f"{outcome.stage}{models and ': '}{models}", *map(joined, lines)]
    return "\n".join(text)
