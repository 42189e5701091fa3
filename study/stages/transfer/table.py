"""The transfer stage's rows of the final table: accuracies, each with what it is held against, and the claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

from study.engine.search import Result
from study.engine.stage import Context, Row
from study.engine.table import verdict, with_spread
from study.stages.transfer.figures import BASELINES, LATENTS_SVM, PIXELS_SVM, TITLES, of_mode, references
from study.stages.transfer.trial import CONSISTENT, FINE_TUNED, FROZEN, PLAIN, REFERENCE_TEST, SCRATCH, SEMI, SPREADING
from tracking.runs import Measured

PUBLISHED = 0.991
"""Of MNIST with 100 labels: an error of 0.91 ± 0.58 %, Triple-GAN (Li et al. 2017, https://arxiv.org/abs/1703.02291)."""
ACCURACY = "test/accuracy"


class _Rows:
    """Makes rows of test accuracies, means over the draws; none of what was not measured."""

    def __init__(self, context: Context, main: Sequence[Result], measured: Measured) -> None:
        self.references = references(context, main)
        self.main, self.measured = main, measured

    def values(self, mode: str, metric: str = ACCURACY) -> list[float]:
        return [self.measured[result.run_id][metric] for result in of_mode(self.main, mode)]

    def accuracy(self, title: str, ours: Sequence[float]) -> list[Row]:
        return [Row(f"test accuracy, {title}", with_spread(ours, "{:.1%}"), metric=ACCURACY)] if ours else []

    def claim(
        self, title: str, ours: Sequence[float], claim: str, rival: tuple[str, Sequence[float] | float], mode: str = ""
    ) -> list[Row]:
        """A row that a rival's accuracy, or a published one, refutes, beside the reference's for this mode."""
        name, against = rival
        if not ours or not against:
            return self.accuracy(title, ours)
        reference = f"{self.references[mode]:.0%}" if mode in self.references else None
        return [
            Row(
                f"test accuracy, {title}",
                with_spread(ours, "{:.1%}"),
                reference,
                f"{name} {with_spread([against] if isinstance(against, float) else against, '{:.1%}')}",
                claim=claim,
                verdict=verdict(ours, against, better="more"),
                metric=ACCURACY,
            )
        ]


def rows(context: Context, main: Sequence[Result], measured: Measured) -> tuple[Row, ...]:
    """Accuracy of each mode and of the baselines on the same labels, the claims, and what the validation labels did."""
    made = _Rows(context, main, measured)
    values, accuracy, claim = made.values, made.accuracy, made.claim
    frozen, tuned, scratch, spread = map(values, (FROZEN, FINE_TUNED, SCRATCH, SEMI))
    spreading = f"{SPREADING} on the latents", values(SPREADING)
    svm = "SVM on the latents", values(FROZEN, LATENTS_SVM)
    beats_svm = "A head on the frozen encoder beats an SVM on the same latents with the same jitter"
    beats_spreading = f"Trained on unlabelled latents too, that head beats {SPREADING} on the same latents"
    beats_frozen = "Fine-tuning beats the frozen encoder" + (", as the reference says" if made.references else "")
    beats_scratch = "Fine-tuning beats training from scratch by the same recipe"
    unlabelled = "encoder frozen, its head trained on unlabelled latents too (*)"
    by_default = "fine-tuned, AdamW 1e-3, no jitter: chosen by no label (*)"
    validation = f"{len(context.dataset.val):,} validation labels"
    found = [
        *claim(TITLES[FROZEN], frozen, beats_svm, svm, FROZEN),
        *claim(unlabelled, values(FROZEN, CONSISTENT), beats_spreading, spreading),
        *claim(TITLES[FINE_TUNED], tuned, beats_scratch, ("from scratch", scratch), FINE_TUNED),
        *claim("fine-tuned against frozen (*)", tuned, beats_frozen, ("frozen", frozen), FINE_TUNED),
        *accuracy(TITLES[SCRATCH], scratch),
    ]
    if made.references:
        published = f"Self-training on spread labels beats the published {PUBLISHED:.1%} of 100 labels"
        found += claim(TITLES[SEMI], spread, published, ("Triple-GAN", PUBLISHED))
    else:
        found += accuracy(TITLES[SEMI], spread)
    for metric, title in BASELINES.items():
        if frozen:
            found.append(Row(f"test accuracy, {title}", "-", None, with_spread(values(FROZEN, metric), "{:.1%}")))
    if spreading[1]:
        found.append(Row(f"test accuracy, {spreading[0]} (*)", "-", None, with_spread(spreading[1], "{:.1%}")))
    found += [
        Row(f"note: what {validation} chose", "champion; once, on MNIST: recipes"),
        *accuracy(by_default, values(FINE_TUNED, PLAIN)),
    ]
    for mode in (FROZEN, FINE_TUNED):
        found += [
            Row(
                f"{mode}, one draw, {min(REFERENCE_TEST, len(context.dataset.test))} test images",
                f"{measured[result.run_id]['test/accuracy_of_80']:.1%}",
                f"{made.references[mode]:.0%}" if mode in made.references else None,
            )
            for result in of_mode(main, mode)[:1]
        ]
    raw = values(FROZEN, PIXELS_SVM)
    modes = {
        "self-training": spread,
        "the frozen encoder": frozen,
        "fine-tuning": tuned,
        "training from scratch": scratch,
    }
    best = max((mode for mode in modes if modes[mode]), key=lambda mode: mean(modes[mode]))
    sentence = (
        f"{main[0].params['labels_per_class']} labels a class are enough to read {mean(modes[best]):.1%} of the test "
        f"images right ({best}{f'; an SVM on jittered pixels {mean(raw):.1%}' if raw else ''})"
    )
    return (replace(found[0], found=sentence), *found[1:])
