"""The table at the end of a study: figures on the test set, what they are held against, and what became of claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from math import isclose, isfinite, nan, sqrt
from statistics import mean, stdev, variance
from textwrap import wrap
from typing import Literal, get_args

from study.engine.stage import Outcome, Row, Verdict

MOST_FOUND = 5  # lines of what was found
WIDTHS = {"figure": 52, "ours": 22, "verdict": 13, "reference": 14, "baseline": 44}  # at most: longer cells are wrapped
LEVEL = 0.05  # how often chance alone may decide a claim


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of repeats, the latter 0 for a single one; both NaN if one of several is."""
    if len(values) > 1 and not all(map(isfinite, values)):
        return nan, nan
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def with_spread(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation in this format, "{:.1%}" say; of a single value only itself."""
    middle, width = map(form.format, spread(values))
    return f"{middle} ± {width}" if len(values) > 1 else middle


def verdict(
    ours: Sequence[float],
    against: Sequence[float] | float,
    *,
    better: Literal["less", "more"] = "less",
    factor: float = 1.0,
) -> Verdict:
    """Whether the mean of ours is on the better side of `factor` times the mean of what it is held against.

    It held, or did not hold, if a two-sided t-test tells the two apart at a level of 5 %; else it is undecided. Of
    independent repeats on both sides that is Welch's test (Welch 1947, https://doi.org/10.1093/biomet/34.1-2.28).

    Args:
        ours: One value a repeat. One alone has no spread: undecided.
        against: One value a repeat; one alone is taken to spread as ours do (Student's test). A number: a fixed goal,
            which is exact. None at all: undecided.
        better: Which side is the better one.
        factor: "at most half of it" is a factor of 0.5, with `better="less"`.

    Returns:
        The verdict; undecided too if some value is not finite, or both means are equal.

    Raises:
        ValueError: `better` is neither of the two, or the factor is not a positive number.
    """
    if better not in ("less", "more"):
        raise ValueError(f"`better` must be 'less' or 'more', but got {better!r}")
    if not (isfinite(factor) and factor > 0):
        raise ValueError(f"`0 < factor < inf` must hold, but got {factor}")
    fixed = isinstance(against, int | float)
    others = [factor * value for value in ([against] if isinstance(against, int | float) else against)]
    if len(ours) < 2 or not others or not all(map(isfinite, (*ours, *others))):
        return "undecided"
    ahead = mean(others) - mean(ours) if better == "less" else mean(ours) - mean(others)
    close = isclose(mean(ours), mean(others), rel_tol=1e-9)
    if close or abs(ahead) <= _chance(ours, [] if fixed else others):
        return "undecided"
    return "held" if ahead > 0 else "did not hold"


def _chance(ours: Sequence[float], against: Sequence[float]) -> float:
    """How far apart chance alone puts the means of two or more values and of others, 95 times in 100."""
    from scipy.special import stdtrit  # Student's quantile: only where rows are made

    own, others, free = variance(ours) / len(ours), 0.0, float(len(ours) - 1)
    if len(against) == 1:
        others = variance(ours)
    elif against:
        others = variance(against) / len(against)
    total = own + others
    if len(against) > 1 and total:  # Welch and Satterthwaite's degrees of freedom
        free = total**2 / (own**2 / free + others**2 / (len(against) - 1))
    return float(stdtrit(free, 1 - LEVEL / 2)) * sqrt(total)


def findings(outcomes: Sequence[Outcome]) -> list[str]:
    """What was found, in at most five lines: one a stage, those first that say it in a sentence, then the last ones."""
    said = {outcome.stage: row.found for outcome in outcomes for row in reversed(outcome.rows) if row.found}
    lines = said | {
        outcome.stage: " against ".join(filter(None, (f"{row.figure}: {row.ours}", row.against)))
        for outcome in outcomes
        for row in outcome.rows[:1]
        if outcome.stage not in said
    }
    order = [outcome.stage for outcome in outcomes if outcome.stage in lines]
    kept = sorted(order, key=lambda stage: (stage in said, order.index(stage)))[-MOST_FOUND:]
    return [f"{stage}: {lines[stage]}" for stage in order if stage in kept]


def verdicts(outcomes: Sequence[Outcome]) -> str:
    """How many claims have each verdict: "2 held, 1 undecided"; "" if there are no claims."""
    counted = Counter(row.verdict for outcome in outcomes for row in outcome.rows)
    return ", ".join(f"{counted[each]} {each}" for each in get_args(Verdict) if counted[each])


def table(outcomes: Sequence[Outcome]) -> str:
    """The rows of each stage as text, below its name and the versions that it registered; verdicts if there are any."""
    judged = any(row.verdict for outcome in outcomes for row in outcome.rows)
    head = [name for name in WIDTHS if judged or name != "verdict"]
    wrapped = [
        [_wrapped(row, head) for row in outcome.rows] for outcome in outcomes
    ]  # of each stage, of each row, of each column: its lines
    widths = [
        max(len(line) for line in (name, *(line for rows in wrapped for row in rows for line in row[place])))
        for place, name in enumerate(head)
    ]

    def printed(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    lines = [printed(head), printed(["-" * width for width in widths])]
    for outcome, rows in zip(outcomes, wrapped, strict=True):
        models = ", ".join(f"{version.name} v{version.number}" for version in outcome.made.values())
        lines.append(f"{outcome.stage}{models and ': '}{models}")
        lines += [printed(cells) for row in rows for cells in zip_longest(*row, fillvalue="")]
    return "\n".join(lines)


def _wrapped(row: Row, head: Sequence[str]) -> list[list[str]]:
    """The lines of each cell of a row."""
    cells = {"figure": f"  {row.figure}"} | {name: getattr(row, name) or "-" for name in head if name != "figure"}
    return [
        wrap(
            *(cells[name], WIDTHS[name]),
            break_long_words=False,
            break_on_hyphens=False,
            subsequent_indent="    " if name == "figure" else "",
        )
        for name in head
    ]
