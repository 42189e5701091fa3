"""The transfer stage's rows of the final table."""

from __future__ import annotations

from collections.abc import Sequence

from study.harness.search import Result
from study.harness.stage import Context, Row
from study.harness.table import with_spread
from study.stages.transfer.figures import BASELINES, REFERENCE_ACCURACY, TITLES, of_mode
from study.stages.transfer.trial import FINE_TUNED, FROZEN, MODES, REFERENCE_TEST
from tracking.runs import Measured


def rows(context: Context, main: Sequence[Result], measured: Measured) -> tuple[Row, ...]:
    """Accuracy of each mode, and of the baselines on the same labels."""
    references = context.references(REFERENCE_ACCURACY)

    def reference(mode: str) -> str | None:
        return f"{references[mode]:.0%}" if mode in references else None

    found = [
        Row(
            f"test accuracy, {TITLES[mode]}",
            with_spread([measured[r.run_id]["test/accuracy"] for r in of_mode(main, mode)], "{:.1%}"),
            reference(mode),
        )
        for mode in MODES
        if of_mode(main, mode)
    ]
    frozen = of_mode(main, FROZEN)
    if frozen:
        for metric, title in BASELINES.items():
            values = [measured[r.run_id][metric] for r in frozen]
            found.append(Row(f"test accuracy, {title}", "-", None, with_spread(values, "{:.1%}")))
    for mode in (FROZEN, FINE_TUNED):
        first = of_mode(main, mode)[:1]
        found += [
            Row(
                f"{mode}, one draw, {min(REFERENCE_TEST, len(context.dataset.test))} test images",
                f"{measured[result.run_id]['test/accuracy_of_80']:.1%}",
                reference(mode),
            )
            for result in first
        ]
    return tuple(found)
