"""The conditional stage's rows of the final table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from study.engine.search import Result
from study.engine.stage import Context, Row
from study.engine.table import verdict
from study.measures.judges import PARTS
from study.stages.gan.cells import Cells, caution, judge_name, weak_judges
from study.stages.gan.settings import BEST, REAL, TRAIN_RECONSTRUCTIONS
from study.stages.gan.trial import LAST_EPOCHS
from tracking.runs import Measured

KEY_MEASURES = tuple(f"{PARTS[-1]}/{measure}" for measure in ("label_accuracy", "fd", "diversity", "recall"))
DIVERSE = 0.95
"""The share of the reconstructions' diversity that counts as enough."""


def conditional_rows(
    context: Context, results: Sequence[Result], baselines: Mapping[str, Result], measured: Measured
) -> tuple[Row, ...]:
    """Whether the generator makes what it is asked for, and how well; the claims."""
    digit = "digit" if context.has_reference else "class"
    cells = Cells({BEST: results, **{name: [result] for name, result in baselines.items()}}, measured)

    def row(figure: str, measure: str, form: str, **claim: Any) -> Row:
        ours, beside = cells.cell(BEST, measure, form) or "-", cells.baselines([*baselines], measure, form)
        return Row(figure, ours, None, beside, metric=measure if measure in KEY_MEASURES else None, **claim)

    def goal(sentence: str, measure: str, value: float) -> dict[str, str]:
        """At least this value: a goal that was set for the reference's data."""
        if not context.has_reference:
            return {}
        decided = verdict(cells.values(BEST, measure), value, better="more")
        return {"claim": sentence, "verdict": decided, "rival": f"goal {value:.1%}"}

    rival = next((name for name in baselines if name.startswith("Gaussian mixture")), None)

    def against(sentence: str, measure: str, form: str, **rule: Any) -> dict[str, str]:
        return cells.against(sentence, measure, rival, form, **rule)

    accuracy, score = "sample/label_accuracy", "sample/classification_accuracy_score"
    last = PARTS[-1]
    spread = f"{last}/diversity"
    ceiling = cells.values(TRAIN_RECONSTRUCTIONS, spread)
    unconditional = context.inputs["latent-gan"].metrics
    rows = [
        *weak_judges(context),
        row(
            "label accuracy, judge 1",
            accuracy,
            "{:.1%}",
            **goal("The digit asked for is drawn 99.5 % of the time", accuracy, 0.995),
        ),
        row("label accuracy, judge 2", "second/label_accuracy", "{:.1%}"),
        row(
            "label accuracy, judge 3",
            f"{last}/label_accuracy",
            "{:.1%}",
            **against(
                f"More of its images than of {{rival}}'s show the {digit} that was asked for, by judge 3",
                f"{last}/label_accuracy",
                "{:.1%}",
                better="more",
            ),
            found=f"Asked for a {digit}, the conditional WGAN draws it in "
            f"{cells.cell(BEST, f'{last}/label_accuracy', '{:.1%}') or 'none'} of its images "
            f"(judge 3; {cells.baselines([REAL], f'{last}/label_accuracy', '{:.1%}')}){caution(context)}",
        ),
        row(
            f"label accuracy, worst {digit}, judge 1",
            f"{accuracy}_worst",
            "{:.1%}",
            **goal("Every digit is drawn 99 % of the time when it is asked for", f"{accuracy}_worst", 0.99),
        ),
    ]
    for number, part in enumerate(PARTS):
        judge, unsure = judge_name(number), f"{part}/low_confidence"
        nearer = f"With labels, the WGAN comes nearer to the test images than {{rival}}, by {judge}"
        surer = f"With labels, fewer of its images than of {{rival}}'s are of no class, by {judge}"
        rows += [
            row(f"FD, {judge}", f"{part}/fd", "{:.3f}", **against(nearer, f"{part}/fd", "{:.3f}")),
            row(f"low confidence, {judge}", unsure, "{:.1%}", **against(surer, unsure, "{:.1%}")),
        ]
    rows += [
        row("FD within a class, judge 3", f"{last}/intra_fd", "{:.3f}"),
        row(
            "diversity within a class, judge 3",
            spread,
            "{:.3f}",
            claim=f"Its diversity is at least {DIVERSE} of that of reconstructions",
            verdict=verdict(cells.values(BEST, spread), ceiling, better="more", factor=DIVERSE),
            rival=f"reconstructions {cells.cell(TRAIN_RECONSTRUCTIONS, spread, '{:.3f}')}",
        ),
        row("recall, judge 3", f"{last}/recall", "{:.3f}"),
        row(
            "classification accuracy score",
            score,
            "{:.1%}",
            **goal("A classifier of its images reads 98.7 % of the real ones", score, 0.987),
        ),
        row("latents: two-sample accuracy (50% is perfect)", "latent/two_sample_accuracy", "{:.1%}"),
        row("latents: distance to the nearest training latent", "latent/nearest", "{:.2f}"),
    ]
    ranges = {"": "val/fd_last_epochs_range", ", weights not averaged": "val/fd_not_averaged_last_epochs_range"}
    for name, measure in ranges.items():
        if cells.values(BEST, measure):
            figure = f"range of val/fd over the last {LAST_EPOCHS} epochs{name}"
            stable = "stable" if context.has_reference else None
            claim = f"Training is stable near the end: the FD moves by less than 10 %{name}"
            decided = verdict(cells.values(BEST, measure), 0.1)
            rows.append(Row(figure, cells.cell(BEST, measure, "{:.1%}") or "-", stable, "goal 10%", claim, decided))
    if f"{last}/fd" in unconditional:
        steps = cells.values(BEST, "generator/steps")
        without = unconditional[f"{last}/fd"]
        taken = [
            f" ({count:,.0f} generator steps)" for count in (*steps[:1], unconditional.get("generator/steps", 0.0))
        ]
        claim = "The conditional WGAN, as long as it was trained, makes better images than the one without labels"
        rows.append(
            Row(
                "FD, judge 3, with and without labels",
                (cells.cell(BEST, f"{last}/fd", "{:.3f}") or "-") + taken[0],
                "better" if context.has_reference else None,
                f"without labels {without:.3f}{taken[-1]}",
                claim,
                verdict(cells.values(BEST, f"{last}/fd"), [without]),
            )
        )
    return tuple(rows)
