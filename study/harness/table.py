"""The table at the end of a study: figures on the test set, the reference's and the baseline's beside them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

from study.harness.stage import Outcome


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of repeats, the latter 0 for a single one."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def with_spread(values: Sequence[float], form: str) -> str:
    """Mean ± standard deviation in this format, "{:.1%}" say; of a single value only itself."""
    middle, width = map(form.format, spread(values))
    return f"{middle} ± {width}" if len(values) > 1 else middle


def table(outcomes: Sequence[Outcome]) -> str:
    """The rows of all stages as text, each stage beside the version that it registered."""
    lines = [("stage", "registered as", "figure", "ours", "reference", "baseline")]
    for outcome in outcomes:
        models = [f"{version.name} v{version.number}" for version in outcome.made.values()]
        for number, row in enumerate(outcome.rows):
            first = (outcome.stage, models[0] if models else "-") if number == 0 else ("", "")
            lines.append((*first, row.figure, row.ours, row.reference or "-", row.baseline or "-"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    printed = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    printed.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(printed)
