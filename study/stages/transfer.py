"""The transfer stage: what a trained encoder is worth with few labels, frozen, fine-tuned, or not trained at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from models.autoencoder import Autoencoder
from study.search import Result, Search, choice, integer
from study.stage import Context, Outcome, Row, Study, settings_of, spread, with_spread
from study.transfer_trial import (
    BATCH_SIZE,
    COPIES,
    FINE_TUNED,
    FROZEN,
    LEARNING_RATES,
    PASSES,
    REFERENCE_TEST,
    SCRATCH,
    SEMI,
    SEMI_BATCH_SIZE,
    Material,
    run_transfer_trial,
)
from tracking import figures
from tracking.runs import metric_history, trial_metrics

MODES = (FROZEN, FINE_TUNED, SCRATCH, SEMI)
REFERENCE_ACCURACY = {FROZEN: 0.40, FINE_TUNED: 0.80}
BASELINES = {
    "baseline/raw_pixels_svm": "raw pixels, RBF SVM",
    "baseline/pca_svm": "PCA, RBF SVM (*)",
    "baseline/latents_1nn": "latents, nearest neighbour (*)",
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

Measured = Mapping[str, Mapping[str, float]]


def run(context: Context) -> Outcome:
    """Train classifiers on a few labels of each class; figures are means over the draws of these labels.

    The recipes are fixed. Of the draws and modes, the classifier with the best validation accuracy is registered.
    """
    config = context.config.transfer
    version = context.input("autoencoder")
    module = version.config()["module"] | {"hidden": config.hidden}
    material = Material(context.dataset, context.rebuild(version, Autoencoder).encoder, module)
    description = (
        "Classifiers from a few labels on the trained encoder: frozen under a small MLP, fine-tuned, from scratch, and "
        "self-trained on labels that were spread over a neighbour graph of the latents of all the training images."
    )
    counts = dict.fromkeys(config.label_counts, config.count_draws) | {config.labels_per_class: config.draws}
    search = Search(
        {"val/accuracy": "maximize"},
        {"mode": choice(*MODES), "draw": integer(0, 10_000), "labels_per_class": integer(1, 10_000)},
        fixed=[
            {"mode": mode, "draw": draw, "labels_per_class": count}
            for count, draws in counts.items()
            for draw in range(draws)
            for mode in MODES
        ],
    )
    settings = settings_of(config, "draws", "labels_per_class", "label_counts", "count_draws") | {
        "learning_rates": LEARNING_RATES,
        "batch_sizes": (BATCH_SIZE, SEMI_BATCH_SIZE),
        "copies": (COPIES, PASSES),
    }
    with context.study("transfer", description, settings, {"autoencoder": version}) as study:
        results = study.search(search, lambda trial: run_transfer_trial(trial, study, material))
        main = [result for result in results if result.params["labels_per_class"] == config.labels_per_class]
        best = max(main, key=lambda result: result.values[0])

        def end() -> Outcome:
            champion = study.promote(best, "classifier", "val/accuracy", "maximize", description).champion
            measured = trial_metrics(study.parent)
            _log_figures(study, results, main, measured)
            return Outcome("transfer", champion, _rows(main, measured, context.references(REFERENCE_ACCURACY)))

        return study.close(end)


def _of_mode(results: Sequence[Result], mode: str) -> list[Result]:
    return sorted((r for r in results if r.params["mode"] == mode), key=lambda result: result.params["draw"])


def _log_figures(study: Study, results: Sequence[Result], main: Sequence[Result], measured: Measured) -> None:
    labels = 10 * main[0].params["labels_per_class"]
    references = study.context.references(REFERENCE_ACCURACY)
    plots: dict[str, dict[str, tuple[Sequence[float], ...]]] = {}
    for quantity, title in (("loss", "cross entropy"), ("accuracy", "accuracy")):
        for mode in (FROZEN, FINE_TUNED):
            for part, name in (("train", "training"), ("val", "validation")):
                histories = [metric_history(r.run_id, f"{part}/{quantity}") for r in _of_mode(main, mode)]
                if histories:
                    middle = np.mean([values for _, values in histories], axis=0)
                    plots.setdefault(title, {})[f"{mode}, {name}"] = (histories[0][0], middle.tolist())
    dashed = {"accuracy": {f"reference, {mode}": value for mode, value in references.items()}}
    title = f"Transfer with {labels} labels: encoder frozen against fine-tuned, means over the draws"
    study.parent.log_figure("curves", figures.panels(plots, "epoch", title, references=dashed), CURVES_CAPTION)

    counts = sorted({result.params["labels_per_class"] for result in results})
    if len(counts) < 2:
        return
    by_count = {count: [r for r in results if r.params["labels_per_class"] == count] for count in counts}

    def against_count(mode: str, metric: str) -> tuple[list[float], ...]:
        groups = [(10 * c, [measured[r.run_id][metric] for r in _of_mode(by_count[c], mode)]) for c in counts]
        spreads = [(count, *spread(values)) for count, values in groups if values]
        return [s[0] for s in spreads], [s[1] for s in spreads], [s[2] for s in spreads]

    series = {TITLES[mode]: against_count(mode, "test/accuracy") for mode in MODES}
    series |= {title: against_count(FROZEN, metric) for metric, title in BASELINES.items()}
    title = "Accuracy against the number of labels\n(*): uses the unlabelled training images too"
    figure = figures.curves(series, "labelled images", "test accuracy", title, log_x=True, markers=True)
    study.parent.log_figure(
        "accuracy_against_labels", figure, "Means over draws of the labels; bars: standard deviation."
    )


def _rows(main: Sequence[Result], measured: Measured, references: Mapping[str, float]) -> tuple[Row, ...]:
    def reference(mode: str) -> str | None:
        return f"{references[mode]:.0%}" if mode in references else None

    rows = [
        Row(
            f"test accuracy, {TITLES[mode]}",
            with_spread([measured[r.run_id]["test/accuracy"] for r in _of_mode(main, mode)], "{:.1%}"),
            reference(mode),
        )
        for mode in MODES
        if _of_mode(main, mode)
    ]
    frozen = _of_mode(main, FROZEN)
    if frozen:
        for metric, title in BASELINES.items():
            values = [measured[r.run_id][metric] for r in frozen]
            rows.append(Row(f"test accuracy, {title}", "-", None, with_spread(values, "{:.1%}")))
    for mode in (FROZEN, FINE_TUNED):
        first = _of_mode(main, mode)[:1]
        rows += [
            Row(
                f"{mode}, one draw, {REFERENCE_TEST} test images",
                f"{measured[result.run_id]['test/accuracy_of_80']:.1%}",
                reference(mode),
            )
            for result in first
        ]
    return tuple(rows)
