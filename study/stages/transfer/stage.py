"""The transfer stage: what a trained encoder is worth with few labels, frozen, fine-tuned, or not trained at all."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from study.checks import UsageError, numbers
from study.config import LABELS_PER_CLASS, TRANSFER_PRESETS, TransferConfig
from study.engine.stage import Context, Outcome, Stage

if TYPE_CHECKING:
    from study.data.dataset import Dataset

EXTENT = ("draws", "labels_per_class", "label_counts", "count_draws")
MOST_DRAWS = MOST_LABELS = 10_000


def plan(config: TransferConfig) -> str:
    main = (
        f"frozen, fine-tuned, from scratch ({config.epochs} epochs) and self-trained ({config.semi_epochs} over"
        f" all images) on {config.draws} draws of {config.labels_per_class} labels a class"
    )
    counts = f"; {config.count_draws} draws of each of {numbers(config.label_counts)}" if config.label_counts else ""
    return main + counts


def run(context: Context) -> Outcome:
    """Train classifiers on a few labels of each class; figures are means over the draws of these labels.

    The recipes are fixed. Of the draws and modes, the classifier with the best validation accuracy is registered.
    """
    from functools import partial

    from models.autoencoder import Autoencoder
    from study.engine.search import Search, choice, integer, named
    from study.engine.study import Candidate, open_study
    from study.stages.transfer.figures import log_figures
    from study.stages.transfer.table import rows
    from study.stages.transfer.trial import MODES, SPREADING, WEAK_JITTER, run_spreading_trial, run_transfer_trial
    from study.training.few_labels import EncodedDataset
    from tracking.errors import StoreError
    from tracking.runs import trial_metrics

    config: TransferConfig = context.config
    counts = label_counts(config, context.dataset)
    labels = list(counts)[-1]
    description = (
        "Classifiers from a few labels on the trained encoder: frozen under a small MLP, fine-tuned, from scratch, and "
        "a network of the judge's build, self-trained on labels that were spread over neighbour graphs of all the "
        "training images: of their latents first, of its own features then."
    )
    fixed = [
        {"mode": mode, "draw": draw, "labels_per_class": count}
        for count, draws in counts.items()
        for draw in range(draws)
        for mode in MODES
    ]
    space = {
        "mode": choice(*MODES),
        "draw": integer(0, MOST_DRAWS),
        "labels_per_class": integer(1, MOST_LABELS),
    }
    encoded = EncodedDataset(context.dataset, context.module("autoencoder", Autoencoder).encoder, WEAK_JITTER)
    module = {
        **context.inputs["autoencoder"].config()["module"],
        "classes": len(context.dataset.classes),
        "hidden": config.hidden,
    }
    spreading = Search(
        {"val/accuracy": "maximize"},
        {**space, "mode": choice(SPREADING)},
        named([{"mode": SPREADING, "draw": draw, "labels_per_class": labels} for draw in range(config.draws)]),
        optional=True,
    )
    with open_study(context, description) as study:
        spread = partial(run_spreading_trial, encoded=encoded, seed_for=context.seed_for)
        spread_results = study.ahead(spreading, spread, SPREADING)
        objective = partial(
            run_transfer_trial, config=config, module=module, encoded=encoded, seed_for=context.seed_for
        )
        results = study.search(Search({"val/accuracy": "maximize"}, space, named(fixed)), objective)
        beside = spread_results()
        main = [result for result in results if result.params["labels_per_class"] == labels]
        if not main:
            raise StoreError(f"no classifier from {labels} labels a class is complete: see the runs")
        best = max(main, key=lambda result: result.values[0])

        def finish(made: Mapping[str, object]) -> Sequence:
            measured = trial_metrics(study.parent)
            log_figures(study, results, main, measured)
            return rows(context, [*main, *beside], measured)

        protocol = {"labels_per_class": str(labels)}
        return study.close(
            {"classifier": Candidate(best, "val/accuracy", "maximize", protocol=protocol, picture="guesses")}, finish
        )


def label_counts(config: TransferConfig, data: Dataset) -> dict[int, int]:
    """The numbers of labelled images of each class that are tried, each with its draws; the main one last.

    Where a class has fewer training images, the default number gives way, and so do the numbers for the figure.

    Raises:
        UsageError: A class has fewer training images than were asked for.
    """
    fewest = int(data.train.labels.bincount().min())
    main = min(config.labels_per_class, fewest)
    if main < config.labels_per_class != LABELS_PER_CLASS:
        asked = config.labels_per_class
        raise UsageError(f"`transfer.labels_per_class <= {fewest} images of a class` must hold, but got {asked}")
    counts = [count for count in config.label_counts if count <= fewest and count != main]
    return {**dict.fromkeys(counts, config.count_draws), main: config.draws}


def check(config: TransferConfig, data: Dataset) -> None:
    log, counts = logging.getLogger("study"), label_counts(config, data)
    *_, main = counts
    if main < config.labels_per_class:
        log.warning(
            "transfer takes %d labels a class in place of %d: a class of %s has no more training images",
            *(main, config.labels_per_class, data.name),
        )
    left_out = sorted(set(config.label_counts) - counts.keys())
    if left_out:
        log.warning(
            "transfer leaves %s labels a class out of its figure: a class of %s has fewer training images",
            *(numbers(left_out), data.name),
        )


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
    identity_excludes=EXTENT,
    version=3,
)
