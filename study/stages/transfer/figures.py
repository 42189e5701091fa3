"""Figures of the transfer stage, on its parent run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from study import plots
from study.config import LABELS_PER_CLASS
from study.engine.search import Result
from study.engine.stage import Context
from study.engine.study import Study
from study.engine.table import spread
from study.stages.transfer.trial import FINE_TUNED, FROZEN, MODES, SCRATCH, SEMI
from tracking.runs import Measured, metric_history

REFERENCE_ACCURACY = {FROZEN: 0.40, FINE_TUNED: 0.80}
LATENTS_SVM, PIXELS_SVM = "baseline/latents_jittered_svm", "baseline/raw_pixels_jittered_svm"
BASELINES = {
    "baseline/raw_pixels_svm": "raw pixels, RBF SVM",
    PIXELS_SVM: "raw pixels, jittered copies, RBF SVM",
    "baseline/pca_svm": "PCA, RBF SVM (*)",
    "baseline/latents_1nn": "latents, nearest neighbour (*)",
    LATENTS_SVM: "latents, jittered copies, RBF SVM (*)",
}
TITLES = {
    FROZEN: "encoder frozen (*)",
    FINE_TUNED: "encoder fine-tuned (*)",
    SCRATCH: "from scratch",
    SEMI: "spread labels, self-training (*)",
}
"""(*): the unlabelled training images are used too."""

CURVES_CAPTION = (
    "Training is measured on jittered images, which are harder: that is why validation can be better. "
    "The reference's figures are of 80 test images."
)


def references(context: Context, main: Sequence[Result]) -> Mapping[str, float]:
    """The reference's accuracies by mode, which are of 100 labels of MNIST: none of other data or numbers."""
    of_as_many = main[0].params["labels_per_class"] == LABELS_PER_CLASS
    return context.references(REFERENCE_ACCURACY) if of_as_many else {}


def of_mode(results: Sequence[Result], mode: str) -> list[Result]:
    return sorted((r for r in results if r.params["mode"] == mode), key=lambda result: result.params["draw"])


def log_figures(study: Study, results: Sequence[Result], main: Sequence[Result], measured: Measured) -> None:
    classes = len(study.context.dataset.classes)
    labels = classes * main[0].params["labels_per_class"]
    panels: dict[str, dict[str, tuple[Sequence[float], ...]]] = {}
    for quantity, title in (("loss", "cross entropy"), ("accuracy", "accuracy")):
        for mode in (FROZEN, FINE_TUNED):
            for part, name in (("train", "training"), ("val", "validation")):
                histories = [metric_history(r.run_id, f"{part}/{quantity}") for r in of_mode(main, mode)]
                if histories:
                    middle = np.mean([values for _, values in histories], axis=0)
                    panels.setdefault(title, {})[f"{mode}, {name}"] = (histories[0][0], middle.tolist())
    dashed = {"accuracy": {f"reference, {mode}": value for mode, value in references(study.context, main).items()}}
    title = f"Transfer with {labels} labels: encoder frozen against fine-tuned, means over the draws"
    study.parent.log_figure("curves", plots.side_by_side(panels, "epoch", title, references=dashed), CURVES_CAPTION)

    counts = sorted({result.params["labels_per_class"] for result in results})
    if len(counts) < 2:
        return
    by_count = {count: [r for r in results if r.params["labels_per_class"] == count] for count in counts}

    def against_count(mode: str, metric: str) -> tuple[list[float], ...]:
        groups = [(classes * c, [measured[r.run_id][metric] for r in of_mode(by_count[c], mode)]) for c in counts]
        spreads = [(count, *spread(values)) for count, values in groups if values]
        return [s[0] for s in spreads], [s[1] for s in spreads], [s[2] for s in spreads]

    series = {TITLES[mode]: against_count(mode, "test/accuracy") for mode in MODES}
    series |= {title: against_count(FROZEN, metric) for metric, title in BASELINES.items()}
    title = "Accuracy against the number of labels\n(*): uses the unlabelled training images too"
    figure = plots.curves(series, "labelled images", "test accuracy", title, log_x=True, markers=True)
    study.parent.log_figure(
        "accuracy_against_labels", figure, "Means over draws of the labels; bars: standard deviation."
    )
