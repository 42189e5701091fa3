"""The transfer stage: the value of a trained encoder with few labels, frozen, fine-tuned, or not trained at all."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from study.checks import UsageError, numbers
from study.config import LABELS_PER_CLASS, TRANSFER_PRESETS, TransferConfig
from study.engine.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from study.data.dataset import Dataset
    from tracking.registry import Direction

OBJECTIVES: dict[str, Direction] = {"val/accuracy": "maximize"}


def run(context: Context) -> Outcome:
    """Train classifiers on a few labels of each class; figures are means over draws of these labels.

    The recipes are fixed. Of the draws and modes, the classifier with the best validation accuracy is registered.
    """
    from models.autoencoder import Autoencoder
    from study.engine.study import Candidate
    from study.stages.transfer.trial import MODES, SPREADING, WEAK_JITTER, log_figures, rows, spread, train
    from study.training.few_labels import EncodedDataset
    from tracking.errors import StoreError

    counts = label_counts(context.settings, context.dataset, len(context.repeats))
    *_, labels = counts
    description = (
        "Classifiers from a few labels on the trained encoder: frozen under a small MLP, fine-tuned, from scratch, and "
        "a judge's network, self-trained on labels that were spread over neighbour graphs of all training images: "
        "first of their latents, then of its own features."
    )
    encoded = EncodedDataset(context.dataset, context.module("autoencoder", Autoencoder).encoder, WEAK_JITTER)
    with context.open(description) as study:
        draws = [
            {"repeat": draw, "labels_per_class": count} for count, times in counts.items() for draw in range(times)
        ]
        trials = [{"mode": mode, **draw} for draw in draws for mode in MODES]
        spreading = [{"mode": SPREADING, **draw} for draw in draws if draw["labels_per_class"] == labels]
        objective, baseline = (partial(each, context=context, encoded=encoded) for each in (train, spread))
        spread_labels = study.enqueue(spreading, baseline, SPREADING, objectives=OBJECTIVES, optional=True)
        results = study.run(trials, objective, objectives=OBJECTIVES)
        spread_labels()
        main = [result for result in results if result.params["labels_per_class"] == labels]
        if not main:
            raise StoreError(f"no classifier from {labels} labels a class is complete: see the runs")
        best = max(main, key=lambda result: result.values[0])
        protocol = {"labels_per_class": str(labels)}
        candidate = Candidate(best, "val/accuracy", "maximize", protocol=protocol, picture="guesses")

        def finish(_: Mapping[str, object]) -> Sequence:
            log_figures(study, labels)
            return rows(context, study.table().where(labels_per_class=labels))

        return study.close({"classifier": candidate}, finish)


def label_counts(settings: TransferConfig, data: Dataset, repeats: int = 1) -> dict[int, int]:
    """Return the numbers of labelled images of each class with their numbers of draws (repeats); the main number last.

    The main number has all repeats, those for the figure a third. Where a class has fewer training images, the default
    number shrinks to fit, and larger numbers for the figure are dropped.

    Raises:
        UsageError: A class has fewer training images than were asked for.
    """
    asked, fewest = settings.labels_per_class, int(data.train.labels.bincount().min())
    main = min(asked, fewest)
    if main < asked != LABELS_PER_CLASS:
        raise UsageError(f"`transfer.labels_per_class <= {fewest} images of a class` must hold, but got {asked}")
    counts = [count for count in settings.label_counts if count <= fewest and count != main]
    return {**dict.fromkeys(counts, max(1, repeats // 3)), main: repeats}


def check(settings: TransferConfig, data: Dataset) -> None:
    """Warn if a small class changes the numbers of labels; raise as `label_counts` does."""
    *others, main = label_counts(settings, data)
    if main < settings.labels_per_class or set(settings.label_counts) - {*others, main}:
        rule = "a class of %s has too few training images: transfer takes %s labels a class, and for its figure %s"
        logging.getLogger("study").warning(rule, data.name, main, numbers(others) or "no others")


TRANSFER = Stage(
    name="transfer",
    question="What is the trained encoder worth when only a few labels are known? "
    "(*) marks what uses the unlabelled training images too.",
    settings=TransferConfig,
    run=run,
    check=check,
    inputs=("autoencoder",),
    outputs=("classifier",),
    presets=TRANSFER_PRESETS,
    identity_excludes=("labels_per_class", "label_counts"),
)
