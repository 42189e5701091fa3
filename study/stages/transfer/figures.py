"""Figures of the transfer stage, and its rows in the final table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

import numpy as np

from study import plots
from study.config import LABELS_PER_CLASS
from study.engine.stage import Context
from study.engine.study import Study
from study.results import Row, Table, claim, mean_std
from study.stages.transfer.trial import (
    FINE_TUNED,
    FROZEN,
    MODES,
    REFERENCE_ACCURACY,
    REFERENCE_TEST,
    SCRATCH,
    SEMI,
    SPREADING,
)
from tracking.runs import metric_history

ACCURACY = "test/accuracy"
REFERENCES = {FROZEN: 0.40, FINE_TUNED: 0.80}
PUBLISHED = 0.991
"""Of MNIST with 100 labels: an error of 0.91 ± 0.58 %, Triple-GAN (Li et al. 2017, https://arxiv.org/abs/1703.02291)."""
LATENTS_SVM, PIXELS_SVM = "baseline/latents_jittered_svm", "baseline/raw_pixels_jittered_svm"
BASELINES = {
    PIXELS_SVM: "raw pixels, jittered copies, RBF SVM",
    "baseline/pca_svm": "PCA, RBF SVM (*)",
    LATENTS_SVM: "latents, jittered copies, RBF SVM (*)",
}
TITLES = {
    FROZEN: "encoder frozen (*)",
    FINE_TUNED: "encoder fine-tuned (*)",
    SCRATCH: "from scratch",
    SEMI: "spread labels, self-training (*)",
    SPREADING: "label spreading on the latents (*)",
}
"""(*): the unlabelled training images are used too."""


def log_figures(study: Study, labels: int) -> None:
    """Log loss and accuracy of frozen and fine-tuned encoders by epoch, and accuracy against the number of labels."""
    table = study.table()
    classes = len(study.context.dataset.classes)
    panels: dict[str, dict[str, tuple[Sequence[float], ...]]] = {"cross entropy": {}, "accuracy": {}}
    for panel, quantity in zip(panels.values(), ("loss", "accuracy"), strict=True):
        for mode in (FROZEN, FINE_TUNED):
            runs = [trial.run_id for trial in table.where(mode=mode, labels_per_class=labels)]
            for part, name in (("train", "training"), ("val", "validation")):
                histories = [metric_history(run_id, f"{part}/{quantity}") for run_id in runs]
                if histories:
                    means = np.mean([values for _, values in histories], axis=0).tolist()
                    panel[f"{mode}, {name}"] = (histories[0][0], means)
    dashed = {f"reference, {mode}": value for mode, value in references(study.context, labels).items()}
    title = f"Transfer with {classes * labels} labels: encoder frozen against fine-tuned, means over the draws"
    study.parent.log_figure(
        "curves",
        plots.side_by_side(panels, "epoch", title, references={"accuracy": dashed}),
        "Training is measured on jittered images, which are harder: that is why validation can be better. "
        "The reference's figures are of 80 test images.",
    )
    series = table.series("labels_per_class", ACCURACY, by=lambda trial: TITLES[trial.params["mode"]], part="")
    for metric in BASELINES:
        series |= {BASELINES[name]: curve for name, curve in table.series("labels_per_class", metric).items()}
    if len({trial.params["labels_per_class"] for trial in table}) > 1:
        title = "Accuracy against the number of labels\n(*): uses the unlabelled training images too"
        study.parent.log_figure(
            "accuracy_against_labels",
            plots.curves(series, "labelled images of a class", "test accuracy", title, log_x=True, markers=True),
            "Means over draws of the labels; bars: standard deviation.",
        )


def references(context: Context, labels: int) -> Mapping[str, float]:
    """Return the reference's accuracies by mode, which hold for 100 labels of MNIST; none for others."""
    return context.references(REFERENCES) if labels == LABELS_PER_CLASS else {}


def rows(context: Context, main: Table) -> list[Row]:
    """Return accuracies of all modes and baselines on the main number of labels, and the claims."""
    labels = next(iter(main)).params["labels_per_class"]
    reference = {mode: f"{value:.0%}" for mode, value in references(context, labels).items()}
    accuracies = {mode: main.values(ACCURACY, mode=mode) for mode in TITLES}
    svm, pixels = (main.values(metric) for metric in (LATENTS_SVM, PIXELS_SVM))

    def row(mode: str, text: str = "", name: str = "", rival: Sequence[float] | float = ()) -> Row:
        """Return a mode's accuracy, with the claim that it beats a rival with the same draws, or a published one."""
        ours = accuracies[mode]
        said, baseline = None, None
        if rival:
            fixed = isinstance(rival, float)
            baseline = f"{name} {mean_std([rival] if isinstance(rival, float) else rival, '{:.1%}')}"
            said = claim(text, ours, rival, better="more", paired=not fixed, shown=baseline)
        figure, shown = f"test accuracy, {TITLES[mode]}", mean_std(ours, "{:.1%}")
        return Row(figure, shown, reference.get(mode), baseline, said, metric=ACCURACY)

    wanted: list[tuple[Any, ...]] = [
        (FROZEN, "A head on the frozen encoder beats an SVM on the same latents with the same jitter", "SVM", svm),
        (FINE_TUNED, "Fine-tuning beats the frozen encoder", "frozen", accuracies[FROZEN]),
        (FINE_TUNED, "Fine-tuning beats training from scratch by the same recipe", "from scratch", accuracies[SCRATCH]),
        (SCRATCH,),
        (SEMI, "Self-training beats label spreading on the latents", "label spreading", accuracies[SPREADING]),
        (SPREADING,),
    ]
    if reference:
        wanted.append((SEMI, f"Self-training beats the published {PUBLISHED:.1%}", "Triple-GAN", PUBLISHED))
    found = [row(*each) for each in wanted if accuracies[each[0]]]
    found += [
        Row(f"test accuracy, {title}", "-", None, main.cell(metric, "{:.1%}"))
        for metric, title in BASELINES.items()
        if main.values(metric)
    ]
    found += [
        Row(
            f"{mode}, one draw, {min(REFERENCE_TEST, len(context.dataset.test))} test images",
            f"{main.values(REFERENCE_ACCURACY, mode=mode)[0]:.1%}",
            reference.get(mode),
        )
        for mode in (FROZEN, FINE_TUNED)
        if accuracies[mode]
    ]
    validation = f"{len(context.dataset.val):,} validation labels"
    found.append(Row(f"note: what {validation} chose", "the champion; once, on MNIST: the recipes"))
    best = max((mode for mode in MODES if accuracies[mode]), key=lambda mode: mean(accuracies[mode]))
    beside = f"; an SVM on jittered pixels {mean(pixels):.1%}" if pixels else ""
    said = f"{labels} labels a class: {mean(accuracies[best]):.1%} of the test images right ({TITLES[best]}{beside})"
    return [replace(found[0], found=said), *found[1:]]
